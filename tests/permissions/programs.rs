//! The programs themselves, each under its role: functions, a decoding worker and an encoding one.

use std::time::Duration;

use harness::client::{Client, Reply};
use harness::deployment::Deployment;
use harness::process::{Process, Signal};
use penstock_policy::classes::Class;
use penstock_policy::gcra::Limit;
use penstock_policy::id::TenantId;
use penstock_policy::tenant::{Budget, Period, Ramp, TenantLimits};
use penstock_service::ApiKey;
use penstock_service::PREPARED_LIST;
use penstock_service::ports::{BlobKey, Blobs, Clock, Control, Entropy, Tenant};
use penstock_service::system::{OsEntropy, SystemClock};
use serde_json::{Value, json};

use crate::{ENCODER, MODEL};

/// Asks for everything there is, once.
pub(crate) async fn run(deployment: &Deployment) {
    let client = Client::new(&deployment.url, &deployment.key);
    let start = |pool, name| Process::start(&mut deployment.worker(pool, pool, name));
    let mut workers = [start(MODEL, "decoder"), start(ENCODER, "encoder")];
    deployment.signed_on(MODEL, "decoder").await;
    deployment.signed_on(ENCODER, "encoder").await;
    let control = deployment.functions["control"].clone();
    let ticking = tokio::spawn(async move { control.call(&json!({"source": "aws.events"})).await });

    let limited = limited(deployment, "limited", 600).await;
    assert_eq!(limited.send("GET", "/v1/models").await.status, 200);
    answers_are_made_kept_and_given_again(&client).await;
    a_tenant_with_limits_is_held_to_them(&limited).await;
    what_was_stored_for_a_refused_request_is_removed(&self::limited(deployment, "tight", 1).await).await;
    jobs_are_shown_explained_and_cancelled(&client).await;
    questions_are_prepared(deployment).await;
    responses_are_kept_and_removed(&client).await;
    files_are_kept_and_removed(&client).await;
    large_requests_and_results_take_the_way_around(&client).await;

    for worker in &mut workers {
        worker.signal(Signal::SIGTERM);
    }
    for worker in &mut workers {
        assert!(worker.wait(Duration::from_secs(30)).success(), "a worker signs off");
    }
    ticking.abort();
}

/// A tenant with every limit there is, and a key of it.
async fn limited(deployment: &Deployment, id: &str, requests_per_minute: u64) -> Client {
    let key = ApiKey::generate(|| OsEntropy.draw());
    let id = TenantId::new(id).unwrap();
    deployment.aws.put_key(&key.record(id.clone())).await.unwrap();
    let limits = TenantLimits {
        concurrency: Some(64),
        budget: Some(Budget { usd_micros: 1_000_000, period: Period::Day }),
        ramp: Some(Ramp { floor_per_minute: 600, growth_percent_per_minute: 50 }),
        ..TenantLimits::rates(Limit::per_minute(requests_per_minute).unwrap(), Limit::per_minute(1_000_000).unwrap())
    };
    deployment.aws.put_tenant(&Tenant::new(id, Class::P0, limits, SystemClock.now())).await.unwrap();
    Client::new(&deployment.url, &key.expose())
}

fn chat(prompt: &str) -> Value {
    json!({"model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": prompt}]})
}

/// A question in a body that no queue takes. The model's template leaves out all but the last message.
fn long(prompt: &str) -> Value {
    let mut body = chat(prompt);
    body["messages"].as_array_mut().unwrap().insert(0, json!({"role": "system", "content": "1".repeat(300_000)}));
    body
}

fn id_of(reply: &Reply) -> String {
    reply.json()["id"].as_str().unwrap().to_owned()
}

async fn answers_are_made_kept_and_given_again(client: &Client) {
    assert_eq!(client.send("GET", "/healthz").await.status, 200);
    let fresh = client.ask(MODEL, "S:4213=", false).await;
    assert_eq!((fresh.status, fresh.text().as_str()), (200, "1234"));
    assert_eq!(client.ask(MODEL, "S:4213=", false).await.text(), "1234");
    assert_eq!(client.ask(MODEL, "R:123=", true).await.text(), "321");
    let completion = json!({"model": MODEL, "prompt": "C:1=", "temperature": 0});
    assert_eq!(client.post("/v1/completions", completion.to_string()).await.status, 200);
    // A retry of what is not deterministic finds the first attempt's job.
    let mut warm = chat("C:22=");
    warm["temperature"] = json!(1);
    assert_eq!(client.post("/v1/chat/completions", warm.to_string()).await.status, 200);
    let retried = client.post_with("/v1/chat/completions", &[("x-stainless-retry-count", "1")], warm.to_string()).await;
    assert_eq!(retried.status, 200);
    assert_eq!(client.ask_anew(MODEL, "C:333=", "once").await.status, 200);
}

