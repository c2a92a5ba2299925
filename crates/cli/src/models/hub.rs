//! A hub's file API: which commit a revision is, which files it has, and their bytes from any place on.
//!
//! The calls are those of the Hugging Face hub, which mirrors speak too: `api/models/O/N/revision/R` for the commit,
//! `api/models/O/N/tree/C` for the files with their checksums, `O/N/resolve/C/PATH` for a file. Everything after the first
//! call names the commit, so that a branch that moves meanwhile does not mix two models.
//!
//! Safe against being led elsewhere by the same rules as upstreams ([`penstock_service::outward`]): redirects are followed here, one at a
//! time, each checked; the token goes to the hub itself and to nobody it redirects to; no proxy is taken from the
//! environment.

use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_RANGE, LINK, LOCATION, RANGE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use penstock_policy::address::Reach;
use penstock_service::degradation::upstreams::Secret;
use penstock_service::outward::client::{cause, client_of};
use penstock_service::outward::{Barred, check_url};
use reqwest::{Client, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::command::HubArgs;
use super::selection::{Checksum, Listed};
use super::source::Repository;

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Redirects in a row. Hubs need one for large files, and one more for repositories that were renamed.
const REDIRECTS: usize = 5;

/// Pages of a list of files; hubs put a thousand files on each.
const PAGES: usize = 100;

/// The most bytes of a page or an error that are read.
const LONGEST_PAGE: usize = 16 << 20;

/// A hub, ready to be asked.
#[derive(Clone)]
pub(crate) struct Hub {
    base: Url,
    token: Option<Secret>,
    reach: Reach,
    client: Client,
}

/// Why a hub gave no model.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HubError {
    #[error("no hub is named: say --hub URL, or set PENSTOCK_HUB (HF_ENDPOINT is read too)")]
    Unnamed,
    #[error("'{url}' cannot be the hub's address: {problem}; name one such as https://hub.example.com with --hub URL")]
    Url { url: String, problem: String },
    #[error("the hub's address is barred: {barred}; --hub-reach loopback or private widens the reach")]
    Barred { barred: Barred },
    #[error("no TLS client can be made: {0}")]
    Client(#[source] reqwest::Error),
    #[error("the hub at {hub} cannot be reached: {cause}; what has arrived is kept, the same command goes on with it")]
    Unreachable { hub: String, cause: String },
    #[error("the hub redirects {what} to where this program does not go: {problem}")]
    Redirect { what: String, problem: String },
    #[error(
        "the hub refuses {what} ({status}){}: {}", words(said),
        if *has_token {
            "the token may not read it; ask its owner for access, or set PENSTOCK_HUB_TOKEN to another token"
        } else {
            "set PENSTOCK_HUB_TOKEN (HF_TOKEN is read too) to a token that may read it"
        }
    )]
    Refused { what: String, status: u16, said: String, has_token: bool },
    #[error("the hub has no {what}{}: check its name, and the revision behind @", words(said))]
    Absent { what: String, said: String },
    #[error("the hub answers {status} to {what}{}: try again later", words(said))]
    Answer { what: String, status: u16, said: String, retry_after: Option<Duration> },
    #[error("the hub's answer about {what} cannot be read: {cause}")]
    Unreadable { what: String, cause: String },
}

fn words(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(", '{said}'") }
}

impl HubError {
    /// Whether trying again may help, and after how long at the hub's own word.
    pub(crate) fn may_pass(&self) -> Option<Option<Duration>> {
        match self {
            Self::Unreachable { .. } => Some(None),
            Self::Answer { retry_after, .. } => Some(*retry_after),
            Self::Unnamed
            | Self::Url { .. }
            | Self::Barred { .. }
            | Self::Client(_)
            | Self::Redirect { .. }
            | Self::Refused { .. }
            | Self::Absent { .. }
            | Self::Unreadable { .. } => None,
        }
    }
}

/// Bytes of a file on their way.
pub(crate) struct Opened {
    pub(crate) response: Response,
    /// The place of the first byte: what was asked for, or 0 if the server cannot begin there.
    pub(crate) from: u64,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    oid: String,
    size: u64,
}

