//! `penstock tenant` and `penstock explain` as real processes: on a running server, on the folder of a stopped one, and
//! refused where they should be. The server has no workers, so nothing here needs ONNX Runtime.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use harness::built;
use harness::client::Client;
use harness::process::{Process, Signal, appears};
use serde_json::{Value, json};

/// A data folder and the server on it.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn data(&self) -> &Path {
        self.folder.path()
    }

    fn up(&self) -> (Process, String) {
        let ready = self.data().join("ready.json");
        let mut command = self.command(&["up", "--port", "0", "--workers", "0"]);
        let process = Process::start(command.stdout(Stdio::null()));
        let text = appears(&ready, Duration::from_secs(60));
        let ready: Value = serde_json::from_str(&text).unwrap();
        (process, ready["url"].as_str().unwrap().to_owned())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(built("penstock"));
        command.args(arguments).arg("--data").arg(self.data()).env("XDG_CACHE_HOME", self.data());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command that must succeed prints with `--json`.
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {errors}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }
}

/// What a person reads of a command that must succeed.
fn words(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn the_operator_deals_with_tenants_of_a_running_server_and_of_a_stopped_one() {
    let home = Home { folder: tempfile::tempdir().unwrap() };
    let (mut server, url) = home.up();
    let file = home.data().join("operator-key");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let added = home.json(&["tenant", "add", "acme", "--requests", "60", "--budget", "2.50/day"]);
    assert_eq!(added["tenant"]["terms"]["budget_usd"], "2.500000");
    let first = added["key"]["key"].as_str().unwrap().to_owned();
    let second = home.json(&["tenant", "key", "new", "acme", "--label", "ci"]);
    let client = |key: &str| Client::new(&url, key);
    assert_eq!(client(&first).send("GET", "/v1/models").await.status, 200);

    // A job that waits is explained to the operator, and to its tenant alone.
    let body = json!({"model": "task-int4", "messages": [{"role": "user", "content": "R:12="}], "stream": true});
    let waiting = client(&first);
    let asked = tokio::spawn(async move { waiting.post("/v1/chat/completions", body.to_string()).await });
    let id = loop {
        if let Some(id) = first_job(home.data()) {
            break id;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let told = words(&home.run(&["explain", &id]));
    assert!(told.contains("queued") && told.contains("tenant acme") && told.contains("limit of requests"), "{told}");
    let local = std::fs::read_to_string(home.data().join("api-key")).unwrap();
    assert_eq!(client(local.trim()).send("GET", &format!("/v1/jobs/{id}/explain")).await.status, 404);
    assert_eq!(client(&first).send("GET", &format!("/v1/jobs/{id}/explain")).await.status, 200);
    asked.abort();

    // A revoked key stops at once where it was revoked; the other goes on.
    let key_id = added["key"]["id"].as_str().unwrap();
    home.json(&["tenant", "key", "revoke", "acme", key_id]);
    assert_eq!(client(&first).send("GET", "/v1/models").await.status, 401);
    assert_eq!(client(second["key"].as_str().unwrap()).send("GET", "/v1/models").await.status, 200);
    let listed = words(&home.run(&["tenant", "key", "list", "acme"]));
    assert!(listed.contains("revoked as of") && listed.contains("ci"), "{listed}");

    // Nobody else's business.
    let outsider = client(second["key"].as_str().unwrap());
    assert_eq!(outsider.send("GET", "/admin/v1/tenants").await.status, 401);

    server.signal(Signal::SIGTERM);
    assert!(server.wait(Duration::from_secs(15)).success());
    home.json(&["tenant", "suspend", "acme"]);
    let shown = home.json(&["tenant", "show", "acme"]);
    assert_eq!((&shown["terms"]["suspended"], &shown["terms"]["requests_per_minute"]), (&json!(true), &json!(60)));
    let usage = home.json(&["tenant", "usage", "acme"]);
    assert_eq!(usage["tenant"], "acme");
    let list = words(&home.run(&["tenant", "list"]));
    assert!(list.contains("acme") && list.contains("local"), "{list}");
}

/// The id of the only job in a server's database.
fn first_job(data: &Path) -> Option<String> {
    let script =
        "import sqlite3, sys; print(*[row[0] for row in sqlite3.connect(sys.argv[1]).execute('SELECT id FROM job')])";
    let output = Command::new("python3").args(["-c", script]).arg(data.join("penstock.db")).output().ok()?;
    let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (id.len() == 26).then_some(id)
}

#[test]
fn what_cannot_be_done_is_said_in_one_line_with_what_to_do() {
    let home = Home { folder: tempfile::tempdir().unwrap() };
    let complaint = |arguments: &[&str]| {
        let output = home.run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let nothing = complaint(&["tenant", "list"]);
    assert!(nothing.contains("start `penstock up` first") && nothing.trim().lines().count() == 1, "{nothing}");
    let (_server, _) = home.up();
    for (arguments, hint) in [
        (&["tenant", "show", "nobody"][..], "no tenant 'nobody'"),
        (&["tenant", "show", "a/b"], "not a name"),
        (&["tenant", "add", "local"], "already"),
        (&["tenant", "set", "local", "--class", "p9"], "p0, p1, p2 or p3"),
        (&["tenant", "usage", "local", "--from", "lately"], "'from' must be a day"),
        (&["explain", "x"], "not a job id"),
        (&["explain", "01ARZ3NDEKTSV4RRFFQ69G5FAV"], "no such job"),
    ] {
        let said = complaint(arguments);
        assert!(said.contains(hint) && said.trim().lines().count() == 1, "{arguments:?}: {said}");
    }
}
