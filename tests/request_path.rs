//! The request path over AWS, on the project's own stack: HTTP by the template's routes, the real Lambda binaries with the
//! template's environment and roles, DynamoDB and SQS on the wire, real `gpu-worker` processes on ONNX Runtime, and back;
//! whole and streamed, undisturbed and under fire.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and prints its figures"
)]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use harness::client::{Client, Reply, tasks};
use harness::deployment::{Deployment, deploy};
use harness::ministack::Ministack;
use harness::process::{Process, Signal, free_port};
use harness::{built, given};
use penstock_policy::id::JobId;
use penstock_policy::job::State;
use penstock_service::PREPARED_LIST;
use penstock_service::ports::{BlobKey, Blobs, Jobs};
use serde_json::json;

const MODEL: &str = "task-int4";

/// A deployment with its API, and what it takes to start workers.
struct Stack {
    _ministack: Ministack,
    deployment: Deployment,
    client: Client,
}

impl Stack {
    async fn start() -> Self {
        let ministack = Ministack::start().await;
        let deployment = deploy(&ministack, "path", &[MODEL]).await;
        let client = Client::new(&deployment.url, &deployment.key);
        Self { _ministack: ministack, deployment, client }
    }

    /// Starts a worker, and waits until it has signed on.
    async fn worker(&self, name: &str) -> Process {
        self.worker_with(name, &[], "warn", std::process::Stdio::inherit()).await
    }

    async fn worker_with(&self, name: &str, more: &[&str], level: &str, words: std::process::Stdio) -> Process {
        let mut command = self.deployment.worker(MODEL, MODEL, name);
        command.args(more);
        let process = Process::start(command.env("PENSTOCK_LOG", level).stderr(words));
        self.deployment.signed_on(MODEL, name).await;
        process
    }

