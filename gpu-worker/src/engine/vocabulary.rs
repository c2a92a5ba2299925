//! What each token is in bytes.
//!
//! A tokenizer's own decoder gives text, and replaces what is no whole character. Whoever needs a token exactly (to show
//! a character when it is whole and not before, to tell a token's bytes, to follow a grammar) goes by its bytes. The
//! decoders of published models are of two kinds that have them: byte-level BPE (GPT-2's: each byte has a character
//! that stands for it), and SentencePiece (`\u{2581}` is a space, `<0x0A>` a byte). Of any other decoder tokens are known
//! only as their own text, and answers are decoded by the decoder itself.

use std::collections::BTreeMap;

use serde_json::Value;

use super::dialect::MARKERS;

/// How tokens become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Byte-level BPE: bytes in a row are the text.
    ByteLevel,
    /// SentencePiece: the same with other spellings.
    Pieces,
    /// The same, but a space at the very beginning is none of the text.
    PiecesAfterSpace,
    /// Only the tokenizer's decoder knows.
    Decoder,
}

/// Whether special tokens that mark thoughts and tool calls are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Markers {
    /// They are.
    Heard,
    /// They are not.
    Ignored,
}

/// The bytes of all tokens.
#[derive(Debug)]
pub(super) struct Vocabulary {
    spelling: Spelling,
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, Default)]
struct Token {
    bytes: Box<[u8]>,
    special: bool,
    /// Special, but what it marks matters: thoughts, tool calls.
    marker: bool,
}

impl Vocabulary {
    /// Reads a `tokenizer.json`; `tokens` are its tokens with their ids, added ones included.
    pub(super) fn of(document: &Value, tokens: impl IntoIterator<Item = (String, u32)>) -> Self {
        let spelling = spelling(&document["decoder"]);
        let added: BTreeMap<usize, bool> = document["added_tokens"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|token| Some((usize::try_from(token["id"].as_u64()?).ok()?, token["special"] == true)))
            .collect();
        let mut all: Vec<Token> = Vec::new();
        for (text, id) in tokens {
            let id = id as usize;
            if all.len() <= id {
                all.resize(id + 1, Token::default());
            }
            let added = added.get(&id);
            let bytes = match (added, spelling) {
                (Some(_), _) | (None, Spelling::Decoder) => text.into_bytes(),
                (None, Spelling::ByteLevel) => byte_level(&text).unwrap_or_else(|| text.into_bytes()),
                (None, Spelling::Pieces | Spelling::PiecesAfterSpace) => sentence_piece(&text),
            };
            let special = added == Some(&true);
            let marker = special && MARKERS.iter().any(|marker| marker.as_bytes() == bytes);
            all[id] = Token { bytes: bytes.into(), special, marker };
        }
        Self { spelling, tokens: all }
    }

    /// Whether the bytes of tokens in a row are the text.
    pub(super) fn has_bytes(&self) -> bool {
        match self.spelling {
            Spelling::ByteLevel | Spelling::Pieces | Spelling::PiecesAfterSpace => true,
            Spelling::Decoder => false,
        }
    }

    /// The special token that is written so.
    pub(super) fn special(&self, text: &str) -> Option<u32> {
        let found = self.tokens.iter().position(|token| token.special && *token.bytes == *text.as_bytes());
        found.and_then(|id| u32::try_from(id).ok())
    }

    pub(super) fn spelling(&self) -> Spelling {
        self.spelling
    }

    /// A token's bytes, special or not; none of an id that no token has.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        self.tokens.get(id as usize).map_or(&[], |token| &token.bytes)
    }

    /// The bytes a token adds to a text: none if it is special, unless it is a marker and those are listened to.
    pub(super) fn spoken(&self, id: u32, markers: Markers) -> &[u8] {
        match self.tokens.get(id as usize) {
            Some(token) if !token.special || (token.marker && markers == Markers::Heard) => &token.bytes,
            Some(_) | None => &[],
        }
    }

    /// Whether a token stands for something that is no text.
    pub(super) fn is_special(&self, id: u32) -> bool {
        self.tokens.get(id as usize).is_some_and(|token| token.special)
    }
}

