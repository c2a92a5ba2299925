//! A kept answer and its stored form.
//!
//! An entry holds all that telling the answer needs, so that a hit costs one read: what was said, chunk by chunk (a
//! stream of it has the pieces that the first one had), how it ended, and its life. A failure that would repeat itself is
//! kept the same way. Stored as JSON with a version behind a byte that says how: as it is, compressed, or the key of the
//! blob that holds it.

use std::time::Duration;

use bytes::Bytes;
use penstock_policy::cache::Life;
use penstock_policy::id::{Epoch, JobId};
use penstock_policy::job::Position;
use penstock_policy::time::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ports::{Answer, BlobKey, Chunk, ErrorVerdict, Part};
use crate::stored::chunk::{self, StoredWords};
use crate::stored::record::{outcome_from, outcome_text};

const VERSION: u32 = 1;

/// Smaller entries gain too little from compression.
const COMPRESSED_FROM: usize = 2_048;

/// zlib's own trade-off between time and size.
const LEVEL: u8 = 6;

/// No answer we keep is larger; a longer text is damage.
const MOST_BYTES: usize = 64 << 20;

/// What answers a request without a run.
pub(crate) type KeptSaid = Result<(Vec<Chunk>, Answer), ErrorVerdict>;

/// A kept answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kept {
    /// The job that made it.
    pub(crate) job: JobId,
    /// From when to when it is fresh.
    pub(crate) life: Life,
    /// How long it was to live, jitter aside.
    pub(crate) ttl: Duration,
    /// What it says.
    pub(crate) said: KeptSaid,
}

/// What an entry's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// The answer itself.
    Here(Bytes),
    /// A blob of this name holds it.
    Blob(BlobKey),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    v: u32,
    jid: String,
    made: i64,
    ends: i64,
    ttl: u64,
    out: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    said: Vec<StoredChunk>,
}

/// The plain text, or what a plain text does not hold.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredChunk {
    Plain(String),
    More { more: String },
}

impl Kept {
    /// About how many bytes it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        const EACH: usize = 160;
        let Ok((chunks, _)) = &self.said else { return EACH };
        let of_chunk = |chunk: &Chunk| {
            let parts: usize = chunk.words.parts.iter().map(|part| part.bytes().saturating_add(EACH / 4)).sum();
            let logprobs: usize = chunk.words.logprobs.iter().map(|token| token.bytes().saturating_mul(4)).sum();
            EACH.saturating_add(parts).saturating_add(logprobs)
        };
        chunks.iter().map(of_chunk).fold(EACH, usize::saturating_add)
    }

    /// A digest of what it says, in which an answer and its refresh are equal if they say the same, in whatever pieces.
    pub(crate) fn digest(&self) -> u64 {
        let mut digest = Sha256::new();
        match &self.said {
            Err(verdict) => digest.update(format!("{} {}", verdict.status, verdict.code)),
            Ok((chunks, answer)) => {
                digest.update(format!("{:?}", answer.reasons));
                let choices = u32::try_from(answer.reasons.len()).unwrap_or(u32::MAX);
                for choice in 0..choices {
                    let mut parts = Vec::new();
                    let of_choice = chunks.iter().filter(|chunk| chunk.words.choice == choice);
                    of_choice
                        .flat_map(|chunk| chunk.words.parts.iter().cloned())
                        .for_each(|part| Part::append(&mut parts, part));
                    digest.update(format!("{choice} {parts:?}"));
                }
            }
        }
        digest.finalize().iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
    }

    /// Its stored form; `None` if it cannot be written down.
    pub(crate) fn stored(&self) -> Option<Bytes> {
        let (chunks, outcome) = match &self.said {
            Ok((chunks, answer)) => (chunks.as_slice(), outcome_text(&Ok(answer.clone()))),
            Err(verdict) => (&[][..], outcome_text(&Err(verdict.clone()))),
        };
        let says = |chunk: &&Chunk| !chunk.words.parts.is_empty() || !chunk.words.logprobs.is_empty();
        let stored = Stored {
            v: VERSION,
            jid: self.job.to_string(),
            made: self.life.made.as_millis(),
            ends: self.life.ends.as_millis(),
            ttl: u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX),
            out: outcome,
            said: chunks.iter().filter(says).map(StoredChunk::from).collect(),
        };
        let json = serde_json::to_vec(&stored).ok()?;
        Some(if json.len() < COMPRESSED_FROM {
            tagged(b'j', &json)
        } else {
            tagged(b'z', &miniz_oxide::deflate::compress_to_vec_zlib(&json, LEVEL))
        })
    }

    /// Reads an answer back; `None` if it is damaged or a newer program wrote it.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let stored: Stored = match tag {
            b'j' => serde_json::from_slice(rest).ok()?,
            b'z' => {
                let json = miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(rest, MOST_BYTES).ok()?;
                serde_json::from_slice(&json).ok()?
            }
            _ => return None,
        };
        if stored.v != VERSION {
            return None;
        }
        let chunks = (0..).zip(stored.said).map(|(seq, chunk)| chunk.into_chunk(seq)).collect::<Option<Vec<_>>>()?;
        Some(Self {
            job: stored.jid.parse().ok()?,
            life: Life { made: Timestamp::from_millis(stored.made), ends: Timestamp::from_millis(stored.ends) },
            ttl: Duration::from_millis(stored.ttl),
            said: outcome_from(&stored.out)?.map(|answer| (chunks, answer)),
        })
    }
}

