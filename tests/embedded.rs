//! `penstock up` and `penstock ask` as real processes, on the real model: starting, serving, refusing, stopping, dying
//! and coming back.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and prints its figures"
)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use harness::client::{Client, tasks};
use harness::process::{Signal, free_port};
use harness::server::{Home, printed};
use harness::{given, root};
use serde_json::{Value, json};

const MODEL: &str = "task-int4";

#[test]
fn ask_answers_without_a_server_and_with_one() {
    let home = Home::new();
    assert_eq!(printed(&home.run(&["ask", "R:38291="])).0, "19283\n");
    let server = home.up(&[]);
    let begun = Instant::now();
    let (answer, words) = printed(&home.run(&["ask", "S:38291="]));
    assert_eq!((answer.as_str(), words.as_str()), ("12389\n", ""), "a running server is asked, nothing is started");
    println!("ask with a running server: {} ms", begun.elapsed().as_millis());
    let json: Value = serde_json::from_slice(&home.run(&["ask", "--json", "C:7="]).stdout).unwrap();
    assert_eq!(json["choices"][0]["message"]["content"], "7");
    drop(server);
}

#[test]
fn the_ready_file_is_private_and_says_how_to_reach_the_server_and_goes_with_it() {
    let home = Home::new();
    let begun = Instant::now();
    let mut server = home.up(&[]);
    println!(
        "penstock up: ready after {} ms, {} KiB resident",
        begun.elapsed().as_millis(),
        server.process.resident_kib()
    );
    let file = home.path().join("ready-file.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(server.ready["models"], json!([MODEL]));
    assert_eq!(server.ready["pid"], server.process.pid());
    server.process.signal(Signal::SIGTERM);
    assert!(server.process.wait(Duration::from_secs(15)).success());
    assert!(!file.exists());
}

#[test]
fn what_up_prints_works_when_pasted_and_ctrl_c_ends_it_with_0() {
    let home = Home::new();
    let mut server = home.up(&[]);
    server.process.signal(Signal::SIGINT);
    assert!(server.process.wait(Duration::from_secs(15)).success());
    let text = server.process.printed();
    let again = home.up(&[]);
    // The key outlives the server; the port was a free one and has changed.
    let old = server.ready["url"].as_str().unwrap();
    let text = text.replace(old, again.ready["url"].as_str().unwrap());
    let curl: String =
        text.lines().skip_while(|line| !line.starts_with("curl ")).take(2).collect::<Vec<_>>().join("\n");
    let output = Command::new("sh").args(["-c", &curl]).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], "19283");
    let python: String = text
        .lines()
        .skip_while(|line| !line.starts_with("from openai"))
        .take_while(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("\n");
    let output = Command::new(given("PENSTOCK_OPENAI_PYTHON")).args(["-c", &python]).output().unwrap();
    assert_eq!(printed(&output), ("19283\n".to_owned(), String::new()));
}

#[test]
fn the_stock_client_gets_sixty_four_right_answers_half_of_them_streamed_sixteen_at_once() {
    let home = Home::new();
    let server = home.up(&[]);
    let script = root().join("tests/openai_client.py");
    let output = Command::new(given("PENSTOCK_OPENAI_PYTHON"))
        .arg(script)
        .args([server.ready["url"].as_str().unwrap(), server.ready["api_key"].as_str().unwrap(), MODEL])
        .output()
        .unwrap();
    let (out, err) = printed(&output);
    println!("{out}");
    assert!(output.status.success(), "{out}\n{err}");
}

#[test]
fn the_stock_client_gets_vectors_from_an_encoder_beside_a_model_that_answers() {
    let home = Home::new();
    let fixtures = root().join("gpu-worker/fixtures");
    let (encoder, model) = (fixtures.join("random-encoder"), fixtures.join(MODEL));
    let models = ["--model", encoder.to_str().unwrap(), "--model", model.to_str().unwrap()];
    let server = home.up(&[["--ephemeral"].as_slice(), &models].concat());
    let output = Command::new(given("PENSTOCK_OPENAI_PYTHON"))
        .arg(root().join("tests/openai_embeddings.py"))
        .args([
            server.ready["url"].as_str().unwrap(),
            server.ready["api_key"].as_str().unwrap(),
            "random-encoder",
            MODEL,
        ])
        .output()
        .unwrap();
    let (out, err) = printed(&output);
    println!("{out}");
    assert!(output.status.success(), "{out}\n{err}");
}

