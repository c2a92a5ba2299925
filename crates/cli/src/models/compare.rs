//! `penstock model compare`: two models by speed, memory and agreement, as for two precisions of the same weights.
//!
//! Each runs in a process of its own, one after the other, so that neither takes the other's memory or time. Both answer
//! the same messages greedily. Two measures of agreement are taken over the tokens of the first: those before the first
//! difference of each answer, which is what a user would notice; and along the first's answers, at each place, whether
//! the second finds the same token likeliest, which does not punish a whole answer for one near tie.
//!
//! Edge cases: models whose tokenizers differ have no tokens in common, so that only equal texts are counted.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use indicatif::HumanBytes;
use penstock_gpu_worker::engine::AnyEngine;
use penstock_service::ports::PoolKind;
use serde::Serialize;

use super::choice::{self, Model};
use super::shelf::Shelf;
use super::show;
use super::trial::{Findings, Question, TrialArgs};
use crate::error::CliError;
use crate::progress;

/// What is asked where no file of messages is named: of everything a little.
const MESSAGES: [&str; 12] = [
    "What is the capital of France?",
    "Write one sentence about rivers.",
    "List the first ten prime numbers.",
    "Translate to German: The train leaves at noon.",
    "Why is the sky blue?",
    "Write a Python function that reverses a string.",
    "What is 17 times 23? Think step by step.",
    "Summarise the story of Romeo and Juliet in two sentences.",
    "Name three differences between a queue and a stack.",
    "Continue: Once upon a time, in a village by the sea,",
    "Is a tomato a fruit or a vegetable? Explain.",
    "Give a JSON object with the keys name and age.",
];

/// `penstock model compare`.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// The model to measure by.
    #[arg(value_name = "A")]
    pub(crate) first: PathBuf,
    /// The other.
    #[arg(value_name = "B")]
    pub(crate) second: PathBuf,
    /// What to ask them: a file with a user's message on each line; a line that begins with a quotation mark is a JSON
    /// string. Default: a dozen of general questions.
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) max_tokens: u32,
    #[command(flatten)]
    pub(crate) trial: TrialArgs,
    /// Print the comparison as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Serialize)]
struct Comparison {
    first: Side,
    second: Side,
    agreement: Agreement,
}

#[derive(Serialize)]
struct Side {
    name: String,
    #[serde(flatten)]
    findings: Findings,
}

/// How far the second says what the first says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Agreement {
    /// Messages asked.
    answers: usize,
    /// Answers whose text is the same.
    same_texts: usize,
    /// Tokens that the first answers.
    tokens: usize,
    /// Of these, the share before the first difference; `None` if the tokenizers differ.
    before_first_difference: Option<f64>,
    /// Of these, the share that the second finds likeliest after the first's tokens; `None` if the tokenizers differ.
    likeliest_along: Option<f64>,
}

/// Compares two models.
pub(crate) fn compare(command: &Compare) -> Result<(), CliError> {
    let shelf = Shelf::of_user()?;
    let [first, second] = [&command.first, &command.second].map(|wanted| choice::find(&shelf, wanted));
    let (first, second) = (first?, second?);
    for model in [&first, &second] {
        if AnyEngine::kind_of(&model.folder) == PoolKind::Embedding {
            return Err(CliError::NoAnswers(model.name.clone()));
        }
    }
    let messages = match &command.prompts {
        Some(file) => messages_of(file)?,
        None => MESSAGES.map(str::to_owned).to_vec(),
    };
    // Found, or fetched, once for both.
    let trial = TrialArgs {
        ort: Some(crate::onnx_runtime::locate(command.trial.ort.as_deref(), progress)?),
        ..command.trial.clone()
    };
    let alike = tokenizer(&first)? == tokenizer(&second)?;
    let question = |along| Question { messages: messages.clone(), most: command.max_tokens, along };
    progress(&format!("asking {} for {} answers", first.name, messages.len()));
    let of_first = ask(&first, &question(None), &trial)?;
    progress(&format!("asking {} for the same", second.name));
    let of_second = ask(&second, &question(alike.then(|| of_first.answers.clone())), &trial)?;
    let agreement = agreement(&of_first, &of_second, alike);
    let comparison = Comparison {
        first: Side { name: first.name, findings: of_first },
        second: Side { name: second.name, findings: of_second },
        agreement,
    };
    show(command.json, &comparison, || words(&comparison))
}