/// Asked when the list is new, found answered later, and refused where the model is none.
async fn questions_are_prepared(deployment: &Deployment) {
    let list = BlobKey::new(PREPARED_LIST).unwrap();
    let none = deployment.functions["preload"].call(&json!({"source": "aws.events"})).await.unwrap();
    assert_eq!(none["questions"], 0, "there is no list yet: {none}");
    let lines = [chat("R:4711="), long("R:4712="), json!({"model": "none", "messages": []})];
    let lines = lines.map(|line| line.to_string()).join("\n");
    deployment.aws.put(&list, lines.into()).await.unwrap();
    let begun = std::time::Instant::now();
    loop {
        let report = deployment.functions["preload"].call(&json!({"source": "aws.s3"})).await.unwrap();
        assert_eq!(report["questions"], 3, "{report}");
        if report["ready"] == 2 {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{report}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn a_tenant_with_limits_is_held_to_them(client: &Client) {
    for prompt in ["C:1=", "C:22=", "C:1="] {
        assert_eq!(client.ask(MODEL, prompt, false).await.status, 200);
    }
    let dry = client.post_with("/v1/chat/completions", &[("x-penstock-dry-run", "1")], chat("C:55=").to_string()).await;
    assert_eq!(dry.status, 200);
}

async fn what_was_stored_for_a_refused_request_is_removed(client: &Client) {
    assert_eq!(client.ask(MODEL, "C:1=", false).await.status, 200);
    let refused = client.post("/v1/chat/completions", long("C:22=").to_string()).await;
    assert_eq!(refused.status, 429, "{}", refused.body);
}

async fn jobs_are_shown_explained_and_cancelled(client: &Client) {
    let reply = client.ask(MODEL, "R:98=", false).await;
    let job = reply.header("x-penstock-job-id").to_owned();
    for path in [
        "/openapi.json".to_owned(),
        "/v1/models".to_owned(),
        format!("/v1/models/{MODEL}"),
        format!("/v1/jobs/{job}"),
        format!("/v1/jobs/{job}/explain"),
        "/v1/usage".to_owned(),
        "/v1/promises".to_owned(),
    ] {
        assert_eq!(client.send("GET", &path).await.status, 200, "{path}");
    }
    assert_eq!(client.send("DELETE", &format!("/v1/jobs/{job}")).await.status, 200);
}

async fn responses_are_kept_and_removed(client: &Client) {
    let ask = json!({"model": MODEL, "input": "R:45=", "temperature": 0, "background": true});
    let first = id_of(&client.post("/v1/responses", ask.to_string()).await);
    let begun = std::time::Instant::now();
    while client.send("GET", &format!("/v1/responses/{first}")).await.json()["status"] != "completed" {
        assert!(begun.elapsed() < Duration::from_secs(30), "no response");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(client.send("GET", &format!("/v1/responses/{first}/input_items")).await.status, 200);
    let job = first.trim_start_matches("resp_").to_owned();
    assert_eq!(client.send("GET", &format!("/v1/jobs/{job}")).await.status, 200);
    let second = json!({"model": MODEL, "input": "R:67=", "temperature": 0, "background": true});
    let second = id_of(&client.post("/v1/responses", second.to_string()).await);
    assert_eq!(client.post(&format!("/v1/responses/{second}/cancel"), "").await.status, 200);
    assert_eq!(client.send("DELETE", &format!("/v1/responses/{first}")).await.status, 200);
    assert_eq!(client.send("GET", &format!("/v1/responses/{first}")).await.status, 404);
}

async fn files_are_kept_and_removed(client: &Client) {
    let form = "--edge\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nuser_data\r\n\
        --edge\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\
        content-type: text/plain\r\n\r\nwater\r\n--edge--\r\n";
    let media = [("content-type", "multipart/form-data; boundary=edge")];
    let kept = client.post_with("/v1/files", &media, form.to_owned()).await;
    assert_eq!(kept.status, 200, "{}", kept.body);
    let file = id_of(&kept);
    assert_eq!(client.send("GET", "/v1/files").await.status, 200);
    assert_eq!(client.send("GET", &format!("/v1/files/{file}/content")).await.body, "water");
    assert_eq!(client.send("DELETE", &format!("/v1/files/{file}")).await.status, 200);
}

async fn large_requests_and_results_take_the_way_around(client: &Client) {
    assert_eq!(client.post("/v1/chat/completions", long("C:4444=").to_string()).await.status, 200);
    let texts: Vec<String> = (0..1024).map(|n| format!("lamp {n}")).collect();
    let ask = json!({"model": ENCODER, "input": texts});
    for _ in 0..2 {
        let reply = client.post("/v1/embeddings", ask.to_string()).await;
        assert_eq!((reply.status, reply.json()["data"].as_array().map(Vec::len)), (200, Some(1024)));
        let job = client.send("GET", &format!("/v1/jobs/{}", reply.header("x-penstock-job-id"))).await;
        assert!(job.status == 200 || reply.header("x-penstock-served-by") != "fresh");
    }
}
