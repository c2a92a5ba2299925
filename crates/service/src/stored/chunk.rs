//! The stored form of what a chunk holds besides its place and its token ids: the same on SQLite and DynamoDB.
//!
//! Words of the only choice are stored as plain text, which is the first form there was and what most chunks are. The
//! rest (another choice, other channels, log probabilities) is JSON beside it, with a version of its own; a chunk that
//! has it keeps no plain text, so that nobody who overlooks the JSON shows a part for the whole.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ports::{BlobKey, Likelihood, Part, TokenLogprob, VectorPlace, Vectors};

/// The version of words, and that of vectors, which readers of the former do not know.
const WORDS: u32 = 2;
const VECTORS: u32 = 3;

/// What a chunk says, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredWords {
    /// The plain text.
    pub text: String,
    /// Everything, as JSON, if a plain text is not everything.
    pub more: Option<String>,
}

/// What a chunk says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Words {
    /// Which of the answers it belongs to, from 0.
    pub choice: u32,
    /// The parts it shows.
    pub parts: Vec<Part>,
    /// How likely its tokens were, if asked for.
    pub logprobs: Vec<TokenLogprob>,
}

#[derive(Serialize, Deserialize)]
struct More {
    v: u32,
    #[serde(rename = "c")]
    choice: u32,
    #[serde(rename = "p", default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<StoredPart>,
    #[serde(rename = "l", default, skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<StoredLogprob>,
}

#[derive(Serialize, Deserialize)]
enum StoredPart {
    #[serde(rename = "t")]
    Content(String),
    #[serde(rename = "r")]
    Reasoning(String),
    #[serde(rename = "f")]
    Call(String, String),
    #[serde(rename = "e")]
    Vectors {
        #[serde(rename = "t")]
        tokens: u32,
        #[serde(rename = "d")]
        dimensions: u32,
        #[serde(rename = "b", skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
        #[serde(rename = "k", skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
}

#[derive(Serialize, Deserialize)]
struct StoredLogprob(StoredToken, Vec<StoredToken>);

/// The token as text if it is whole characters, else as bytes.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredToken {
    Text(String, f32),
    Bytes(Vec<u8>, f32),
}

/// Words as they are stored.
#[must_use]
pub fn stored(words: &Words) -> StoredWords {
    if words.choice == 0 && words.logprobs.is_empty() {
        let plain: Option<String> = words
            .parts
            .iter()
            .map(|part| match part {
                Part::Content(text) => Some(text.as_str()),
                Part::Reasoning(_) | Part::Call { .. } | Part::Vectors(_) => None,
            })
            .collect();
        if let Some(text) = plain {
            return StoredWords { text, more: None };
        }
    }
    let more = More {
        v: if words.parts.iter().any(|part| matches!(part, Part::Vectors(_))) { VECTORS } else { WORDS },
        choice: words.choice,
        parts: words.parts.iter().map(StoredPart::from).collect(),
        logprobs: words.logprobs.iter().map(StoredLogprob::from).collect(),
    };
    StoredWords { text: String::new(), more: serde_json::to_string(&more).ok() }
}

/// Back again; `None` if it is damaged or a newer program wrote it.
#[must_use]
pub fn words(stored: StoredWords) -> Option<Words> {
    let Some(more) = stored.more else {
        let parts = if stored.text.is_empty() { Vec::new() } else { vec![Part::Content(stored.text)] };
        return Some(Words { parts, ..Words::default() });
    };
    let more = serde_json::from_str::<More>(&more).ok().filter(|more| (WORDS..=VECTORS).contains(&more.v))?;
    Some(Words {
        choice: more.choice,
        parts: more.parts.into_iter().map(StoredPart::part).collect::<Option<_>>()?,
        logprobs: more.logprobs.into_iter().map(TokenLogprob::from).collect(),
    })
}

impl From<&Part> for StoredPart {
    fn from(part: &Part) -> Self {
        match part {
            Part::Content(text) => Self::Content(text.clone()),
            Part::Reasoning(text) => Self::Reasoning(text.clone()),
            Part::Call { name, arguments } => Self::Call(name.clone(), arguments.clone()),
            Part::Vectors(Vectors { tokens, dimensions, place }) => {
                let (base64, key) = match place {
                    VectorPlace::Inline(bytes) => (Some(STANDARD.encode(bytes)), None),
                    VectorPlace::Blob(key) => (None, Some(key.as_str().to_owned())),
                };
                Self::Vectors { tokens: *tokens, dimensions: *dimensions, base64, key }
            }
        }
    }
}

