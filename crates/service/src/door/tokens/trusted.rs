//! The issuers that are trusted, with their keys at hand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, dangerous, decode, decode_header};
use penstock_policy::classes::Class;
use penstock_policy::key_set::{KeySet, Look, PAUSE};
use penstock_policy::time::Timestamp;
use penstock_policy::token::{Claims, believe};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::http_keys::{HttpKeys, NoClient};
use super::issuer::{IssuerConfig, SigningAlgorithm};
use super::key_ring::KeyRing;
use crate::ports::{Bearer, KeyFetch, TokenError, Tokens};

/// The longest token that is looked at, in bytes: API Gateway takes 10 KB of headers.
const LONGEST: usize = 8 << 10;

/// An issuer, and who fetches its keys.
pub struct Issuer {
    config: IssuerConfig,
    source: Box<dyn KeyFetch>,
    known: Mutex<Known>,
    /// Whoever fetches holds it.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    keys: Arc<KeyRing>,
    set: KeySet,
}

impl Issuer {
    /// An issuer whose keys `source` fetches.
    #[must_use]
    pub fn new(config: IssuerConfig, source: Box<dyn KeyFetch>) -> Self {
        Self { config, source, known: Mutex::default(), fetching: tokio::sync::Mutex::new(()) }
    }

    fn look(&self, wanted: &Wanted, now: Timestamp) -> (Look, Option<DecodingKey>) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = known.keys.choose(wanted.id.as_deref(), wanted.algorithm).cloned();
        (known.set.look(key.is_some(), now), key)
    }

    /// The key that a token names, fetched if it must be.
    async fn key(&self, wanted: &Wanted, now: Timestamp) -> Result<DecodingKey, TokenError> {
        match self.look(wanted, now).0 {
            Look::Refresh => {
                if let Ok(turn) = self.fetching.try_lock() {
                    self.fetch(now).await;
                    drop(turn);
                }
            }
            Look::Fetch => {
                let turn = self.fetching.lock().await;
                // Whoever was first has fetched for all.
                if self.look(wanted, now).0 == Look::Fetch {
                    self.fetch(now).await;
                }
                drop(turn);
            }
            Look::Use | Look::Unknown | Look::Wait(_) => {}
        }
        match self.look(wanted, now) {
            (Look::Use | Look::Refresh, Some(key)) => Ok(key),
            (Look::Unknown, _) => Err(refused("its key is none of its issuer's")),
            (Look::Wait(wait), _) => Err(TokenError::KeysUnavailable { wait }),
            (Look::Use | Look::Refresh | Look::Fetch, _) => Err(TokenError::KeysUnavailable { wait: PAUSE }),
        }
    }

    async fn fetch(&self, now: Timestamp) {
        let fetched = self.source.fetch().await;
        let read = fetched.map_err(|error| error.to_string()).and_then(|text| {
            KeyRing::read(&text).map_err(|error| format!("{} holds no set of keys: {error}", self.config.jwks_url))
        });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.set = known.set.after_fetch(read.is_ok(), now);
        match read {
            Ok(keys) => known.keys = Arc::new(keys),
            Err(error) => tracing::warn!(issuer = self.config.issuer, error, "an issuer's keys are not known anew"),
        }
    }

    /// For whom a token speaks, and how urgently it may.
    fn bearer(&self, said: &Map<String, Value>, claims: Claims) -> Result<Bearer, TokenError> {
        let text = |name: &str| said.get(name).and_then(Value::as_str);
        let claimed = text(&self.config.tenant_claim);
        let tenant = claimed.and_then(|claimed| self.config.tenant(claimed)).ok_or_else(|| {
            refused(&format!("its claim '{}' names no tenant that it may speak for", self.config.tenant_claim))
        })?;
        let ceiling = match &self.config.class_claim {
            None => self.config.ceiling,
            Some(name) => {
                let class = text(name).and_then(Class::from_name);
                let class = class.ok_or_else(|| refused(&format!("its claim '{name}' must be p0, p1, p2 or p3")))?;
                Class::granted(class, self.config.ceiling)
            }
        };
        Ok(Bearer { tenant, ceiling, claims })
    }
}

/// The key that a token's header asks for.
struct Wanted {
    id: Option<String>,
    algorithm: Algorithm,
}

/// The issuers that a deployment trusts.
pub struct TrustedIssuers {
    issuers: BTreeMap<String, Issuer>,
}

#[derive(Deserialize)]
struct NamesItsIssuer {
    iss: String,
}

impl TrustedIssuers {
    /// Trusts these issuers.
    #[must_use]
    pub fn new(issuers: impl IntoIterator<Item = Issuer>) -> Self {
        Self { issuers: issuers.into_iter().map(|issuer| (issuer.config.issuer.clone(), issuer)).collect() }
    }

    /// Trusts issuers whose keys are fetched from their URLs; connects to none yet. `None` if there are none to trust.
    ///
    /// # Errors
    /// [`NoClient`] if this machine has no certificates to trust.
    pub fn over_http(configs: Vec<IssuerConfig>) -> Result<Option<Arc<dyn Tokens>>, NoClient> {
        if configs.is_empty() {
            return Ok(None);
        }
        let issuer = |config: IssuerConfig| {
            let keys = HttpKeys::new(&config)?;
            Ok(Issuer::new(config, Box::new(keys)))
        };
        let issuers: Vec<Issuer> = configs.into_iter().map(issuer).collect::<Result<_, NoClient>>()?;
        Ok(Some(Arc::new(Self::new(issuers))))
    }
}

