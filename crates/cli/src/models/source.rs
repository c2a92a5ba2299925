//! Where a model comes from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// How a repository on a hub is written.
const SCHEME: &str = "hf:";

/// The revision where none is named.
const USUAL_REVISION: &str = "main";

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A repository on a hub.
    Hub(Repository),
}

/// A repository at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repository {
    pub(crate) owner: String,
    pub(crate) name: String,
    /// A branch, a tag or a commit.
    pub(crate) revision: String,
}

/// A text that names no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' names no repository: write hf:OWNER/NAME or hf:OWNER/NAME@REVISION")]
pub(crate) struct InvalidSource(String);

impl FromStr for Source {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return Ok(Self::Folder(PathBuf::from(text)));
        };
        let (path, revision) = rest.split_once('@').unwrap_or((rest, USUAL_REVISION));
        let parts = path.split_once('/').filter(|(owner, name)| is_part(owner) && is_part(name));
        let revision = Some(revision).filter(|revision| {
            !revision.is_empty() && revision.len() <= 255 && revision.bytes().all(|byte| byte.is_ascii_graphic())
        });
        match (parts, revision) {
            (Some((owner, name)), Some(revision)) => Ok(Self::Hub(Repository {
                owner: owner.to_owned(),
                name: name.to_owned(),
                revision: revision.to_owned(),
            })),
            _ => Err(InvalidSource(text.to_owned())),
        }
    }
}

/// Whether a text may be an owner or a repository: what hubs allow, and nothing that means something in a path.
fn is_part(text: &str) -> bool {
    (1..=96).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.owner, self.name)?;
        if self.revision == USUAL_REVISION { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_written_as_it_is_read() {
        for text in ["hf:acme/tiny", "hf:acme/tiny-1.5B_x@v2", "hf:a/b@refs/pr/1"] {
            let Ok(Source::Hub(repository)) = text.parse::<Source>() else { panic!("{text}") };
            assert_eq!(repository.to_string(), text);
        }
        assert_eq!("hf:a/b@main".parse::<Source>(), "hf:a/b".parse());
    }

    #[test]
    fn everything_else_is_a_folder_or_refused_with_what_to_write() {
        assert_eq!("./x".parse(), Ok(Source::Folder("./x".into())));
        for text in
            ["hf:", "hf:a", "hf:a/", "hf:/b", "hf:a/b/c", "hf:../b", "hf:a/..", "hf:a/b@", "hf:a b/c", "hf:a/b@x y"]
        {
            assert!(text.parse::<Source>().unwrap_err().to_string().contains("hf:OWNER/NAME"), "{text}");
        }
    }
}