impl Hub {
    /// The hub that the command line or the environment names; connects to nothing yet.
    ///
    /// # Errors
    /// [`HubError`]: none is named, or its address is not one to connect to.
    pub(crate) fn new(arguments: &HubArgs) -> Result<Self, HubError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
        let named = arguments.hub.clone().or_else(|| variable("HF_ENDPOINT")).ok_or(HubError::Unnamed)?;
        let token = variable("PENSTOCK_HUB_TOKEN").or_else(|| variable("HF_TOKEN"));
        let mut base: Url =
            named.parse().map_err(|error| HubError::Url { url: named.clone(), problem: format!("{error}") })?;
        let reach = arguments.hub_reach;
        check_url(base.as_str(), reach).map_err(|barred| HubError::Barred { barred })?;
        if base.cannot_be_a_base() || base.query().is_some() || base.fragment().is_some() {
            return Err(HubError::Url { url: named, problem: "it has a query or a fragment".to_owned() });
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let client = client_of(reach).read_timeout(SILENCE).build().map_err(HubError::Client)?;
        Ok(Self { base, token: token.map(|token| Secret::new(token.trim())), reach, client })
    }

    /// Its address.
    pub(crate) fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The commit that a revision is now.
    ///
    /// # Errors
    /// [`HubError`].
    pub(crate) async fn commit(&self, of: &Repository) -> Result<String, HubError> {
        let what = of.to_string();
        let url = self.url(&["api", "models", &of.owner, &of.name, "revision", &of.revision]);
        let Revision { sha } = parsed(&what, self.get(&what, url, None).await?).await?.0;
        if (7..=64).contains(&sha.len()) && sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(sha);
        }
        Err(HubError::Unreadable { what, cause: format!("'{sha}' is no commit") })
    }

    /// The files of a commit, with their checksums.
    ///
    /// # Errors
    /// [`HubError`].
    pub(crate) async fn files(&self, of: &Repository, commit: &str) -> Result<Vec<Listed>, HubError> {
        let what = format!("the files of {of}");
        let mut next = Some(self.url(&["api", "models", &of.owner, &of.name, "tree", commit]));
        if let Some(first) = &mut next {
            first.set_query(Some("recursive=true"));
        }
        let mut files = Vec::new();
        for _ in 0..PAGES {
            let Some(url) = next.take() else { return Ok(files) };
            let (page, headers): (Vec<Entry>, HeaderMap) =
                parsed(&what, self.get(&what, url.clone(), None).await?).await?;
            files.extend(page.into_iter().filter(|entry| entry.kind == "file").map(listed));
            next = next_page(&headers).and_then(|link| url.join(&link).ok());
        }
        Err(HubError::Unreadable { what, cause: format!("it goes on for more than {PAGES} pages") })
    }

    /// A file's bytes from the place `from` on.
    ///
    /// # Errors
    /// [`HubError`].
    pub(crate) async fn open(&self, of: &Repository, commit: &str, path: &str, from: u64) -> Result<Opened, HubError> {
        let mut parts = vec![of.owner.as_str(), &of.name, "resolve", commit];
        parts.extend(path.split('/'));
        let response = self.get(path, self.url(&parts), Some(from)).await?;
        let from = match response.status() {
            StatusCode::PARTIAL_CONTENT => begins_at(response.headers()).unwrap_or(from),
            _ => 0,
        };
        Ok(Opened { response, from })
    }

    fn url(&self, parts: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Asks for a URL, and where that leads.
    async fn get(&self, what: &str, mut url: Url, from: Option<u64>) -> Result<Response, HubError> {
        for _ in 0..=REDIRECTS {
            let mut request = self.client.get(url.clone());
            if let Some(token) = self.token.as_ref().filter(|_| url.origin() == self.base.origin()) {
                request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
            }
            if let Some(from) = from.filter(|from| *from > 0) {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let unreachable = |error| HubError::Unreachable { hub: self.address().to_owned(), cause: cause(&error) };
            let response = request.send().await.map_err(unreachable)?;
            if !response.status().is_redirection() {
                return self.judged(what, response).await;
            }
            url = self.led(what, &url, response.headers())?;
        }
        Err(HubError::Redirect { what: what.to_owned(), problem: format!("more than {REDIRECTS} times in a row") })
    }

    /// Where a redirect leads, if that is a place to go.
    fn led(&self, what: &str, from: &Url, headers: &HeaderMap) -> Result<Url, HubError> {
        let barred = |problem: String| HubError::Redirect { what: what.to_owned(), problem };
        let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
        let location = location.ok_or_else(|| barred("it does not say where".to_owned()))?;
        let to = from.join(location).map_err(|error| barred(error.to_string()))?;
        if from.scheme() == "https" && to.scheme() != "https" {
            return Err(barred("from https to a connection that others can read".to_owned()));
        }
        check_url(to.as_str(), self.reach).map_err(|problem| barred(problem.to_string()))?;
        Ok(to)
    }

    async fn judged(&self, what: &str, response: Response) -> Result<Response, HubError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let header = |name: &str| response.headers().get(name).and_then(|text| text.to_str().ok()).map(str::to_owned);
        let said = header("x-error-message").unwrap_or_default().chars().take(200).collect();
        let retry_after = header(RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok());
        let (what, status) = (what.to_owned(), status.as_u16());
        Err(match status {
            401 | 403 => HubError::Refused { what, status, said, has_token: self.token.is_some() },
            404 | 410 => HubError::Absent { what, said },
            _ => HubError::Answer { what, status, said, retry_after: retry_after.map(Duration::from_secs) },
        })
    }
}

