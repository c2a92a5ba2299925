//! What the files of sentence-transformers say of a folder: pooling, normalisation, the longest text, the prompt.
//!
//! `modules.json` lists what a text goes through; offered are `Transformer`, `Pooling` and `Normalize`, which is what the
//! published models with a single vector have. Anything else (a dense layer, word weights) would give other vectors if it
//! were left out, so such a folder is refused. A folder without `modules.json` is taken to pool by the mean and to give
//! vectors of length 1, as sentence-transformers itself assumes of a bare transformer, and OpenAI's clients of any.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::folder::{EncoderError, NEEDS};
use super::pooling::{Length, Pooling};
use crate::engine::folder::FolderError;

/// What to do about a file that is malformed.
const ADVICE: &str = "take the file from the model's publisher again";

/// What the files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How a text's vector is made of its tokens'.
    pub pooling: Pooling,
    /// How long vectors are.
    pub length: Length,
    /// The longest text in tokens, where they say so.
    pub longest: Option<u32>,
    /// Texts are made lower-case first.
    pub lower_case: bool,
    /// Put before every text.
    pub prompt: String,
}

#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Transformer {
    max_seq_length: Option<u32>,
    do_lower_case: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Prompts {
    prompts: Map<String, Value>,
    default_prompt_name: Option<String>,
}

impl Settings {
    /// Reads the settings of a folder.
    ///
    /// # Errors
    /// [`EncoderError`], naming the file and what in it is not offered.
    pub fn of_folder(dir: &Path) -> Result<Self, EncoderError> {
        let transformer: Transformer = optional(&dir.join("sentence_bert_config.json"))?.unwrap_or_default();
        let prompts: Prompts = optional(&dir.join("config_sentence_transformers.json"))?.unwrap_or_default();
        let prompt = prompts.default_prompt_name.as_deref().and_then(|name| prompts.prompts.get(name));
        let mut settings = Self {
            pooling: Pooling::Mean,
            length: Length::One,
            longest: transformer.max_seq_length.filter(|longest| *longest > 0),
            lower_case: transformer.do_lower_case,
            prompt: prompt.and_then(Value::as_str).unwrap_or_default().to_owned(),
        };
        let path = dir.join("modules.json");
        let Some(modules) = optional::<Vec<Module>>(&path)? else { return Ok(settings) };
        settings.length = Length::AsComputed;
        for module in modules {
            match module.kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => {}
                "Normalize" => settings.length = Length::One,
                "Pooling" => settings.pooling = pooling(&dir.join(&module.path).join("config.json"), &settings.prompt)?,
                _ => return Err(EncoderError::Module { path, kind: module.kind }),
            }
        }
        Ok(settings)
    }
}

/// The pooling of a `1_Pooling/config.json`: a switch for each mode, or since version 5 the mode's name.
fn pooling(path: &Path, prompt: &str) -> Result<Pooling, EncoderError> {
    let config: Map<String, Value> = optional(path)?.unwrap_or_default();
    let switched = config.iter().filter(|(_, value)| **value == Value::Bool(true));
    let mut modes: Vec<&str> = switched
        .filter_map(|(name, _)| name.strip_prefix("pooling_mode_"))
        .map(|mode| mode.trim_end_matches("_tokens"))
        .collect();
    modes.extend(config.get("pooling_mode").and_then(Value::as_str));
    let without_prompt = !prompt.is_empty() && config.get("include_prompt") == Some(&Value::Bool(false));
    let refuse = |value: String, expected: &str| {
        Err(FolderError::Field { path: path.to_owned(), field: "pooling_mode", value, expected: expected.to_owned() }
            .into())
    };
    if without_prompt {
        return refuse(
            "without the prompt's tokens".to_owned(),
            "over all tokens: pooling that leaves some out is not offered",
        );
    }
    match modes.as_slice() {
        [] | ["mean"] => Ok(Pooling::Mean),
        ["cls" | "cls_token"] => Ok(Pooling::First),
        ["lasttoken" | "last_token"] => Ok(Pooling::Last),
        ["max"] => Ok(Pooling::Max),
        others => refuse(others.join(", "), "one of cls, mean, max and lasttoken"),
    }
}

