//! What an answer says: its parts by channel, and how likely its tokens were.

use super::{VectorPlace, Vectors};

/// A stretch of an answer. Which model says what in which channel is the worker's knowledge; everybody else goes by
/// this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Words for the client's user: whole characters.
    Content(String),
    /// Words the model says to itself before it answers: whole characters.
    Reasoning(String),
    /// A tool the model wants called. Never in pieces.
    Call {
        /// One of the tools of the request.
        name: String,
        /// The arguments as the model wrote them: a JSON object.
        arguments: String,
    },
    /// The vectors of all inputs. Never in pieces, and the only part of its answer.
    Vectors(Vectors),
}

impl Part {
    /// How many bytes of the answer it is. Sums of these measure how far clients have heard an answer.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Content(text) | Self::Reasoning(text) => text.len(),
            Self::Call { name, arguments } => name.len().saturating_add(arguments.len()),
            Self::Vectors(vectors) => match &vectors.place {
                VectorPlace::Inline(bytes) => bytes.len(),
                VectorPlace::Blob(key) => key.as_str().len(),
            },
        }
    }

    /// Appends a part to others, as one stretch if it goes on where they end.
    pub fn append(parts: &mut Vec<Self>, part: Self) {
        match (parts.last_mut(), part) {
            (Some(Self::Content(said)), Self::Content(more)) | (Some(Self::Reasoning(said)), Self::Reasoning(more)) => {
                said.push_str(&more);
            }
            (_, part) if part.bytes() > 0 => parts.push(part),
            (_, _) => {}
        }
    }
}

/// How likely a token was, by the model's own distribution before anything the request asks for changed it.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token that was chosen.
    pub chosen: Likelihood,
    /// The likeliest tokens, likeliest first; as many as were asked for.
    pub top: Vec<Likelihood>,
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Likelihood {
    /// The token's bytes; maybe a part of a character.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability.
    pub logprob: f32,
}

impl TokenLogprob {
    /// About how many bytes it takes in the store.
    #[must_use]
    pub fn bytes(&self) -> usize {
        const EACH: usize = 16;
        self.top
            .iter()
            .chain([&self.chosen])
            .map(|token| EACH.saturating_add(token.bytes.len().saturating_mul(4)))
            .sum()
    }
}