async fn parsed<T: DeserializeOwned>(what: &str, mut response: Response) -> Result<(T, HeaderMap), HubError> {
    let unreadable = |cause: String| HubError::Unreadable { what: what.to_owned(), cause };
    let headers = std::mem::take(response.headers_mut());
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| unreadable(cause(&error)))? {
        body.extend_from_slice(&piece);
        if body.len() > LONGEST_PAGE {
            return Err(unreadable(format!("it is longer than {LONGEST_PAGE} bytes")));
        }
    }
    Ok((serde_json::from_slice(&body).map_err(|error| unreadable(error.to_string()))?, headers))
}

fn listed(entry: Entry) -> Listed {
    let (bytes, checksum) = match entry.lfs {
        Some(Large { oid, size }) => (size, Checksum::Sha256(oid.to_ascii_lowercase())),
        None => (entry.size, Checksum::GitBlob(entry.oid.to_ascii_lowercase())),
    };
    Listed { path: entry.path, bytes, checksum: Some(checksum) }
}

/// The next page of a list (RFC 8288).
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok()).flat_map(|links| links.split(','));
    links.filter(|link| link.contains("rel=\"next\"") || link.contains("rel=next")).find_map(|link| {
        let (_, rest) = link.split_once('<')?;
        Some(rest.split_once('>')?.0.to_owned())
    })
}

/// The first place of `content-range: bytes 100-199/200`.
fn begins_at(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes")?;
    range.trim().split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn pages_and_ranges_are_read_from_their_headers() {
        let mut headers = HeaderMap::new();
        assert_eq!((next_page(&headers), begins_at(&headers)), (None, None));
        headers.insert(
            LINK,
            HeaderValue::from_static("<https://h/p?cursor=a>; rel=\"prev\", </p?cursor=b>; rel=\"next\""),
        );
        headers.insert(CONTENT_RANGE, HeaderValue::from_static("bytes 100-199/200"));
        assert_eq!((next_page(&headers).as_deref(), begins_at(&headers)), (Some("/p?cursor=b"), Some(100)));
    }

    #[test]
    fn a_path_or_a_revision_cannot_leave_its_place_in_a_url() {
        let arguments = HubArgs { hub: Some("http://127.0.0.1:1/mirror".into()), hub_reach: Reach::Loopback };
        let hub = Hub::new(&arguments).unwrap();
        let url = hub.url(&["o", "n", "resolve", "refs/pr/1", "a b?c#d"]);
        assert_eq!(url.as_str(), "http://127.0.0.1:1/mirror/o/n/resolve/refs%2Fpr%2F1/a%20b%3Fc%23d");
    }

    #[test]
    fn a_hub_out_of_reach_is_not_asked() {
        for (url, reach) in [
            ("http://127.0.0.1:1", Reach::Public),
            ("http://hub.example.com", Reach::Private),
            ("https://169.254.169.254", Reach::Private),
            ("hub.example.com", Reach::Public),
            ("https://user@hub.example.com", Reach::Public),
        ] {
            assert!(Hub::new(&HubArgs { hub: Some(url.into()), hub_reach: reach }).is_err(), "{url}");
        }
    }
}