#[test]
fn the_stock_client_gets_forms_tool_calls_and_thoughts_from_a_model_that_would_say_anything() {
    let home = Home::new();
    let model = home.path().join("bytes");
    std::fs::create_dir(&model).unwrap();
    let files = ["tokenizer.json", "chat_template.jinja", "genai_config.json"].map(|file| ("bytes", file));
    for (fixture, file) in files.into_iter().chain([("random-fp32", "model.onnx")]) {
        std::fs::copy(root().join("gpu-worker/fixtures").join(fixture).join(file), model.join(file)).unwrap();
    }
    let server = home.up(&["--ephemeral", "--model", model.to_str().unwrap()]);
    let output = Command::new(given("PENSTOCK_OPENAI_PYTHON"))
        .arg(root().join("tests/openai_tools.py"))
        .args([server.ready["url"].as_str().unwrap(), server.ready["api_key"].as_str().unwrap(), "bytes"])
        .output()
        .unwrap();
    let (out, err) = printed(&output);
    println!("{out}");
    assert!(output.status.success(), "{out}\n{err}");
}

#[test]
fn each_hindrance_is_one_clear_line_with_what_to_do() {
    let home = Home::new();
    let empty = home.path().join("empty-model");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap().to_owned();
    let taken = free_port();
    let _holder = std::net::TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let taken = taken.to_string();
    let server = home.up(&[]);
    for (arguments, expected) in [
        (vec!["up", "--ephemeral", "--port", &taken], "--port"),
        (vec!["up", "--ephemeral", "--port", "0", "--model", &empty], "genai_config.json"),
        (vec!["up", "--ephemeral", "--port", "0", "--model", "/nowhere/at/all"], "/nowhere/at/all"),
        (vec!["up", "--ephemeral", "--port", "0", "--ort", "/nowhere/lib.so"], "/nowhere/lib.so"),
        (vec!["up", "--port", "0"], "--data"),
        (vec!["ask", "hi", "--url", "http://127.0.0.1:1", "--api-key", "ps_a_b"], "127.0.0.1:1"),
    ] {
        let output = home.run(&arguments);
        let (_, words) = printed(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {words}");
        let lines: Vec<&str> =
            words.lines().filter(|line| line.starts_with("penstock: ") && !line.contains("ready in")).collect();
        assert_eq!(lines.len(), 1, "{arguments:?}: {words}");
        assert!(lines[0].contains(expected), "{arguments:?}: {words}");
        assert!(!words.contains("panicked"), "{words}");
    }
    drop(server);
    let nothing_installed = home.path().join("no-programs");
    std::fs::create_dir(&nothing_installed).unwrap();
    let mut command = home.command(&["up", "--ephemeral", "--port", "0"]);
    let output = command.env_remove("PENSTOCK_ORT").env("PATH", nothing_installed).output().unwrap();
    let (_, words) = printed(&output);
    assert!(words.contains("python3 cannot be started") && words.contains("--ort PATH"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_left_in_the_queue_are_answered_after_a_restart_even_after_kill_9() {
    let home = Home::new();
    let mut front = home.up(&["--workers", "0"]);
    let tasks = tasks(3, 12);
    let asking: Vec<_> = tasks
        .iter()
        .map(|(prompt, _)| {
            let (client, prompt) = (front.client.clone(), prompt.clone());
            tokio::spawn(async move {
                let body = json!({"model": MODEL, "temperature": 0, "stream": true, "messages": [{"role": "user", "content": prompt}]});
                // Its answer never comes: the server dies first.
                client.post("/v1/chat/completions", body.to_string()).await
            })
        })
        .collect();
    // Accepted means durable: wait until all are.
    let database = home.path().join("penstock/penstock.db");
    let begun = Instant::now();
    while waiting(&database) < 10 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} accepted", waiting(&database));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    front.process.signal(Signal::SIGKILL);
    front.process.wait(Duration::from_secs(5));
    asking.into_iter().for_each(|task| task.abort());
    let server = home.up(&[]);
    // The same questions find their jobs, done or under way, instead of running again.
    for (prompt, answer) in &tasks {
        let reply = server.client.ask(MODEL, prompt, false).await;
        assert_eq!(&reply.text(), answer, "{prompt}");
    }
    assert_eq!(waiting(&database), 0);
}

/// The messages in the queues of a data folder.
fn waiting(database: &Path) -> u64 {
    // Read through the journal of the running server, as any second reader may.
    let output = Command::new("python3")
        .args(["-c", "import sqlite3,sys; print(sqlite3.connect(sys.argv[1]).execute('select count(*) from message').fetchone()[0])"])
        .arg(database)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_body_however_odd_gets_a_5xx_and_the_server_goes_on() {
    let home = Home::new();
    let server = home.up(&["--ephemeral"]);
    let client = &server.client;
    let message =
        |content: Value| json!({"model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": content}]});
    let with = |field: &str, value: Value| {
        let mut body = message(json!("C:1="));
        body[field] = value;
        body.to_string()
    };
    for (body, status, code) in [
        ("{".to_owned(), 400, "invalid_json"),
        ("[".repeat(200_000), 400, "invalid_json"),
        (message(json!(17)).to_string(), 400, "invalid_type"),
        (with("messages", json!([])), 400, "invalid_value"),
        (with("model", json!("nope")), 404, "model_not_found"),
        (with("max_tokens", json!(10_000_000)), 400, "invalid_value"),
        (with("max_tokens", json!(-1)), 400, "invalid_value"),
        ("x".repeat(10_000_000), 413, "request_too_large"),
        (message(json!("7".repeat(3000))).to_string(), 400, "context_length_exceeded"),
        (message(json!("hello wörld")).to_string(), 400, "untokenizable_prompt"),
    ] {
        let short: String = body.chars().take(60).collect();
        let reply = client.post("/v1/chat/completions", body).await;
        assert_eq!(reply.status, status, "{short}: {}", reply.body);
        assert_eq!(reply.json()["error"]["code"], code, "{short}");
    }
    let invalid_utf8: Vec<u8> = [b"{\"model\": \"".as_slice(), b"\xff\xfe", b"\"}"].concat();
    assert_eq!(client.post("/v1/chat/completions", invalid_utf8).await.status, 400);
    assert_eq!(
        Client::new(server.ready["url"].as_str().unwrap(), "ps_a_b").ask(MODEL, "C:1=", false).await.status,
        401
    );
    random_bodies(client).await;
    assert_eq!(client.ask(MODEL, "R:123=", true).await.text(), "321");
}

/// Bodies made by breaking a good one at random places: an answer or a 4xx, never a 5xx.
async fn random_bodies(client: &Client) {
    let good = json!({"model": MODEL, "temperature": 0, "max_tokens": 4, "stop": ["9"], "seed": 1, "stream": false,
        "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "C:1="}]}]})
    .to_string()
    .into_bytes();
    let mut state = 11u64;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % bound
    };
    let bodies: Vec<Vec<u8>> = (0..600)
        .map(|_| {
            let mut body = good.clone();
            for _ in 0..=below(3) {
                let place = below(body.len());
                match below(4) {
                    0 => body[place] = u8::try_from(below(256)).unwrap(),
                    1 => drop(body.remove(place)),
                    2 => body.insert(place, b"0123456789{}[]\",:-e\\ntf"[below(22)]),
                    _ => {
                        let end = place + below(body.len() - place);
                        body.drain(place..end);
                    }
                }
                if body.is_empty() {
                    break;
                }
            }
            body
        })
        .collect();
    let replies = futures_util::stream::iter(bodies).map(|body| async move {
        let reply = client.post("/v1/chat/completions", body.clone()).await;
        (String::from_utf8_lossy(&body).into_owned(), reply)
    });
    let replies: Vec<_> = replies.buffer_unordered(16).collect().await;
    let answered = replies.iter().filter(|(_, reply)| reply.status == 200).count();
    for (body, reply) in &replies {
        assert!(reply.status < 500, "{} for {body}: {}", reply.status, reply.body);
    }
    println!("600 broken bodies: {answered} still answered, the rest refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_running_answers_finish() {
    let home = Home::new();
    let mut server = home.up(&[]);
    let (client, begun) = (server.client.clone(), Instant::now());
    let tasks = tasks(5, 32);
    let asked = tasks.clone();
    let asking = tokio::spawn(async move {
        let replies = futures_util::stream::iter(asked).map(|(prompt, _)| {
            let client = client.clone();
            async move { client.ask(MODEL, &prompt, false).await }
        });
        replies.buffered(4).take(4).collect::<Vec<_>>().await
    });
    let replies = asking.await.unwrap();
    server.process.signal(Signal::SIGTERM);
    assert!(server.process.wait(Duration::from_secs(15)).success());
    for (reply, (_, answer)) in replies.iter().zip(&tasks) {
        assert_eq!(&reply.text(), answer);
    }
    println!("served and stopped in {} ms", begun.elapsed().as_millis());
}
