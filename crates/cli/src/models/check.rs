//! `penstock model check`: what a model is, what it takes, how fast it is here, and what is missing.

use std::path::Path;

use indicatif::HumanBytes;
use penstock_gpu_worker::engine::device::Device;
use penstock_gpu_worker::engine::metrics::Metrics;
use penstock_gpu_worker::engine::trial::{Trial, TrialError};
use penstock_gpu_worker::engine::{AnyEngine, LoadError, memory};
use penstock_service::ports::{Engine, PoolKind};
use serde::Serialize;

use super::choice::{self, Model};
use super::provenance::Makes;
use super::shelf::Shelf;
use super::show;
use super::trial::{Speed, TrialArgs, ms, written};
use crate::error::CliError;

/// What the template is shown with.
const GREETING: &str = "Hello";

/// What was found out.
#[derive(Debug, Serialize)]
struct Report {
    name: String,
    folder: String,
    #[serde(flatten)]
    facts: Option<Facts>,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Facts {
    makes: Makes,
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<Architecture>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<String>,
    context_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<Cache>,
    slots: u32,
    load_ms: u64,
    resident_bytes: Option<u64>,
    tokens_per_second: Speeds,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<Rendered>,
}

#[derive(Debug, Serialize)]
struct Architecture {
    family: String,
    layers: usize,
    kv_heads: usize,
    head_size: usize,
    vocabulary: usize,
}

#[derive(Debug, Serialize)]
struct Cache {
    bytes_per_token: u64,
    /// Sequences of full length that fit into this machine's memory beside the weights.
    sequences_that_fit: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Speeds {
    Text(Speed),
    Vectors { texts: f64 },
}

#[derive(Debug, Serialize)]
struct Rendered {
    message: &'static str,
    prompt: String,
    tokens: usize,
}

/// Something that is missing or could be better.
#[derive(Debug, Serialize)]
struct Finding {
    weight: Weight,
    what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Weight {
    /// It cannot be served.
    Error,
    /// It can, but not as it should.
    Warning,
    /// Good to know.
    Note,
}

/// Checks a model. Fails if it cannot be served.
pub(crate) fn check(wanted: &Path, arguments: &TrialArgs, json: bool) -> Result<(), CliError> {
    let shelf = Shelf::of_user()?;
    let Model { name, folder, .. } = choice::find(&shelf, wanted)?;
    let mut findings = Vec::new();
    let tried = match AnyEngine::kind_of(&folder) {
        PoolKind::Generation => try_text(&folder, &name, arguments, &mut findings),
        PoolKind::Embedding => try_vectors(&folder, &name, arguments),
    };
    let facts = match tried {
        Ok(facts) => Some(facts),
        Err(Failed::Here(error)) => return Err(error),
        Err(Failed::Model(what)) => {
            findings.push(Finding { weight: Weight::Error, what });
            None
        }
    };
    let recorded = shelf.find(&name).filter(|added| added.folder == folder).map(|added| added.provenance.digest);
    if let (Some(facts), Some(recorded)) = (&facts, recorded)
        && facts.digest != recorded
    {
        let what = format!(
            "its files have changed since it was added (digest {} then): `penstock model remove {name}` and add it again",
            short(&recorded)
        );
        findings.push(Finding { weight: Weight::Error, what });
    }
    let fails = findings.iter().any(|finding| finding.weight == Weight::Error);
    let report = Report { name, folder: folder.display().to_string(), facts, findings };
    show(json, &report, || words(&report))?;
    if fails { Err(CliError::NotServable(wanted.to_owned())) } else { Ok(()) }
}

/// Why a model was not tried to the end.
enum Failed {
    /// Nothing is wrong with the model.
    Here(CliError),
    /// It cannot be served.
    Model(String),
}

impl From<CliError> for Failed {
    fn from(error: CliError) -> Self {
        Self::Here(error)
    }
}

impl From<TrialError> for Failed {
    fn from(error: TrialError) -> Self {
        if let TrialError::Load(error) = error { error.into() } else { Self::Model(error.to_string()) }
    }
}

impl From<LoadError> for Failed {
    fn from(error: LoadError) -> Self {
        if matches!(error, LoadError::Library(_)) { Self::Here(error.into()) } else { Self::Model(error.to_string()) }
    }
}

fn try_text(folder: &Path, name: &str, arguments: &TrialArgs, findings: &mut Vec<Finding>) -> Result<Facts, Failed> {
    let trial = Trial::load(&arguments.config(folder, name)?)?;
    let resident_bytes = memory::resident();
    let mut find = |weight, what: String| findings.push(Finding { weight, what });
    let template = match trial.rendered(GREETING) {
        Ok((prompt, tokens)) => Some(Rendered { message: GREETING, prompt, tokens: tokens.len() }),
        Err(error) => {
            let what =
                format!("a plain message of a user cannot be written: {error}; the model's publisher has a template");
            find(Weight::Error, what);
            None
        }
    };
    let config = &trial.config;
    if config.eos.is_empty() {
        find(
            Weight::Warning,
            "genai_config.json names no `eos_token_id`, so that answers end at their limit alone: add it".to_owned(),
        );
    }
    let weights = trial.weights;
    if arguments.device == Device::Cpu && weights.four_bit + weights.eight_bit == 0 {
        let what = "its weights are not quantized: `penstock model quantize` says how to make 4-bit ones of the \
                    checkpoint, which processors read several times as fast";
        find(Weight::Note, what.to_owned());
    }
    if let Some(fitting) = trial.cache.fitting
        && fitting < u64::from(trial.info.slots) + 1
    {
        let what = format!(
            "only {fitting} sequences of {} tokens fit into memory: a smaller `context_length` in genai_config.json \
             makes room for more",
            trial.info.context_length
        );
        find(Weight::Warning, what);
    }
    if !trial.knows_tools() {
        let what = "its chat template has no place for tools: requests with `tools` are refused";
        find(Weight::Note, what.to_owned());
    }
    let facts = Facts {
        makes: Makes::Text,
        digest: trial.info.digest.clone(),
        architecture: Some(Architecture {
            family: config.family.clone(),
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_size: config.head_size,
            vocabulary: config.vocab_size,
        }),
        weights: Some(written(weights, trial.cache.number_bytes)),
        context_tokens: trial.info.context_length,
        cache: Some(Cache { bytes_per_token: trial.cache.token_bytes, sequences_that_fit: trial.cache.fitting }),
        slots: trial.info.slots,
        load_ms: ms(trial.load),
        resident_bytes,
        tokens_per_second: Speeds::Vectors { texts: 0.0 },
        template,
    };
    Ok(Facts { tokens_per_second: Speeds::Text(trial.bare().rates()?.into()), ..facts })
}

fn try_vectors(folder: &Path, name: &str, arguments: &TrialArgs) -> Result<Facts, Failed> {
    let config = arguments.config(folder, name)?;
    let began = std::time::Instant::now();
    let loaded = AnyEngine::load(&config, Metrics::new().recorder(name, "check"));
    let engine = loaded?;
    let load_ms = ms(began.elapsed());
    let resident_bytes = memory::resident();
    let info = engine.info().clone();
    engine.stop();
    Ok(Facts {
        makes: Makes::Vectors,
        digest: info.digest,
        architecture: None,
        weights: None,
        context_tokens: info.context_length,
        cache: None,
        slots: info.slots,
        load_ms,
        resident_bytes,
        tokens_per_second: Speeds::Vectors { texts: info.tokens_per_second },
        template: None,
    })
}

fn short(digest: &str) -> &str {
    digest.get(..16).unwrap_or(digest)
}

fn words(report: &Report) -> String {
    let mut lines = vec![format!("{}: {}", report.name, report.folder)];
    let mut line = |name: &str, value: String| lines.push(format!("  {name:<14} {value}"));
    if let Some(facts) = &report.facts {
        line("digest", short(&facts.digest).to_owned());
        if let Some(Architecture { family, layers, kv_heads, head_size, vocabulary }) = &facts.architecture {
            let family = if family.is_empty() { "unknown family" } else { family };
            let heads = format!("{kv_heads} key-value heads of {head_size}");
            line("architecture", format!("{family}, {layers} layers, {heads}, vocabulary of {vocabulary}"));
        }
        facts.weights.iter().for_each(|weights| line("weights", weights.clone()));
        line("context", format!("{} tokens", facts.context_tokens));
        if let Some(Cache { bytes_per_token, sequences_that_fit }) = &facts.cache {
            let fit = sequences_that_fit.map(|fit| format!("; {fit} sequences of full length fit here"));
            line("cache", format!("{bytes_per_token} bytes a token{}", fit.unwrap_or_default()));
        }
        let resident = facts.resident_bytes.map(|bytes| format!(", {} resident", HumanBytes(bytes)));
        line("loaded", format!("in {} ms{}", facts.load_ms, resident.unwrap_or_default()));
        match &facts.tokens_per_second {
            Speeds::Text(Speed { prompt, alone, together }) => {
                line("reads", format!("{prompt:.0} tokens/s"));
                line("answers", format!("{alone:.0} tokens/s alone, {together:.0} in {} slots", facts.slots));
            }
            Speeds::Vectors { texts } => line("reads", format!("{texts:.0} tokens/s of texts into vectors")),
        }
        if let Some(Rendered { message, prompt, tokens }) = &facts.template {
            line("template", format!("{message:?} becomes {prompt:?} ({tokens} tokens)"));
        }
    }
    for Finding { weight, what } in &report.findings {
        let weight = match weight {
            Weight::Error => "error",
            Weight::Warning => "warning",
            Weight::Note => "note",
        };
        line(weight, what.clone());
    }
    lines.join("\n")
}