    /// The record of an answer's job, once its consequences are drawn, which is a moment after the answer.
    async fn job_of(&self, reply: &Reply) -> penstock_service::ports::JobRecord {
        let id: JobId = reply.header("x-penstock-job-id").parse().unwrap();
        let begun = Instant::now();
        loop {
            let record = self.deployment.aws.record(id).await.unwrap().unwrap();
            if !record.head.unsettled {
                return record;
            }
            // A worker that dies just then leaves it to whom the message comes to next; the machine may be busy.
            assert!(begun.elapsed() < Duration::from_secs(40), "job {id} is not settled");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Asks all tasks, 16 at once, every second one streamed.
async fn ask_all(client: &Client, tasks: &[(String, String)]) -> Vec<Reply> {
    let asked = tasks.iter().enumerate().map(|(n, (prompt, _))| {
        let (client, prompt) = (client.clone(), prompt.clone());
        async move { client.ask(MODEL, &prompt, n % 2 == 0).await }
    });
    futures_util::stream::iter(asked.collect::<Vec<_>>()).buffered(16).collect().await
}

/// How many answers are right; the model itself misses one in 300.
fn right(replies: &[Reply], tasks: &[(String, String)]) -> usize {
    replies.iter().zip(tasks).filter(|(reply, (_, answer))| reply.text() == *answer).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_requests_are_answered_right_each_published_once_and_their_aws_calls_are_counted() {
    let stack = Stack::start().await;
    let words = tempfile::NamedTempFile::new().unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let mut worker = stack.worker_with("w1", &["--metrics", &address], "info", words.reopen().unwrap().into()).await;
    let tasks = tasks(64, 64);
    let replies = ask_all(&stack.client, &tasks).await;
    assert!(right(&replies, &tasks) >= 63, "{} of 64 right", right(&replies, &tasks));
    for (reply, (prompt, _)) in replies.iter().zip(&tasks) {
        // A prompt drawn twice is one job, which the second asker joins.
        if reply.header("x-penstock-served-by") == "fresh" && !reply.header("x-penstock-job-id").is_empty() {
            let record = stack.job_of(reply).await;
            assert_eq!(
                (record.head.state, record.head.epoch.0, record.head.unsettled),
                (State::Succeeded, 1, false),
                "{prompt}"
            );
        }
    }
    let inits: Vec<u128> = stack.deployment.functions["front"].inits().iter().map(Duration::as_millis).collect();
    println!("front: {} environments, init {:?} ms", inits.len(), inits);
    assert_embedded_agrees(&replies, &tasks).await;
    assert_calls_of_one_request(&stack).await;
    // The worker's own numbers: of its engine, of what its service did, and one end.
    let told = Client::new(&format!("http://{address}"), "").send("GET", "/metrics").await.body;
    for name in ["penstock_engine_tokens_decoded_total{", "penstock_engine_memory_used_bytes{", "penstock_jobs_total{"]
    {
        assert!(told.contains(name), "{name} is not in\n{told}");
    }
    assert!(told.contains("worker=\"w1\"") && told.matches("# EOF").count() == 1, "{told}");
    worker.signal(Signal::SIGTERM);
    assert!(worker.wait(Duration::from_secs(30)).success());
    let words = std::fs::read_to_string(words.path()).unwrap();
    let last = words.lines().find(|line| line.contains("worker has drained")).unwrap();
    println!("the worker in all, {} requests: {last}", tasks.len() + 3);
}

/// The same prompts through `penstock up` give the same texts.
async fn assert_embedded_agrees(replies: &[Reply], tasks: &[(String, String)]) {
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready.json");
    let mut command = Command::new(built("penstock"));
    command.args(["up", "--ephemeral", "--port", "0", "--ort", &given("PENSTOCK_ORT"), "--ready-file"]).arg(&ready);
    command.env("XDG_CACHE_HOME", folder.path()).stdout(std::process::Stdio::null());
    let _embedded = Process::start(&mut command);
    let ready = harness::process::appears(&ready, Duration::from_secs(60));
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let client = Client::new(ready["url"].as_str().unwrap(), ready["api_key"].as_str().unwrap());
    let embedded = ask_all(&client, tasks).await;
    for ((by_aws, by_embedded), (prompt, _)) in replies.iter().zip(&embedded).zip(tasks) {
        assert_eq!(by_aws.text(), by_embedded.text(), "{prompt}");
    }
}

/// One request on a warm environment, its calls counted by the emulator's own log of the port: the front door makes
/// them in a process of its own, so the same use case runs here on counted ports.
async fn assert_calls_of_one_request(stack: &Stack) {
    use penstock_service::system::{OsEntropy, TaskSpawner};
    let aws = &stack.deployment.aws;
    let ports = aws.ports(Arc::new(TaskSpawner), Arc::new(OsEntropy));
    let service = penstock_service::Service::new(ports, penstock_service::config::Timing::default(), b"counted");
    let router = penstock_service::front_router(Arc::new(service));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client = Client::new(&url, &stack.deployment.key);
    // Warm: keys, tenant, pools, capacity, queue URL.
    assert_eq!(client.ask(MODEL, "C:1=", false).await.text(), "1");
    for (what, prompt, streamed) in
        [("whole", "C:22=", false), ("streamed", "R:1234567890=", true), ("again", "C:22=", false)]
    {
        let before = aws.calls().snapshot();
        client.ask(MODEL, prompt, streamed).await;
        let calls: BTreeMap<String, u64> = aws
            .calls()
            .snapshot()
            .into_iter()
            .map(|(call, count)| (call.clone(), count - before.get(&call).copied().unwrap_or(0)))
            .filter(|(_, count)| *count > 0)
            .collect();
        println!("AWS calls of the front door, one request, {what}: {calls:?}");
        let writes: u64 = calls
            .iter()
            .filter(|(call, _)| call.contains("UpdateItem") || call.contains("PutItem"))
            .map(|(_, n)| n)
            .sum();
        let sends: u64 = calls.iter().filter(|(call, _)| call.contains("SendMessage")).map(|(_, n)| n).sum();
        // A known answer costs its tenant a request; a run costs tenant, virtual queue, marker and record.
        let (most_writes, expected_sends) = if what == "again" { (1, 0) } else { (4, 1) };
        assert!(writes <= most_writes, "{what}: {calls:?}");
        assert_eq!(sends, expected_sends, "{what}: {calls:?}");
    }
}

/// The worker is slowed to about an eightieth, so that an answer of ten digits takes long enough to be interrupted; half of the
/// workers die when their client has read the first words, half at some moment after the question.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_between_claim_and_finish_or_in_mid_stream_is_replaced_and_no_word_is_lost_or_said_twice() {
    // When a kill strikes is chance: go on until enough have struck in the midst of work, of both kinds.
    const MOST_ROUNDS: usize = 24;
    const ENOUGH: (usize, usize) = (4, 2);
    let stack = Stack::start().await;
    let long = tasks(7, 400).into_iter().filter(|(prompt, _)| prompt.len() == 13).take(MOST_ROUNDS).collect::<Vec<_>>();
    let (mut kills, mut right, mut taken_over, mut in_mid_stream, mut left_unsettled) = (0, 0, 0, 0, 0);
    for (round, (prompt, answer)) in long.iter().enumerate() {
        if taken_over >= ENOUGH.0 && in_mid_stream >= ENOUGH.1 {
            break;
        }
        kills += 1;
        let mut worker = stack.worker(&format!("victim-{round}")).await;
        let slowed = worker.slowed(Duration::from_millis(1), Duration::from_millis(80));
        let (client, asked) = (stack.client.clone(), prompt.clone());
        let asking = if round % 2 == 0 {
            let mut arriving = client.begin(MODEL, &asked).await;
            arriving.first_words().await;
            tokio::spawn(arriving.rest())
        } else {
            let asking = tokio::spawn(async move { client.ask(MODEL, &asked, false).await });
            tokio::time::sleep(Duration::from_millis(500 + 60 * (round % 8) as u64)).await;
            asking
        };
        worker.signal(Signal::SIGKILL);
        drop(slowed);
        worker.wait(Duration::from_secs(5));
        let mut successor = stack.worker(&format!("successor-{round}")).await;
        let reply = tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap().unwrap();
        // A worker may have died after the end was written and before its consequences were drawn.
        let id = reply.header("x-penstock-job-id").parse().unwrap();
        left_unsettled += usize::from(stack.deployment.aws.record(id).await.unwrap().unwrap().head.unsettled);
        // What an undisturbed run of the same question says, under a key of its own.
        let undisturbed = stack.client.ask_anew(MODEL, prompt, &format!("undisturbed-{round}")).await;
        assert_eq!(reply.text(), undisturbed.text(), "{prompt}");
        right += usize::from(reply.text() == *answer);
        let record = stack.job_of(&reply).await;
        assert_eq!(record.head.state, State::Succeeded, "{prompt}");
        taken_over += usize::from(record.head.epoch.0 > 1);
        let chunks = stack.deployment.aws.chunks(id, None).await.unwrap();
        in_mid_stream += usize::from(chunks.iter().any(|chunk| chunk.parent.is_some()));
        successor.signal(Signal::SIGTERM);
        assert!(successor.wait(Duration::from_secs(15)).success());
    }
    println!(
        "{kills} kills: {taken_over} jobs taken over, {in_mid_stream} of them with words said, {left_unsettled} ended and left unsettled; all texts as undisturbed, {right} of them right"
    );
    // At the full ten digits the model itself misses more often than elsewhere; what counts is that nothing has changed.
    assert!(right * 2 >= kills, "{right} of {kills} right");
    assert!(taken_over >= ENOUGH.0 && in_mid_stream >= ENOUGH.1, "the kills came too late to show anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_questions_are_answered_before_anybody_asks_and_a_list_that_is_gone_prepares_nothing() {
    let stack = Stack::start().await;
    let _worker = stack.worker("preparer").await;
    let preload = &stack.deployment.functions["preload"];
    let question = |prompt: &str| json!({"model": MODEL, "messages": [{"role": "user", "content": prompt}]});
    let (asked, other) = (question("R:4711="), question("R:4712="));
    let list = BlobKey::new(PREPARED_LIST).unwrap();
    let lines = format!("{asked}\n\n{other}\n{{\"model\": \"none\"}}\n");
    stack.deployment.aws.put(&list, lines.into()).await.unwrap();
    let begun = Instant::now();
    let report = loop {
        let report = preload.call(&json!({"source": "aws.events"})).await.unwrap();
        assert_eq!((&report["questions"], report["failed"].as_array().unwrap().len()), (&json!(3), 1), "{report}");
        if report["ready"] == 2 {
            break report;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{report}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(report["failed"][0]["line"], 4, "lines are counted as an editor does");
    let reply = stack.client.post("/v1/chat/completions", asked.to_string()).await;
    assert_eq!(reply.text(), "1174");
    assert!(reply.header("x-penstock-job-id").is_empty() || reply.header("x-penstock-served-by") != "fresh");
    stack.deployment.aws.remove(&list).await.unwrap();
    let report = preload.call(&json!({})).await.unwrap();
    assert_eq!(report, json!({"questions": 0, "ready": 0, "asked": 0, "failed": []}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_stop_hands_back_what_it_cannot_finish() {
    let stack = Stack::start().await;
    let mut first = stack.worker("first").await;
    let tasks = tasks(9, 24);
    let (client, asked) = (stack.client.clone(), tasks.clone());
    let asking = tokio::spawn(async move { ask_all(&client, &asked).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    first.signal(Signal::SIGTERM);
    assert!(first.wait(Duration::from_secs(30)).success(), "a drained worker exits with 0");
    let _second = stack.worker("second").await;
    let replies = tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap().unwrap();
    assert!(right(&replies, &tasks) >= 23);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_jobs_and_models_are_answered_by_the_functions_as_by_the_embedded_server() {
    let stack = Stack::start().await;
    let _worker = stack.worker("w1").await;
    let client = &stack.client;
    assert_eq!(client.send("GET", "/healthz").await.status, 200);
    let models = client.send("GET", "/v1/models").await.json();
    assert_eq!(models["data"][0]["id"], MODEL);
    assert_eq!(client.post("/v1/chat/completions", "{").await.json()["error"]["code"], "invalid_json");
    let unknown = client.ask("nope", "C:1=", false).await;
    assert_eq!(
        (unknown.status, unknown.json()["error"]["code"].as_str().unwrap().to_owned()),
        (404, "model_not_found".into())
    );
    let long = client.ask(MODEL, &"1".repeat(2000), false).await;
    assert_eq!(
        (long.status, long.json()["error"]["code"].as_str().unwrap().to_owned()),
        (400, "context_length_exceeded".into())
    );
    let reply = client.ask(MODEL, "S:4213=", false).await;
    let job = client.send("GET", &format!("/v1/jobs/{}", reply.header("x-penstock-job-id"))).await.json();
    assert_eq!(
        (job["status"].as_str(), job["result"]["choices"][0]["message"]["content"].as_str()),
        (Some("succeeded"), Some("1234"))
    );
    assert_eq!(client.send("GET", "/v1/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV").await.status, 404);
    // The gateway has no such route, whatever the function would say.
    let unknown = client.send("GET", "/v1/chat/completions").await;
    assert_eq!((unknown.status, unknown.json()["error"]["code"].as_str()), (404, Some("unknown_url")));
}