#[async_trait]
impl Tokens for TrustedIssuers {
    async fn read(&self, token: &str, now: Timestamp) -> Result<Bearer, TokenError> {
        let malformed = || refused("it is no signed token that can be read");
        if token.len() > LONGEST {
            return Err(malformed());
        }
        let Header { alg: algorithm, kid: id, crit, .. } = decode_header(token).map_err(|_| malformed())?;
        if crit.is_some() {
            return Err(refused("its header demands what is not known here ('crit')"));
        }
        // Not believed yet: it only says whose keys to try.
        let NamesItsIssuer { iss } = dangerous::insecure_decode_claims(token).map_err(|_| malformed())?;
        let issuer = self.issuers.get(&iss).ok_or_else(|| refused("its issuer is none of those trusted here"))?;
        if !SigningAlgorithm::from_name(&format!("{algorithm:?}"))
            .is_some_and(|named| issuer.config.algorithms.contains(&named))
        {
            return Err(refused("it is signed in a way that is not accepted of its issuer"));
        }
        let key = issuer.key(&Wanted { id, algorithm }, now).await?;
        let said = decode::<Map<String, Value>>(token, &key, &signature_alone(algorithm));
        let said = said.map_err(|_| refused("its signature is wrong"))?.claims;
        let claims = claims(&said).ok_or_else(malformed)?;
        believe(&claims, &issuer.config.issuer, &issuer.config.audience, now)
            .map_err(|why| refused(&why.to_string()))?;
        issuer.bearer(&said, claims)
    }
}

/// Checks a signature and nothing else: the library would ask the system's clock, and what a token says is judged by
/// policy.
fn signature_alone(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    validation
}

/// The registered claims (RFC 7519, 4.1); `None` if one has the wrong type.
fn claims(said: &Map<String, Value>) -> Option<Claims> {
    let moment = |name: &str| match said.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(value) => numeric_date(value).map(Some),
    };
    let texts = |value: &Value| match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(several) => several.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    };
    Some(Claims {
        issuer: said.get("iss").and_then(Value::as_str).map(str::to_owned),
        audience: said.get("aud").map_or(Some(Vec::new()), texts)?,
        expires: moment("exp")?,
        not_before: moment("nbf")?,
        issued: moment("iat")?,
    })
}

/// Seconds since the epoch, whole or not. What is beyond all calendars is taken for its end.
fn numeric_date(value: &Value) -> Option<Timestamp> {
    if let Some(secs) = value.as_i64() {
        return Some(Timestamp::from_millis(secs.saturating_mul(1000)));
    }
    let secs = value.as_f64().filter(|secs| secs.is_finite())?;
    #[expect(clippy::cast_possible_truncation, reason = "the conversion saturates, which is what is wanted")]
    let millis = (secs * 1000.0).floor() as i64;
    Some(Timestamp::from_millis(millis))
}

fn refused(why: &str) -> TokenError {
    TokenError::Refused(why.to_owned())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use serde_json::json;

    use super::*;
    use crate::ports::NoKeys;

    /// RFC 7515, A.3: signed by others long ago, with another program.
    const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvb\
        S9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

    struct Published;

    #[async_trait]
    impl KeyFetch for Published {
        async fn fetch(&self) -> Result<Vec<u8>, NoKeys> {
            Ok(KEYS.into())
        }
    }

    fn read(token: &str, algorithms: &str) -> String {
        let config = json!([{"issuer": "joe", "audience": "us", "jwks_url": "https://joe.example/keys",
            "algorithms": [algorithms]}]);
        let config = IssuerConfig::list(&config.to_string()).unwrap().remove(0);
        let trusted = TrustedIssuers::new([Issuer::new(config, Box::new(Published))]);
        let then = Timestamp::from_millis(1_300_819_000_000);
        trusted.read(token, then).now_or_never().unwrap().unwrap_err().to_string()
    }

    #[test]
    fn the_signature_of_the_standards_own_example_is_good_and_one_letter_changed_is_not() {
        assert!(read(TOKEN, "ES256").contains("'aud'"), "the example is for nobody in particular");
        let changed = TOKEN.replace("DtEhU3ljbEg8", "DtEhU3ljbEg9");
        assert!(read(&changed, "ES256").contains("signature"));
        assert!(read(TOKEN, "RS256").contains("not accepted of its issuer"));
    }

    #[test]
    fn moments_may_have_fractions_and_need_be_numbers() {
        let at = |value: Value| numeric_date(&value).map(Timestamp::as_millis);
        assert_eq!(at(json!(12)), Some(12_000));
        assert_eq!(at(json!(12.5)), Some(12_500));
        assert_eq!(at(json!(1e300)), Some(i64::MAX));
        assert_eq!(at(json!("12")), None);
        let mut said = Map::new();
        said.insert("exp".to_owned(), json!("tomorrow"));
        assert_eq!(claims(&said), None);
    }
}