/// Reads a JSON file; `None` if there is none.
pub(super) fn optional<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, FolderError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| FolderError::Malformed {
            path: path.to_owned(),
            source,
            advice: ADVICE,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FolderError::Unreadable { path: path.to_owned(), source, needs: NEEDS }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let dir = std::env::temp_dir().join(format!("penstock-settings-{}-{name}", std::process::id()));
            std::fs::create_dir_all(dir.join("1_Pooling")).unwrap();
            for (file, text) in files {
                std::fs::write(dir.join(file), text).unwrap();
            }
            Self(dir)
        }

        fn read(&self) -> Result<Settings, EncoderError> {
            Settings::of_folder(&self.0)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const MODULES: &str = r#"[{"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"},
        {"idx":1,"name":"1","path":"1_Pooling","type":"sentence_transformers.models.Pooling"}]"#;

    #[test]
    fn a_bare_transformer_pools_by_the_mean_and_gives_vectors_of_length_one() {
        let settings = Folder::new("bare", &[]).read().unwrap();
        assert_eq!((settings.pooling, settings.length), (Pooling::Mean, Length::One));
        assert_eq!((settings.longest, settings.lower_case, settings.prompt.as_str()), (None, false, ""));
    }

    #[test]
    fn the_modules_say_what_is_done() {
        let normalize =
            MODULES.replace(']', r#",{"path":"2_Normalize","type":"sentence_transformers.models.Normalize"}]"#);
        let cls = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
        let prompts = r#"{"prompts":{"query":"query: "},"default_prompt_name":"query"}"#;
        let folder = Folder::new(
            "modules",
            &[
                ("modules.json", &normalize),
                ("1_Pooling/config.json", cls),
                ("config_sentence_transformers.json", prompts),
                ("sentence_bert_config.json", r#"{"max_seq_length": 256, "do_lower_case": true}"#),
            ],
        );
        let expected = Settings {
            pooling: Pooling::First,
            length: Length::One,
            longest: Some(256),
            lower_case: true,
            prompt: "query: ".to_owned(),
        };
        assert_eq!(folder.read().unwrap(), expected);
        for (config, pooling) in [
            (r#"{"pooling_mode_lasttoken":true}"#, Pooling::Last),
            (r#"{"pooling_mode":"mean"}"#, Pooling::Mean),
            (r#"{"pooling_mode":"lasttoken"}"#, Pooling::Last),
            (r#"{"pooling_mode_max_tokens":true}"#, Pooling::Max),
        ] {
            let folder = Folder::new("mode", &[("modules.json", MODULES), ("1_Pooling/config.json", config)]);
            let settings = folder.read().unwrap();
            assert_eq!((settings.pooling, settings.length), (pooling, Length::AsComputed), "{config}");
        }
    }

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        let dense = MODULES.replace("models.Pooling", "models.Dense");
        let error = Folder::new("dense", &[("modules.json", &dense)]).read().unwrap_err();
        assert!(matches!(error, EncoderError::Module { .. }) && error.to_string().contains("models.Dense"), "{error}");
        for config in [
            r#"{"pooling_mode_weightedmean_tokens":true}"#,
            r#"{"pooling_mode_cls_token":true,"pooling_mode_max_tokens":true}"#,
        ] {
            let folder = Folder::new("weighted", &[("modules.json", MODULES), ("1_Pooling/config.json", config)]);
            assert!(
                matches!(
                    folder.read().unwrap_err(),
                    EncoderError::Folder(FolderError::Field { field: "pooling_mode", .. })
                ),
                "{config}"
            );
        }
        let error = Folder::new("json", &[("modules.json", "{")]).read().unwrap_err();
        assert!(matches!(error, EncoderError::Folder(FolderError::Malformed { .. })), "{error}");
    }
}
