//! Text to token ids and back.
//!
//! Going back is a stream, see [`super::detokenizer`].

use std::path::Path;
use std::sync::Arc;

use super::detokenizer::Detokenizer;
use super::vocabulary::Vocabulary;

/// English prose, to measure how many tokens a byte of prompt makes.
const SAMPLE: &str = "A penstock is the sluice that leads water to a turbine. When it rains for a week, the reservoir \
rises; when the summer is dry, it falls. The engineer who watches the gauge does not ask whether the next hour will be \
wet. She asks how much is stored, how much is promised (about 1,250 litres a second), and what must be kept for the \
evening, when every lamp in the valley is lit at once.\n\nThat is all there is to it: store, promise, and keep.";

/// A model's tokenizer. Cloning shares it.
#[derive(Clone)]
pub struct TextTokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    unknown: Option<u32>,
    vocabulary: Arc<Vocabulary>,
}

/// A tokenizer that cannot be used, or a text or ids it cannot convert.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TokenizerError(String);

impl TextTokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError`] if it cannot be read or is no tokenizer that this version understands.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let bytes = std::fs::read(path).map_err(|error| TokenizerError(error.to_string()))?;
        Self::from_json(&bytes)
    }

    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError`] if they are no tokenizer that this version understands.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| TokenizerError(error.to_string()))?;
        // Some folders carry the truncation and padding of their training; a prompt is neither cut nor filled up.
        inner.with_truncation(None).map_err(|error| TokenizerError(error.to_string()))?;
        inner.with_padding(None);
        let document: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| TokenizerError(error.to_string()))?;
        let unknown = unknown_id(&document["model"], &inner);
        let vocabulary = Arc::new(Vocabulary::of(&document, inner.get_vocab(true)));
        Ok(Self { inner: Arc::new(inner), unknown, vocabulary })
    }

    /// The ids of `text`. The text comes from a chat template, which writes its own special tokens, so none are added.
    ///
    /// # Errors
    /// [`TokenizerError`] if the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| TokenizerError(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text that no template has written, a raw prompt or what an encoder reads: with the special tokens that
    /// the tokenizer puts around texts.
    ///
    /// # Errors
    /// [`TokenizerError`] if the tokenizer fails.
    pub fn encode_raw(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, true).map_err(|error| TokenizerError(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Whether `ids` say nothing: there are none, or all are the unknown token.
    #[must_use]
    pub fn says_nothing(&self, ids: &[u32]) -> bool {
        ids.iter().all(|&id| Some(id) == self.unknown)
    }

    /// One more than the largest id it knows.
    #[must_use]
    pub fn id_bound(&self) -> u32 {
        let largest = self.inner.get_vocab(true).into_values().max();
        largest.map_or(0, |id| id.saturating_add(1))
    }

    /// Tokens per byte of English prose, above 0. A tokenizer that cannot spell the prose is taken at its worst: one
    /// token per byte.
    #[must_use]
    pub fn tokens_per_byte(&self) -> f64 {
        let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).count();
        let spelled = self.encode(SAMPLE).ok().filter(|ids| {
            let text = self.inner.decode(ids, true);
            !ids.is_empty() && text.is_ok_and(|text| letters(&text) == letters(SAMPLE))
        });
        let bytes = u32::try_from(SAMPLE.len()).unwrap_or(u32::MAX);
        spelled.map_or(1.0, |ids| f64::from(u32::try_from(ids.len()).unwrap_or(u32::MAX)) / f64::from(bytes))
    }

    /// A detokeniser at the start of an answer.
    #[must_use]
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(self.clone())
    }

    /// What each token is in bytes.
    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    pub(super) fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let text = self.inner.decode(ids, true);
        text.map_err(|error| TokenizerError(error.to_string()))
    }
}

/// The id that stands for text outside the vocabulary, if the model has one.
fn unknown_id(model: &serde_json::Value, tokenizer: &tokenizers::Tokenizer) -> Option<u32> {
    let by_name = model["unk_token"].as_str().and_then(|token| tokenizer.token_to_id(token));
    by_name.or_else(|| model["unk_id"].as_u64().and_then(|id| u32::try_from(id).ok()))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A byte-level BPE without merges: every byte is a token, and its id is the byte.
    pub(crate) fn bytes() -> TextTokenizer {
        static MADE: std::sync::LazyLock<TextTokenizer> = std::sync::LazyLock::new(make_bytes);
        MADE.clone()
    }

    fn make_bytes() -> TextTokenizer {
        // GPT-2's table: printable bytes stand for themselves, the others for the characters from U+0100 on.
        let mut vocab = serde_json::Map::new();
        let mut next = 0x100u32;
        for byte in 0..=255u8 {
            let itself = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let code = if itself { u32::from(byte) } else { next };
            next += u32::from(!itself);
            vocab.insert(char::from_u32(code).unwrap().to_string(), json!(byte));
        }
        let document = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{"id": 256, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}
        });
        TextTokenizer::from_json(document.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_tokenizer_of_bytes_makes_a_token_of_each() {
        assert!((bytes().tokens_per_byte() - 1.0).abs() < 1e-9);
        assert_eq!(bytes().id_bound(), 257);
        assert!(bytes().says_nothing(&[]) && !bytes().says_nothing(&[5]));
    }
}
