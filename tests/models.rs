//! `penstock model`: real processes, and a hub that speaks the file API.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeMap;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use harness::client::tasks;
use harness::hub::{COMMIT, FileHub, Flaw, Seen};
use harness::process::{Process, Signal};
use harness::root;
use harness::server::{Home, printed};
use serde_json::Value;

const TOKEN: &str = "hf_secret";
const LARGE: &str = "model.onnx.data";

/// A fixture's files, and what else lies in a repository.
fn repository(below: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = root().join("gpu-worker/fixtures/task-int4");
    let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let files = files.map(|file| {
        let name = file.file_name().into_string().unwrap();
        (format!("{below}{name}"), std::fs::read(file.path()).unwrap())
    });
    let besides = ["README.md", "model.safetensors"].map(|name| (name.to_owned(), b"not needed".to_vec()));
    files.chain(besides).collect()
}

/// `penstock model add hf:acme/tiny` with more arguments.
fn add(home: &Home, hub: &FileHub, more: &[&str]) -> Output {
    let common = ["model", "add", "hf:acme/tiny", "--hub", &hub.url, "--hub-reach", "loopback"];
    home.command(&[&common, more].concat()).env("PENSTOCK_HUB_TOKEN", TOKEN).output().unwrap()
}

fn listed(home: &Home) -> Vec<String> {
    let (out, _) = printed(&home.run(&["model", "list", "--json"]));
    let list: Value = serde_json::from_str(&out).unwrap();
    list["data"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_a_hub_is_fetched_listed_served_beside_others_and_removed() {
    let (home, hub) = (Home::new(), FileHub::start(repository(""), Some(TOKEN)).await);
    let (out, err) = printed(&add(&home, &hub, &["--json"]));
    let added: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    assert_eq!((added["name"].as_str(), added["makes"].as_str()), (Some("tiny"), Some("text")));
    assert_eq!(added["origin"]["hub"]["commit"], COMMIT);
    let seen = hub.seen();
    assert!(seen.iter().all(|seen| !seen.path.ends_with(".md") && !seen.path.ends_with(".safetensors")), "{seen:?}");
    assert!(seen.iter().any(|seen| seen.at_store) && seen.iter().all(|seen| seen.token != seen.at_store), "{seen:?}");
    assert_eq!(listed(&home), ["task-int4", "tiny"]);

    let server = home.up(&["--ephemeral", "--model", "tiny", "--model", "task-int4"]);
    assert_eq!(server.ready["models"], serde_json::json!(["tiny", "task-int4"]));
    for (prompt, answer) in tasks(3, 4) {
        assert_eq!(server.client.ask("tiny", &prompt, false).await.text(), answer);
    }
    drop(server);

    let (_, again) = printed(&add(&home, &hub, &[]));
    assert!(again.contains("penstock model remove tiny"), "{again}");
    assert!(home.run(&["model", "remove", "tiny"]).status.success());
    assert_eq!(listed(&home), ["task-int4"]);
    let (_, unknown) = printed(&home.run(&["up", "--ephemeral", "--port", "0", "--model", "tiny"]));
    assert!(unknown.contains("penstock model add"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_are_gone_on_with_until_the_file_is_whole() {
    let (home, hub) = (Home::new(), FileHub::start(repository(""), Some(TOKEN)).await);
    hub.flaw(LARGE, Some(Flaw::BreaksAfter(200_000)));
    let (_, err) = printed(&add(&home, &hub, &[]));
    assert_eq!(listed(&home), ["task-int4", "tiny"], "{err}");
    let from = beginnings(&hub);
    assert!(from.len() >= 3 && from.windows(2).all(|pair| pair[0] < pair[1]), "{from:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_begin_in_the_middle_is_read_from_the_start_again() {
    let (home, hub) = (Home::new(), FileHub::start(repository(""), Some(TOKEN)).await);
    hub.flaw(LARGE, Some(Flaw::FromItsStart(300_000)));
    let (_, err) = printed(&add(&home, &hub, &[]));
    assert_eq!(listed(&home), ["task-int4", "tiny"], "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_was_killed_half_way_is_gone_on_with_by_the_same_command() {
    const HALF: usize = 250_000;
    let (home, hub) = (Home::new(), FileHub::start(repository(""), Some(TOKEN)).await);
    hub.flaw(LARGE, Some(Flaw::StopsAfter(HALF)));
    let arguments = ["model", "add", "hf:acme/tiny", "--hub", &hub.url, "--hub-reach", "loopback"];
    let mut command = home.command(&arguments);
    let mut process = Process::start(command.env("PENSTOCK_HUB_TOKEN", TOKEN).stderr(Stdio::null()));
    let begun = Instant::now();
    while partial_bytes(&home) < HALF as u64 {
        assert!(begun.elapsed() < Duration::from_secs(60), "half of the file never arrives");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.signal(Signal::SIGKILL);
    process.wait(Duration::from_secs(10));
    assert_eq!(listed(&home), ["task-int4"], "half a model is none");
    let _ = hub.seen();
    let (_, err) = printed(&add(&home, &hub, &[]));
    assert_eq!(listed(&home), ["task-int4", "tiny"], "{err}");
    assert!(err.contains("here already"), "{err}");
    assert_eq!(beginnings(&hub), [HALF]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_hub_does_wrong_is_one_line_with_what_to_do_and_nothing_is_added() {
    let (home, hub) = (Home::new(), FileHub::start(repository(""), Some(TOKEN)).await);
    let elsewhere = |place: &str| Some(Flaw::LiesAt(place.to_owned()));
    for (flaw, expected) in [
        (Some(Flaw::Damaged), "checksum"),
        (Some(Flaw::Missing), "the hub has no model.onnx.data"),
        (elsewhere("http://169.254.169.254/latest/meta-data"), "does not go"),
        (elsewhere("http://192.168.0.1/x"), "does not go"),
        (elsewhere("http://hub.example.com/x"), "does not go"),
        (elsewhere("file:///etc/passwd"), "does not go"),
    ] {
        hub.flaw(LARGE, flaw.clone());
        assert_one_line(&add(&home, &hub, &[]), expected, &format!("{flaw:?}"));
    }
    hub.flaw(LARGE, None);
    let add_as = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = home.command(&[&["model", "add"], arguments].concat());
        command.env_remove("PENSTOCK_HUB").env_remove("HF_ENDPOINT").env_remove("HF_TOKEN").envs(variables.to_vec());
        command.output().unwrap()
    };
    let (named, token) = (("HF_ENDPOINT", hub.url.as_str()), ("HF_TOKEN", TOKEN));
    let reach = ["--hub-reach", "loopback"];
    let with_reach = |source: &'static str| [[source].as_slice(), &reach].concat();
    for (arguments, variables, expected) in [
        (with_reach("hf:acme/tiny"), vec![], "PENSTOCK_HUB"),
        (vec!["hf:acme/tiny"], vec![named, token], "--hub-reach"),
        (with_reach("hf:acme/tiny"), vec![named], "PENSTOCK_HUB_TOKEN"),
        (with_reach("hf:acme/tiny"), vec![named, ("HF_TOKEN", "hf_other")], "the token may not read it"),
        (with_reach("hf:acme/other"), vec![named, token], "the hub has no hf:acme/other"),
        (with_reach("hf:acme/tiny@v9"), vec![named, token], "the hub has no hf:acme/tiny@v9"),
        (with_reach("hf:acme/tiny"), vec![("HF_ENDPOINT", "http://127.0.0.1:1"), token], "cannot be reached"),
    ] {
        assert_one_line(&add_as(&arguments, &variables), expected, &format!("{arguments:?}"));
    }
    assert_eq!(listed(&home), ["task-int4"]);
    let (_, err) = printed(&add_as(&with_reach("hf:acme/tiny"), &[named, token]));
    assert_eq!(listed(&home), ["task-int4", "tiny"], "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_repository_or_a_folder_with_several_models_one_is_named() {
    let mut files = repository("cpu/int4/");
    files.extend(repository("gpu/"));
    let (home, hub) = (Home::new(), FileHub::start(files, Some(TOKEN)).await);
    assert_one_line(&add(&home, &hub, &[]), "--folder cpu/int4 or --folder gpu", "no folder");
    let (_, err) = printed(&add(&home, &hub, &["--folder", "cpu/int4", "--name", "small"]));
    assert_eq!(listed(&home), ["task-int4", "small"], "{err}");

    let fixtures = root().join("gpu-worker/fixtures");
    let fixtures = fixtures.to_str().unwrap();
    assert_one_line(&home.run(&["model", "add", fixtures]), "--folder random-encoder", "several");
    let (_, err) = printed(&home.run(&["model", "add", fixtures, "--folder", "random-encoder"]));
    assert_eq!(listed(&home), ["task-int4", "random-encoder", "small"], "{err}");
    // What the engine would refuse is refused here.
    let broken = home.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    for file in ["genai_config.json", "model.onnx"] {
        std::fs::copy(format!("{fixtures}/random-fp32/{file}"), broken.join(file)).unwrap();
    }
    assert_one_line(&home.run(&["model", "add", broken.to_str().unwrap()]), "tokenizer.json", "no tokenizer");
}

#[test]
fn a_model_is_checked_for_what_it_is_what_it_takes_and_what_is_missing() {
    let home = Home::new();
    let (out, err) = printed(&home.run(&["model", "check", "task-int4", "--json"]));
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    assert_eq!(report["architecture"]["family"], "qwen2");
    assert_eq!(report["architecture"]["layers"], 4);
    // Two halves, four layers, two heads of 32 numbers in single precision.
    assert_eq!(report["cache"]["bytes_per_token"], 2 * 4 * 2 * 32 * 4);
    assert!(report["cache"]["sequences_that_fit"].as_u64().unwrap() > 100, "{report}");
    assert!(report["weights"].as_str().unwrap().starts_with("4-bit"), "{report}");
    assert_eq!(report["context_tokens"], 512);
    assert_eq!(report["template"]["prompt"], "Hello");
    for rate in ["prompt", "alone", "together"] {
        assert!(report["tokens_per_second"][rate].as_f64().unwrap() > 1.0, "{report}");
    }
    let of_tools = |finding: &Value| finding["what"].as_str().unwrap().contains("tools");
    assert!(report["findings"].as_array().unwrap().iter().any(of_tools), "{report}");

    let encoder = root().join("gpu-worker/fixtures/random-encoder");
    let (out, err) = printed(&home.run(&["model", "check", encoder.to_str().unwrap()]));
    assert!(out.contains("of texts into vectors"), "{out}{err}");

    let broken = home.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    let whole = root().join("gpu-worker/fixtures/task-int4");
    for file in std::fs::read_dir(whole).unwrap().map(Result::unwrap) {
        if file.file_name() != "chat_template.jinja" {
            std::fs::copy(file.path(), broken.join(file.file_name())).unwrap();
        }
    }
    let broken = broken.to_str().unwrap();
    let output = home.run(&["model", "check", broken]);
    assert!(printed(&output).0.contains("add chat_template.jinja"), "{output:?}");
    assert_one_line(&output, "cannot be served", "no template");

    // What was changed after it was added is told.
    std::fs::copy(
        root().join("gpu-worker/fixtures/task-int4/chat_template.jinja"),
        format!("{broken}/chat_template.jinja"),
    )
    .unwrap();
    assert!(home.run(&["model", "add", broken, "--name", "mended"]).status.success());
    assert!(home.run(&["model", "check", "mended"]).status.success());
    std::fs::write(home.path().join("penstock/models/mended/chat_template.jinja"), "x").unwrap();
    let output = home.run(&["model", "check", "mended"]);
    assert!(printed(&output).0.contains("changed since it was added"), "{output:?}");
    assert_one_line(&output, "cannot be served", "changed");
}

#[test]
fn a_model_agrees_with_itself_and_not_with_another() {
    let home = Home::new();
    let prompts = home.path().join("prompts");
    std::fs::write(&prompts, tasks(7, 24).into_iter().map(|(prompt, _)| prompt + "\n").collect::<String>()).unwrap();
    let prompts = ["--prompts", prompts.to_str().unwrap(), "--json"];
    let compare = |a: &str, b: &str| -> Value {
        let (out, err) = printed(&home.run(&[&["model", "compare", a, b], prompts.as_slice()].concat()));
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"))
    };
    let same = compare("task-int4", "task-int4");
    let agreement = &same["agreement"];
    assert_eq!((&agreement["answers"], &agreement["same_texts"]), (&24.into(), &24.into()), "{agreement}");
    assert_eq!((&agreement["before_first_difference"], &agreement["likeliest_along"]), (&1.0.into(), &1.0.into()));
    for side in ["first", "second"] {
        assert!(same[side]["resident_bytes"].as_u64().unwrap() > 10_000_000, "{same}");
    }

    // The same tokens, other weights: it agrees by chance alone.
    let other = home.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let fixtures = root().join("gpu-worker/fixtures");
    for (fixture, file) in [
        ("random-fp32", "model.onnx"),
        ("random-fp32", "genai_config.json"),
        ("bytes", "tokenizer.json"),
        ("bytes", "chat_template.jinja"),
    ] {
        std::fs::copy(fixtures.join(fixture).join(file), other.join(file)).unwrap();
    }
    let apart = compare("task-int4", other.to_str().unwrap());
    assert_eq!(apart["agreement"]["same_texts"], 0, "{apart}");
    assert!(apart["agreement"]["likeliest_along"].is_null(), "their tokenizers differ");

    let (out, _) = printed(&home.run(&["model", "quantize", "hf:acme/tiny", "--precision", "int8"]));
    assert!(out.contains("-m acme/tiny -o tiny-int8 -p int8 -e cpu"), "{out}");
    assert_one_line(&home.run(&["model", "compare", "task-int4", "nothing"]), "no model 'nothing'", "unknown");
}

fn assert_one_line(output: &Output, expected: &str, what: &str) {
    let (out, err) = printed(output);
    assert_eq!(output.status.code(), Some(1), "{what}: {out}{err}");
    let said: Vec<&str> = err.lines().filter(|line| line.starts_with("penstock: ")).collect();
    assert!(said.last().is_some_and(|line| line.contains(expected)), "{what}: {err}");
    assert!(!err.contains("hf_secret") && !err.contains("panicked"), "{err}");
}

/// Where each attempt at the large file began.
fn beginnings(hub: &FileHub) -> Vec<usize> {
    let at_store = |seen: &Seen| seen.at_store && seen.path.ends_with(LARGE);
    hub.seen().iter().filter(|seen| at_store(seen)).map(|seen| seen.from).collect()
}

/// The bytes of the large file that have arrived.
fn partial_bytes(home: &Home) -> u64 {
    let incoming = home.path().join("penstock/models/.incoming");
    let places = std::fs::read_dir(incoming).into_iter().flatten().filter_map(Result::ok);
    let partial = places.map(|place| place.path().join(format!("{LARGE}.part")));
    partial.filter_map(|file| file.metadata().ok()).map(|file| file.len()).max().unwrap_or(0)
}