fn messages_of(file: &Path) -> Result<Vec<String>, CliError> {
    let text = std::fs::read_to_string(file).map_err(CliError::file("reading the messages", file))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let message = |(number, line): (usize, &str)| match line.strip_prefix('"') {
        None => Ok(line.to_owned()),
        Some(_) => serde_json::from_str(line).map_err(|error| CliError::Message {
            file: file.to_owned(),
            line: number + 1,
            cause: error.to_string(),
        }),
    };
    let messages: Vec<String> = lines.map(message).collect::<Result<_, _>>()?;
    if messages.is_empty() {
        return Err(CliError::Message { file: file.to_owned(), line: 1, cause: "there is none".to_owned() });
    }
    Ok(messages)
}

fn tokenizer(model: &Model) -> Result<Vec<u8>, CliError> {
    let file = model.folder.join("tokenizer.json");
    std::fs::read(&file).map_err(CliError::file("reading", file))
}

/// Tries a model in a process of its own.
fn ask(model: &Model, question: &Question, trial: &TrialArgs) -> Result<Findings, CliError> {
    let program = std::env::current_exe().map_err(CliError::Trial)?;
    let mut command = Command::new(program);
    command.args(["model", "try"]).arg(&model.folder).args(["--device", &trial.device.to_string()]);
    if let Some(ort) = &trial.ort {
        command.arg("--ort").arg(ort);
    }
    for (name, value) in [("--threads", trial.threads), ("--slots", trial.slots)] {
        if let Some(value) = value {
            command.args([name, &value.to_string()]);
        }
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(CliError::Trial)?;
    let text = serde_json::to_string(question).unwrap_or_default();
    if let Some(mut stdin) = child.stdin.take() {
        // One that has died meanwhile says why below.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(CliError::Trial)?;
    if !output.status.success() {
        return Err(CliError::Tried(model.name.clone()));
    }
    serde_json::from_slice(&output.stdout).map_err(CliError::Unreadable)
}

fn agreement(first: &Findings, second: &Findings, alike: bool) -> Agreement {
    let tokens: usize = first.answers.iter().map(Vec::len).sum();
    let share = |count: usize| {
        let [count, tokens] = [count, tokens].map(|number| f64::from(u32::try_from(number).unwrap_or(u32::MAX)));
        count / tokens.max(1.0)
    };
    let pairs = first.answers.iter().zip(&second.answers);
    let before = pairs.map(|(a, b)| a.iter().zip(b).take_while(|(a, b)| a == b).count()).sum();
    let along = second.along.as_ref().map(|along| {
        let pairs = first.answers.iter().zip(along);
        pairs.map(|(a, b)| a.iter().zip(b).filter(|(a, b)| a == b).count()).sum()
    });
    Agreement {
        answers: first.texts.len(),
        same_texts: first.texts.iter().zip(&second.texts).filter(|(a, b)| a == b).count(),
        tokens,
        before_first_difference: alike.then(|| share(before)),
        likeliest_along: along.map(share),
    }
}

fn words(Comparison { first, second, agreement }: &Comparison) -> String {
    let mut lines = vec![format!("{:<22} {:>24} {:>24}  second by first", "", first.name, second.name)];
    lines.push(format!("{:<22} {:>24} {:>24}", "digest", digest(first), digest(second)));
    for side in [first, second] {
        lines.push(format!("{:<22} {}: {}", "weights", side.name, side.findings.weights));
    }
    let mut row = |name: &str, value: fn(&Findings) -> Option<f64>, shown: fn(f64) -> String| {
        let [a, b] = [first, second].map(|side| value(&side.findings));
        let ratio = a.zip(b).filter(|(a, _)| *a > 0.0).map(|(a, b)| format!("{:.2}", b / a)).unwrap_or_default();
        let [a, b] = [a, b].map(|value| value.map_or_else(|| "unknown".to_owned(), shown));
        lines.push(format!("{name:<22} {a:>24} {b:>24}  {ratio}"));
    };
    let rate = |value: f64| format!("{value:.0} tokens/s");
    row("resident memory", |of| of.resident_bytes.map(exact), bytes);
    row("loads in", |of| Some(exact(of.load_ms)), |value| format!("{value:.0} ms"));
    row("reads", |of| Some(of.tokens_per_second.prompt), rate);
    row("answers alone", |of| Some(of.tokens_per_second.alone), rate);
    row("answers together", |of| Some(of.tokens_per_second.together), rate);
    row("these messages", |of| Some(answered(of)), rate);
    let Agreement { answers, same_texts, tokens, before_first_difference, likeliest_along } = agreement;
    lines.push(format!("agreement: {same_texts} of {answers} answers are the same"));
    if let Some(before) = before_first_difference {
        lines
            .push(format!("  {:.1} % of the first's {tokens} tokens come before the first difference", before * 100.0));
    }
    match likeliest_along {
        Some(along) => {
            lines.push(format!("  {:.1} % are the second's likeliest along the first's answers", along * 100.0))
        }
        None => lines.push("  their tokenizers differ: tokens cannot be compared".to_owned()),
    }
    lines.join("\n")
}

fn digest(side: &Side) -> &str {
    side.findings.digest.get(..16).unwrap_or(&side.findings.digest)
}

/// Answer tokens a second over the messages.
fn answered(of: &Findings) -> f64 {
    let tokens: usize = of.answers.iter().map(Vec::len).sum();
    exact(tokens as u64) / (exact(of.answered_in_ms).max(1.0) / 1000.0)
}

/// Exact below 2^53, far above any figure here.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn exact(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a whole number of bytes")]
fn bytes(value: f64) -> String {
    HumanBytes(value as u64).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::trial::Speed;
    use super::*;

    fn findings(answers: &[&[u32]], along: Option<&[&[u32]]>) -> Findings {
        let lists = |lists: &[&[u32]]| lists.iter().map(|list| list.to_vec()).collect::<Vec<_>>();
        Findings {
            digest: String::new(),
            weights: String::new(),
            slots: 1,
            load_ms: 1,
            resident_bytes: None,
            tokens_per_second: Speed { prompt: 1.0, alone: 1.0, together: 1.0 },
            prompt_tokens: 1,
            answers: lists(answers),
            texts: answers.iter().map(|answer| format!("{answer:?}")).collect(),
            answered_in_ms: 1,
            along: along.map(lists),
        }
    }

    #[test]
    fn an_answer_agrees_up_to_its_first_other_token_and_along_it_token_by_token() {
        let first = findings(&[&[1, 2, 3, 4], &[5, 6]], None);
        let second = findings(&[&[1, 9, 3, 4], &[5, 6]], Some(&[&[1, 9, 3, 4], &[5, 6]]));
        let agreement = agreement(&first, &second, true);
        assert_eq!((agreement.answers, agreement.same_texts, agreement.tokens), (2, 1, 6));
        assert_eq!(agreement.before_first_difference, Some(0.5));
        assert_eq!(agreement.likeliest_along, Some(5.0 / 6.0));
    }

    #[test]
    fn models_without_tokens_in_common_are_compared_by_text_alone() {
        let (first, second) = (findings(&[&[1]], None), findings(&[&[1]], None));
        let agreement = agreement(&first, &second, false);
        assert_eq!((agreement.same_texts, agreement.before_first_difference), (1, None));
        assert_eq!(agreement.likeliest_along, None);
    }

    #[test]
    fn messages_are_lines_or_json_strings() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one\n\n\"two\\nlines\"\n").unwrap();
        assert_eq!(messages_of(file.path()).unwrap(), ["one", "two\nlines"]);
        std::fs::write(file.path(), "one\n\"two\n").unwrap();
        assert!(messages_of(file.path()).unwrap_err().to_string().contains("line 2"));
        std::fs::write(file.path(), "\n").unwrap();
        assert!(messages_of(file.path()).is_err());
    }
}