impl StoredPart {
    /// Back again; `None` if it is damaged.
    fn part(self) -> Option<Part> {
        Some(match self {
            Self::Content(text) => Part::Content(text),
            Self::Reasoning(text) => Part::Reasoning(text),
            Self::Call(name, arguments) => Part::Call { name, arguments },
            Self::Vectors { tokens, dimensions, base64, key } => {
                let place = match (base64, key) {
                    (Some(text), None) => VectorPlace::Inline(Bytes::from(STANDARD.decode(text).ok()?)),
                    (None, Some(key)) => VectorPlace::Blob(BlobKey::new(&key)?),
                    (Some(_), Some(_)) | (None, None) => return None,
                };
                Part::Vectors(Vectors { tokens, dimensions, place })
            }
        })
    }
}

impl From<&TokenLogprob> for StoredLogprob {
    fn from(logprob: &TokenLogprob) -> Self {
        Self(StoredToken::from(&logprob.chosen), logprob.top.iter().map(StoredToken::from).collect())
    }
}

impl From<StoredLogprob> for TokenLogprob {
    fn from(StoredLogprob(chosen, top): StoredLogprob) -> Self {
        Self { chosen: chosen.into(), top: top.into_iter().map(Likelihood::from).collect() }
    }
}

impl From<&Likelihood> for StoredToken {
    fn from(likelihood: &Likelihood) -> Self {
        match std::str::from_utf8(&likelihood.bytes) {
            Ok(text) => Self::Text(text.to_owned(), likelihood.logprob),
            Err(_) => Self::Bytes(likelihood.bytes.clone(), likelihood.logprob),
        }
    }
}

impl From<StoredToken> for Likelihood {
    fn from(token: StoredToken) -> Self {
        match token {
            StoredToken::Text(text, logprob) => Self { bytes: text.into_bytes(), logprob },
            StoredToken::Bytes(bytes, logprob) => Self { bytes, logprob },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_form_is_read_and_what_it_could_say_is_written_in_it() {
        let first = StoredWords { text: "naïve".to_owned(), more: None };
        let read = words(first.clone()).unwrap();
        assert_eq!(read, Words { parts: vec![Part::Content("naïve".to_owned())], ..Words::default() });
        assert_eq!(stored(&read), first);
        assert_eq!(words(stored(&Words::default())), Some(Words::default()));
    }

    #[test]
    fn a_form_from_tomorrow_is_refused() {
        let text = String::new();
        let more = Some(r#"{"v":4,"c":0}"#.to_owned());
        assert_eq!(words(StoredWords { text, more }), None);
    }

    fn part() -> impl Strategy<Value = Part> {
        prop_oneof![
            "\\PC{1,9}".prop_map(Part::Content),
            "\\PC{1,9}".prop_map(Part::Reasoning),
            ("[a-z]{1,5}", "\\PC{0,9}").prop_map(|(name, arguments)| Part::Call { name, arguments }),
            (any::<u32>(), any::<u32>(), place()).prop_map(|(tokens, dimensions, place)| Part::Vectors(Vectors {
                tokens,
                dimensions,
                place
            })),
        ]
    }

    fn place() -> impl Strategy<Value = VectorPlace> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..30).prop_map(|bytes| VectorPlace::Inline(bytes.into())),
            "res/[a-z0-9]{1,9}".prop_map(|key| VectorPlace::Blob(BlobKey::new(&key).unwrap())),
        ]
    }

    fn token() -> impl Strategy<Value = Likelihood> {
        (proptest::collection::vec(any::<u8>(), 0..5), -30.0f32..0.0)
            .prop_map(|(bytes, logprob)| Likelihood { bytes, logprob })
    }

    proptest! {
        #[test]
        fn words_read_back_as_they_were_written(
            choice in 0u32..8, said in proptest::collection::vec(part(), 0..6),
            logprobs in proptest::collection::vec((token(), proptest::collection::vec(token(), 0..3)), 0..3),
        ) {
            let mut parts = Vec::new();
            said.into_iter().for_each(|part| Part::append(&mut parts, part));
            let logprobs = logprobs.into_iter().map(|(chosen, top)| TokenLogprob { chosen, top }).collect();
            let before = Words { choice, parts, logprobs };
            prop_assert_eq!(words(stored(&before)), Some(before));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,60}") {
            let _ = words(StoredWords { text: String::new(), more: Some(text) });
        }
    }
}
