//! Turns the ids of one answer into text, as they come.
//!
//! A character may be spread over several ids (byte-level BPE writes an emoji with up to four): bytes wait until they
//! are a whole character. Bytes that can be part of none are left out, at once and without touching their neighbours,
//! and so is what is still incomplete when the answer ends: no client ever sees a broken character. The outcome is a
//! function of the ids alone, so replaying them gives the same text.
//!
//! Where only the tokenizer's decoder knows how tokens are spelled ([`Spelling::Decoder`]), it decodes a short window of
//! ids that begins where the text was last shown, because what an id looks like depends on its neighbours; in such
//! vocabularies every token is whole characters.
//!
//! Edge cases: special tokens and ids beyond the vocabulary have no text.

use super::tokenizer::{TextTokenizer, TokenizerError};
use super::vocabulary::{Markers, Spelling};

/// Ids without text after which a window moves on, so that a run of special tokens does not make it grow for ever.
const SILENT_IDS: usize = 8;

/// Turns the ids of one answer into text.
#[derive(Clone)]
pub struct Detokenizer {
    tokenizer: TextTokenizer,
    markers: Markers,
    state: State,
}

#[derive(Clone)]
enum State {
    Bytes {
        /// The beginning of a character: at most three bytes.
        waiting: Vec<u8>,
        /// A space that comes now is none of the text.
        at_start: bool,
    },
    Window {
        ids: Vec<u32>,
        /// How many ids at the window's start have been shown; they are kept for what their neighbours look like.
        known: usize,
    },
}

impl Detokenizer {
    /// A detokeniser at the start of an answer.
    #[must_use]
    pub(super) fn new(tokenizer: TextTokenizer) -> Self {
        let state = match tokenizer.vocabulary().spelling() {
            Spelling::ByteLevel | Spelling::Pieces => State::Bytes { waiting: Vec::new(), at_start: false },
            Spelling::PiecesAfterSpace => State::Bytes { waiting: Vec::new(), at_start: true },
            Spelling::Decoder => State::Window { ids: Vec::new(), known: 0 },
        };
        Self { tokenizer, markers: Markers::Ignored, state }
    }

    /// The same, with the markers of thoughts and tool calls as text even where they are special tokens.
    #[must_use]
    pub(super) fn hearing_markers(self) -> Self {
        Self { markers: Markers::Heard, ..self }
    }

    /// Takes the answer's next id and gives the text that is now whole; often empty.
    ///
    /// # Errors
    /// [`TokenizerError`] if the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        match &mut self.state {
            State::Bytes { waiting, at_start } => {
                let mut bytes = self.tokenizer.vocabulary().spoken(id, self.markers);
                if *at_start && !bytes.is_empty() {
                    *at_start = false;
                    bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
                }
                waiting.extend_from_slice(bytes);
                Ok(whole(waiting))
            }
            State::Window { ids, known } => {
                ids.push(id);
                let before = self.tokenizer.decode(&ids[..*known])?;
                let after = self.tokenizer.decode(ids)?;
                let text = after.get(before.len()..).unwrap_or_default().to_owned();
                if !text.is_empty() || ids.len() - *known >= SILENT_IDS {
                    ids.drain(..*known);
                    *known = ids.len();
                }
                Ok(text)
            }
        }
    }
}