impl Body {
    /// Reads an entry's bytes; `None` if they are damaged.
    pub(crate) fn of(entry: Bytes) -> Option<Self> {
        match entry.split_first()? {
            (b'b', name) => BlobKey::new(core::str::from_utf8(name).ok()?).map(Self::Blob),
            _ => Some(Self::Here(entry)),
        }
    }

    /// The bytes of an entry that names a blob.
    pub(crate) fn naming(key: &BlobKey) -> Bytes {
        tagged(b'b', key.as_str().as_bytes())
    }
}

impl From<&Chunk> for StoredChunk {
    fn from(chunk: &Chunk) -> Self {
        match chunk::stored(&chunk.words) {
            StoredWords { more: Some(more), .. } => Self::More { more },
            StoredWords { text, more: None } => Self::Plain(text),
        }
    }
}

impl StoredChunk {
    fn into_chunk(self, seq: u32) -> Option<Chunk> {
        let words = match self {
            Self::Plain(text) => StoredWords { text, more: None },
            Self::More { more } => StoredWords { text: String::new(), more: Some(more) },
        };
        let position = Position { epoch: Epoch(1), seq };
        Some(Chunk { position, parent: None, ids: Vec::new(), words: chunk::words(words)? })
    }
}

fn tagged(tag: u8, rest: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(rest.len().saturating_add(1));
    bytes.push(tag);
    bytes.extend_from_slice(rest);
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ports::FinishReason;
    use crate::stored::chunk::Words;

    fn kept(texts: &[&str]) -> Kept {
        let chunk = |(seq, text): (u32, &&str)| Chunk {
            position: Position { epoch: Epoch(1), seq },
            parent: None,
            ids: Vec::new(),
            words: Words { parts: vec![Part::Content((*text).to_owned())], ..Words::default() },
        };
        let answer = Answer {
            reasons: vec![FinishReason::Stop],
            prompt_tokens: 3,
            completion_tokens: 4,
            cached_tokens: 0,
            reasoning_tokens: 0,
        };
        let life = Life { made: Timestamp::from_millis(5), ends: Timestamp::from_millis(9) };
        Kept {
            job: JobId::new(Timestamp::from_millis(5), 7),
            life,
            ttl: Duration::from_secs(300),
            said: Ok(((0..).zip(texts).map(chunk).collect(), answer)),
        }
    }

    #[test]
    fn an_answer_and_a_failure_read_back_as_they_were_written() {
        let verdict = ErrorVerdict { status: 400, code: "c".to_owned(), param: None, message: "m".to_owned() };
        for kept in [kept(&["na", "ïve"]), Kept { said: Err(verdict), ..kept(&[]) }] {
            assert_eq!(Kept::read(&kept.stored().unwrap()), Some(kept));
        }
    }

    #[test]
    fn what_is_long_is_stored_short() {
        let long = "the same words again and again, ".repeat(1_000);
        let kept = kept(&[&long]);
        let stored = kept.stored().unwrap();
        assert!(stored.len() < long.len() / 10 && kept.bytes() >= long.len());
        assert_eq!(Kept::read(&stored), Some(kept));
    }

    #[test]
    fn the_same_words_in_other_pieces_are_the_same_answer() {
        assert_eq!(kept(&["na", "ïve"]).digest(), kept(&["naïve"]).digest());
        assert_ne!(kept(&["naïve"]).digest(), kept(&["naive"]).digest());
    }

    #[test]
    fn an_entry_names_its_blob_or_is_the_answer() {
        let key = BlobKey::new("kept/ab-1").unwrap();
        assert_eq!(Body::of(Body::naming(&key)), Some(Body::Blob(key)));
        let stored = kept(&["x"]).stored().unwrap();
        assert_eq!(Body::of(stored.clone()), Some(Body::Here(stored)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Kept::read(&bytes);
            let _ = Body::of(Bytes::from(bytes));
        }
    }
}
