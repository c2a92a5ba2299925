//! A model folder whose tokens are bytes: random weights, which say anything, and so make a good adversary.

use std::path::Path;

use serde_json::{Map, Value, json};

/// A template that tells the model to think or not to, if asked, and calls tools in the manner of Hermes.
pub const TEMPLATE: &str = "{% for tool in tools or [] %}{{ tool.function.name }}<tool_call></tool_call>{% endfor %}\
    {% for message in messages %}{{ message.role }}:{{ message.content }}\n{% endfor %}\
    {% if think is defined %}<think>\n{{ '' if think else '</think>\n' }}{% endif %}";

/// Writes the folder: the random model of the fixtures with a vocabulary of 256 bytes; 1 is the end token.
pub fn write(folder: &Path) {
    let model = super::fixture("random-fp32");
    for file in ["model.onnx", "genai_config.json"] {
        std::fs::copy(model.join(file), folder.join(file)).unwrap();
    }
    std::fs::write(folder.join("chat_template.jinja"), TEMPLATE).unwrap();
    std::fs::write(folder.join("tokenizer.json"), tokenizer().to_string()).unwrap();
}

fn tokenizer() -> Value {
    // GPT-2's table: printable bytes stand for themselves, the others for the characters from U+0100 on.
    let mut vocab = Map::new();
    let mut next = 0x100u32;
    for byte in 0..=255u8 {
        let itself = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let code = if itself { u32::from(byte) } else { next };
        next += u32::from(!itself);
        vocab.insert(char::from_u32(code).unwrap().to_string(), json!(byte));
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}
    })
}