/// Takes the whole characters out of `bytes`, and leaves the beginning of one that may still come; what can be part of no
/// character goes.
fn whole(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest = 0;
    while rest < bytes.len() {
        match core::str::from_utf8(&bytes[rest..]) {
            Ok(valid) => {
                text.push_str(valid);
                rest = bytes.len();
            }
            Err(error) => {
                let (valid, _) = bytes[rest..].split_at(error.valid_up_to());
                text.push_str(core::str::from_utf8(valid).unwrap_or_default());
                rest += valid.len();
                match error.error_len() {
                    Some(broken) => rest += broken,
                    None => break,
                }
            }
        }
    }
    bytes.drain(..rest);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::tokenizer::tests::bytes;

    fn stream(ids: &[u32]) -> Vec<String> {
        let mut detokenizer = bytes().detokenizer();
        ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect()
    }

    #[test]
    fn a_character_of_several_tokens_is_shown_when_it_is_whole() {
        let ids = bytes().encode("aé🦀b").unwrap();
        assert_eq!(ids.len(), 8);
        assert_eq!(stream(&ids), ["a", "", "é", "", "", "", "🦀", "b"]);
    }

    #[test]
    fn bytes_that_are_no_text_leave_no_trace_and_keep_nothing_back() {
        assert_eq!(stream(&[0x80; 40]).concat(), "");
        // Ten bytes of nothing, then a crab whose first byte used to come in their company.
        let ids: Vec<u32> = [vec![0x80; 7], "🦀b".bytes().map(u32::from).collect(), vec![0xf0, 0x9f]].concat();
        assert_eq!(stream(&ids).concat(), "🦀b");
        // The beginning of one character, broken off by another.
        let ids: Vec<u32> = [vec![0xf0, 0x9f], "é".bytes().map(u32::from).collect()].concat();
        assert_eq!(stream(&ids).concat(), "é");
    }

    #[test]
    fn a_replacement_character_that_the_model_writes_itself_is_text() {
        let ids: Vec<u32> = "a\u{fffd}b".bytes().map(u32::from).collect();
        assert_eq!(stream(&ids).concat(), "a\u{fffd}b");
    }

    #[test]
    fn special_and_unknown_ids_have_no_text_and_keep_none_back() {
        let mut ids = vec![256; 50];
        ids.extend([999, u32::from(b'a'), 256, u32::from(b'b')]);
        assert_eq!(stream(&ids).concat(), "ab");
    }

    #[test]
    fn the_space_a_sentence_begins_with_is_none_of_the_text_and_later_ones_are() {
        let tokenizer = sentences();
        let ids = tokenizer.encode("hi hi").unwrap();
        let mut detokenizer = tokenizer.detokenizer();
        let text: String = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
        assert_eq!(text, "hi hi");
        let mut detokenizer = tokenizer.detokenizer();
        let parts: Vec<String> = [3, 4, 5, 6].map(|id| detokenizer.push(id).unwrap()).into();
        assert_eq!(parts, ["", "", "", "🦀"]);
    }

    /// SentencePiece's manner, with four bytes of a crab.
    fn sentences() -> TextTokenizer {
        pieces_of(&serde_json::json!([{"type": "Strip", "content": " ", "start": 1, "stop": 0}]))
    }

    fn pieces_of(more: &serde_json::Value) -> TextTokenizer {
        let mut decoders = serde_json::json!([
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}]);
        decoders.as_array_mut().unwrap().extend(more.as_array().unwrap().iter().cloned());
        let document = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": true},
            "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": {
                "<unk>": 0, "\u{2581}hi": 1, "\u{2581}": 2, "<0xF0>": 3, "<0x9F>": 4, "<0xA6>": 5, "<0x80>": 6}}
        });
        TextTokenizer::from_json(document.to_string().as_bytes()).unwrap()
    }

    /// A vocabulary whose words only its decoder can put together.
    fn pieces() -> TextTokenizer {
        let document = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": false},
            "model": {"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": {"<unk>": 0, "pen": 1, "##stock": 2, "wörld": 3}}
        });
        TextTokenizer::from_json(document.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn other_vocabularies_are_put_together_by_their_decoder() {
        let tokenizer = pieces();
        let ids = tokenizer.encode("penstock wörld pen").unwrap();
        assert_eq!(ids, [1, 2, 3, 1]);
        let mut detokenizer = tokenizer.detokenizer();
        let parts: Vec<String> = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
        assert_eq!(parts, ["pen", "stock", " wörld", " pen"]);
    }

    proptest! {
        /// The tokenizer's own decoder replaces what is no character; but for that it says the same.
        #[test]
        fn pieces_come_out_as_their_decoder_has_them(
            ids in proptest::collection::vec(prop_oneof![Just(vec![1]), Just(vec![2]), Just(vec![3, 4, 5, 6])], 0..12),
            strips: bool,
        ) {
            let tokenizer = if strips { sentences() } else { pieces_of(&serde_json::json!([])) };
            let ids = ids.concat();
            let mut detokenizer = tokenizer.detokenizer();
            let text: String = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
            prop_assert_eq!(text, tokenizer.decode(&ids).unwrap());
        }

        #[test]
        fn the_parts_make_the_text_and_no_part_breaks_a_character(text in "\\PC{0,40}") {
            prop_assert_eq!(stream(&bytes().encode(&text).unwrap()).concat(), text);
        }

        #[test]
        fn any_bytes_come_out_as_the_text_that_is_in_them(ids in proptest::collection::vec(0u32..256, 0..30)) {
            let raw: Vec<u8> = ids.iter().map(|&id| u8::try_from(id).unwrap()).collect();
            let valid: String = raw.utf8_chunks().map(|chunk| chunk.valid()).collect();
            prop_assert_eq!(stream(&ids).concat(), valid);
        }
    }
}