fn spelling(decoder: &Value) -> Spelling {
    let parts = match decoder["decoders"].as_array() {
        Some(parts) => parts.iter().collect(),
        None => vec![decoder],
    };
    let is_space = |part: &Value| part["pattern"]["String"] == "\u{2581}" && part["content"] == " ";
    let (mut pieces, mut stripped) = (false, false);
    for part in &parts {
        match part["type"].as_str() {
            Some("ByteLevel") if parts.len() == 1 => return Spelling::ByteLevel,
            Some("Replace") if is_space(part) => pieces = true,
            Some("Metaspace") => {
                pieces = true;
                stripped |= part["prepend_scheme"] != "never";
            }
            Some("Strip") if part["content"] == " " && part["start"] == 1 && part["stop"] == 0 => stripped = true,
            Some("ByteFallback" | "Fuse") => {}
            Some(_) | None => return Spelling::Decoder,
        }
    }
    match (pieces, stripped) {
        (true, true) => Spelling::PiecesAfterSpace,
        (true, false) => Spelling::Pieces,
        (false, _) => Spelling::Decoder,
    }
}

/// GPT-2's table: printable bytes stand for themselves, the others for the characters from U+0100 on. `None` if a
/// character is not in it.
fn byte_level(text: &str) -> Option<Vec<u8>> {
    let byte = |character: char| {
        let code = u32::from(character);
        let direct = matches!(code, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        if direct {
            return u8::try_from(code).ok();
        }
        // The others in their order: 0 to 0x20, 0x7f to 0xa0, 0xad.
        match code.checked_sub(0x100)? {
            place @ 0..=0x20 => u8::try_from(place).ok(),
            place @ 0x21..=0x42 => u8::try_from(place - 0x21 + 0x7f).ok(),
            0x43 => Some(0xad),
            _ => None,
        }
    };
    text.chars().map(byte).collect()
}

fn sentence_piece(text: &str) -> Vec<u8> {
    let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|hex| hex.len() == 2);
    match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => vec![byte],
        None => text.replace('\u{2581}', " ").into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_byte_has_its_character() {
        let mut next = 0x100u32;
        for byte in 0..=255u8 {
            let direct = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let code = if direct { u32::from(byte) } else { next };
            next += u32::from(!direct);
            let text = char::from_u32(code).unwrap().to_string();
            assert_eq!(byte_level(&text), Some(vec![byte]), "{byte}");
        }
        assert_eq!(byte_level("\u{2581}"), None);
    }

    #[test]
    fn sentence_pieces_have_spaces_and_single_bytes() {
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        assert_eq!(spelling(&llama), Spelling::PiecesAfterSpace);
        let gemma = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}]});
        assert_eq!(spelling(&gemma), Spelling::Pieces);
        assert_eq!(spelling(&json!({"type": "Metaspace", "prepend_scheme": "never"})), Spelling::Pieces);
        assert_eq!(spelling(&json!({"type": "Metaspace", "prepend_scheme": "always"})), Spelling::PiecesAfterSpace);
        assert_eq!(sentence_piece("\u{2581}the"), b" the");
        assert_eq!(sentence_piece("<0xF0>"), [0xf0]);
        assert_eq!(sentence_piece("<0xZZ>"), b"<0xZZ>");
    }

    #[test]
    fn a_decoder_of_another_kind_is_left_to_itself() {
        assert_eq!(spelling(&json!({"type": "WordPiece"})), Spelling::Decoder);
        assert_eq!(spelling(&Value::Null), Spelling::Decoder);
    }

    #[test]
    fn added_tokens_are_spelled_as_they_are_written() {
        let document = json!({"decoder": {"type": "ByteLevel"}, "added_tokens": [
            {"id": 1, "content": "<\u{120}>", "special": true}, {"id": 3, "content": "<tool>", "special": false}]});
        let tokens = [("\u{120}a", 0), ("<\u{120}>", 1), ("<tool>", 3)].map(|(text, id)| (text.to_owned(), id));
        let vocabulary = Vocabulary::of(&document, tokens);
        assert_eq!((vocabulary.bytes(0), vocabulary.spoken(0, Markers::Ignored)), (&b" a"[..], &b" a"[..]));
        assert_eq!((vocabulary.bytes(1), vocabulary.spoken(1, Markers::Heard)), ("<\u{120}>".as_bytes(), &b""[..]));
        assert_eq!((vocabulary.bytes(2), vocabulary.spoken(3, Markers::Ignored)), (&b""[..], &b"<tool>"[..]));
        assert_eq!(vocabulary.bytes(99), b"");
    }

    #[test]
    fn a_special_token_that_is_a_marker_is_heard_on_demand() {
        let document = json!({"decoder": {"type": "ByteLevel"}, "added_tokens": [
            {"id": 0, "content": "[TOOL_CALLS]", "special": true}]});
        let vocabulary = Vocabulary::of(&document, [("[TOOL_CALLS]".to_owned(), 0)]);
        assert_eq!(vocabulary.spoken(0, Markers::Heard), b"[TOOL_CALLS]");
        assert_eq!(vocabulary.spoken(0, Markers::Ignored), b"");
    }
}
