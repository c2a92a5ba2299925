//! Texts that become vectors: the payload of a message, as JSON with a version, and what an engine makes of it.

use bytes::Bytes;
use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, TenantId};
use penstock_wire::embeddings::Inputs;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::{BlobKey, Generation};

/// The version of this payload. Workers from before it find no conversation in it and refuse it.
const VERSION: u32 = 1;

/// What to turn into vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Embedding {
    /// The format's version: 1.
    pub v: u32,
    /// The texts or token ids.
    pub embed: Inputs,
    /// So many numbers a vector; `None`: as many as the model gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u32>,
}

impl Embedding {
    /// Of these inputs, with so many numbers a vector.
    #[must_use]
    pub fn new(embed: Inputs, dimensions: Option<u32>) -> Self {
        Self { v: VERSION, embed, dimensions }
    }
}

/// What a message asks a worker to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Assignment {
    /// To continue a conversation.
    Generate(Box<Generation>),
    /// To turn texts into vectors.
    Embed(Embedding),
}

impl Assignment {
    /// Reads a payload; `None` if it is damaged, or of a version from tomorrow.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Kind {
            embed: Option<IgnoredAny>,
        }
        match serde_json::from_slice::<Kind>(payload).ok()?.embed {
            None => Generation::read(payload).map(|generation| Self::Generate(Box::new(generation))),
            Some(_) => serde_json::from_slice::<Embedding>(payload)
                .ok()
                .filter(|embedding| embedding.v == VERSION && !embedding.embed.is_empty())
                .map(Self::Embed),
        }
    }
}

/// Texts on their way into an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    /// The job, for logs.
    pub job: JobId,
    /// The tenant.
    pub tenant: TenantId,
    /// The job's class: better ones go first, and [`Class::P0`] does not wait for company.
    pub class: Class,
    /// What to turn into vectors.
    pub embedding: Embedding,
}

/// What an engine made of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// Tokens of all inputs, those that the tokenizer adds included.
    pub tokens: u32,
    /// Numbers a vector.
    pub dimensions: u32,
    /// The vectors one after another, each number as the four little-endian bytes of its single precision.
    pub bytes: Bytes,
}

/// Vectors as a job's answer holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vectors {
    /// Tokens of all inputs.
    pub tokens: u32,
    /// Numbers a vector.
    pub dimensions: u32,
    /// The numbers, or where they are.
    pub place: VectorPlace,
}

/// Where vectors are, as [`Embedded::bytes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VectorPlace {
    /// Here.
    Inline(Bytes),
    /// In the blob of this name: too large for the record of an answer.
    Blob(BlobKey),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_conversations_are_told_apart() {
        for inputs in [Inputs::Texts(vec!["a".to_owned()]), Inputs::Tokens(vec![vec![5, 6], vec![7]])] {
            let embedding = Embedding::new(inputs, Some(8));
            let text = serde_json::to_vec(&embedding).unwrap();
            assert_eq!(Assignment::read(&text), Some(Assignment::Embed(embedding)));
            assert_eq!(Generation::read(&text), None, "a worker from before refuses it");
        }
        let talk = serde_json::to_vec(&Generation::default()).unwrap();
        assert!(matches!(Assignment::read(&talk), Some(Assignment::Generate(_))));
    }

    #[test]
    fn a_form_from_tomorrow_or_without_inputs_is_refused() {
        for text in
            [r#"{"v":2,"embed":{"texts":["a"]}}"#, r#"{"v":1,"embed":{"texts":[]}}"#, r#"{"v":1,"embed":5}"#, "{"]
        {
            assert_eq!(Assignment::read(text.as_bytes()), None, "{text}");
        }
        let stored = r#"{"v":1,"embed":{"texts":["a"]}}"#;
        let expected = Embedding::new(Inputs::Texts(vec!["a".to_owned()]), None);
        assert_eq!(Assignment::read(stored.as_bytes()), Some(Assignment::Embed(expected)), "as it was stored first");
    }
}
