//! The fleet of one machine as a real process, on the real model: load brings workers, calm takes them away, nothing is
//! lost, and what was decided can be shown and decided again.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise and prints its figures")]

use std::time::{Duration, Instant};

use harness::client::tasks;
use harness::server::{Home, printed};
use serde_json::{Value, json};

const MODEL: &str = "task-int4";

/// How long load lasts, and how long a worker at most takes to go: a minute after the last launch, and the calm.
const LOAD: Duration = Duration::from_secs(40);
const GONE_WITHIN: Duration = Duration::from_secs(180);

/// The ticks so far.
fn ticks(home: &Home) -> Vec<Value> {
    let (text, words) = printed(&home.run(&["fleet", MODEL, "--json"]));
    let log: Value = serde_json::from_str(&text).unwrap_or_else(|_| unreachable!("{text}{words}"));
    log["data"].as_array().unwrap().clone()
}

fn ready(tick: &Value) -> u64 {
    tick["workers"][1].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn load_brings_workers_calm_takes_them_away_nothing_is_lost_and_every_tick_flies_again() {
    let home = Home::new();
    let server = home.up(&["--autoscale", "1..3", "--calm", "10s", "--slots", "1"]);
    let begun = Instant::now();
    let alone = server.process.resident_kib();
    let asking: Vec<_> = (0..24)
        .map(|seed| {
            let client = server.client.clone();
            tokio::spawn(async move {
                let (mut answered, mut right) = (0, 0);
                for (prompt, answer) in tasks(seed, 24).into_iter().cycle() {
                    if begun.elapsed() >= LOAD {
                        break;
                    }
                    let messages = json!([{"role": "user", "content": prompt}]);
                    // Greedy, but not by its own words: what need not come out the same is not answered from memory.
                    let body = json!({"model": MODEL, "temperature": 1, "top_k": 1, "messages": messages});
                    let reply = client.post("/v1/chat/completions", body.to_string()).await;
                    assert_eq!(reply.status, 200, "{}", reply.body);
                    let said: Value = serde_json::from_str(&reply.body).unwrap();
                    answered += 1;
                    // The little model errs now and then on its longest tasks, whoever runs it.
                    right += u32::from(said["choices"][0]["message"]["content"] == answer);
                }
                (answered, right)
            })
        })
        .collect();
    let (mut answered, mut right) = (0u32, 0u32);
    for asked in asking {
        let (all, of_them) = asked.await.unwrap();
        answered += all;
        right += of_them;
    }
    assert!(answered > 24 && right * 10 >= answered * 9, "{right} of {answered}");
    let crowded = server.process.resident_kib();
    let most = ticks(&home).iter().map(ready).max().unwrap();
    println!("{answered} answers, {right} right; {most} workers at most; {alone} KiB with one, {crowded} KiB then");
    assert!(most >= 2, "load brought no worker");
    while ready(ticks(&home).last().unwrap()) > 1 {
        assert!(begun.elapsed() < LOAD + GONE_WITHIN, "nobody went");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let (timeline, _) = printed(&home.run(&["fleet", MODEL]));
    println!("{timeline}{} KiB resident at the end", server.process.resident_kib());
    assert!(timeline.contains("launch") && timeline.contains("drain") && timeline.contains("release"), "{timeline}");
    let file = home.path().join("ticks.jsonl");
    let file = file.to_str().unwrap();
    assert!(home.run(&["fleet", MODEL, "--record", file]).status.success());
    let (text, words) = printed(&home.run(&["simulate", "replay", file]));
    assert!(text.contains("planned the same bit for bit") && !text.contains("differs"), "{text}{words}");
    println!("{text}");
}
