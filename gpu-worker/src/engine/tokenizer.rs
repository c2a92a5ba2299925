//! Text to token ids and back.
//!
//! Going back is a stream: a character may be spread over several ids (byte-level BPE writes an emoji with up to four),
//! and what an id looks like depends on its neighbours (leading spaces, merged bytes). So a [`Detokenizer`] decodes a
//! short window of ids that begins where the text was last whole, and shows what that adds to the window's known part.
//! While the window ends in a replacement character the last character may be incomplete, and it waits. Decoding the
//! ids one by one would break characters; decoding the whole answer every time would be quadratic.
//!
//! Edge cases: a model that writes bytes which are no text (or replacement characters themselves, which look the same)
//! would be waited for in vain, so after `PATIENCE_IDS` ids the replacement characters are shown; at the end of an answer what remains is shown, with
//! replacement characters if it is incomplete; ids beyond the vocabulary and special tokens have no text. The outcome
//! is a function of the ids alone, so replaying them gives the same text.

use std::path::Path;
use std::sync::Arc;

/// After how many ids without a whole character broken ones are shown. A character has at most four bytes, so eight
/// ids that complete none are no text.
const PATIENCE_IDS: usize = 8;

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
        Ok(Self { inner: Arc::new(inner), unknown })
    }

    /// The ids of `text`. The text comes from a chat template, which writes its own special tokens, so none are added.
    ///
    /// # Errors
    /// [`TokenizerError`] if the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| TokenizerError(error.to_string()))?;
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
        Detokenizer { tokenizer: self.clone(), window: Vec::new(), known: 0 }
    }

    fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let text = self.inner.decode(ids, true);
        text.map_err(|error| TokenizerError(error.to_string()))
    }
}

/// The id that stands for text outside the vocabulary, if the model has one.
fn unknown_id(model: &serde_json::Value, tokenizer: &tokenizers::Tokenizer) -> Option<u32> {
    let by_name = model["unk_token"].as_str().and_then(|token| tokenizer.token_to_id(token));
    by_name.or_else(|| model["unk_id"].as_u64().and_then(|id| u32::try_from(id).ok()))
}

/// Turns the ids of one answer into text, as they come.
#[derive(Clone)]
pub struct Detokenizer {
    tokenizer: TextTokenizer,
    /// The ids from the last whole stretch of text on.
    window: Vec<u32>,
    /// How many ids at the window's start have been shown; they are kept for what their neighbours look like.
    known: usize,
}

impl Detokenizer {
    /// Takes the answer's next id and gives the text that is now whole; often empty.
    ///
    /// # Errors
    /// [`TokenizerError`] if the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.window.push(id);
        let text = self.fresh()?;
        let waiting = self.window.len() - self.known;
        if text.is_empty() || (text.ends_with(char::REPLACEMENT_CHARACTER) && waiting < PATIENCE_IDS) {
            // Special tokens have no text; without this a run of them would grow the window for ever.
            if text.is_empty() && waiting >= PATIENCE_IDS {
                self.advance();
            }
            return Ok(String::new());
        }
        self.advance();
        Ok(text)
    }

    /// The text that remains at the end of the answer, incomplete characters replaced.
    ///
    /// # Errors
    /// [`TokenizerError`] if the tokenizer's decoder fails.
    pub fn finish(&mut self) -> Result<String, TokenizerError> {
        let text = self.fresh()?;
        self.advance();
        Ok(text)
    }

    /// What the ids that are not known yet add to the window's text.
    fn fresh(&self) -> Result<String, TokenizerError> {
        let known = self.tokenizer.decode(&self.window[..self.known])?;
        let whole = self.tokenizer.decode(&self.window)?;
        Ok(whole.get(known.len()..).unwrap_or_default().to_owned())
    }

    /// Everything in the window has been shown: what was fresh becomes the known part of the next one.
    fn advance(&mut self) {
        self.window.drain(..self.known);
        self.known = self.window.len();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
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

    fn stream(ids: &[u32]) -> (Vec<String>, String) {
        let mut detokenizer = bytes().detokenizer();
        let parts = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
        (parts, detokenizer.finish().unwrap())
    }

    #[test]
    fn a_character_of_several_tokens_is_shown_when_it_is_whole() {
        let ids = bytes().encode("aé🦀b").unwrap();
        assert_eq!(ids.len(), 8);
        let (parts, rest) = stream(&ids);
        assert_eq!(parts, ["a", "", "é", "", "", "", "🦀", "b"]);
        assert_eq!(rest, "");
    }

    #[test]
    fn an_incomplete_character_is_replaced_only_at_the_very_end() {
        let (parts, rest) = stream(&[u32::from(b'a'), 0xf0, 0x9f]);
        assert_eq!(parts, ["a", "", ""]);
        assert_eq!(rest, "\u{fffd}");
    }

    #[test]
    fn bytes_that_are_no_text_are_not_waited_for_for_ever() {
        let (parts, rest) = stream(&[0x80; 40]);
        assert!(parts.iter().any(|part| !part.is_empty()));
        assert!(parts.concat().chars().chain(rest.chars()).all(|c| c == '\u{fffd}'));
    }

    #[test]
    fn special_and_unknown_ids_have_no_text_and_keep_none_back() {
        let mut ids = vec![256; 50];
        ids.extend([999, u32::from(b'a'), 256, u32::from(b'b')]);
        let (parts, rest) = stream(&ids);
        assert_eq!((parts.concat().as_str(), rest.as_str()), ("ab", ""));
    }

    #[test]
    fn a_tokenizer_of_bytes_makes_a_token_of_each() {
        assert!((bytes().tokens_per_byte() - 1.0).abs() < 1e-9);
        assert_eq!(bytes().id_bound(), 257);
        assert!(bytes().says_nothing(&[]) && !bytes().says_nothing(&[5]));
    }

    proptest! {
        #[test]
        fn the_parts_make_the_text_and_no_part_breaks_a_character(text in "\\PC{0,40}") {
            let text = text.replace(char::REPLACEMENT_CHARACTER, "");
            let tokenizer = bytes();
            let (parts, rest) = stream(&tokenizer.encode(&text).unwrap());
            let shown = parts.concat() + &rest;
            prop_assert!(!shown.contains(char::REPLACEMENT_CHARACTER));
            prop_assert_eq!(shown, text);
        }

        #[test]
        fn any_bytes_come_out_as_the_lossy_text_of_all_of_them(ids in proptest::collection::vec(0u32..256, 0..30)) {
            let (parts, rest) = stream(&ids);
            let shown = parts.concat() + &rest;
            let raw: Vec<u8> = ids.iter().map(|&id| u8::try_from(id).unwrap()).collect();
            // Valid stretches are never lost; how many replacement characters a broken one makes is not promised.
            let letters = |text: &str| text.chars().filter(char::is_ascii).collect::<String>();
            prop_assert_eq!(letters(&shown), letters(&String::from_utf8_lossy(&raw)));
        }
    }
}
