//! Dashboards and alarms against what is really measured: every name exists, every metric is shown or watched, every alarm
//! has a page in the runbook, and Prometheus, fed from a server under load, answers what each panel asks.
//!
//! Boards are written from `panels.rs`: `PENSTOCK_WRITE=1 cargo test -p system-tests --features processes --test
//! observability`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and prints what it skips"
)]

mod cloudwatch;
mod grafana;
mod panels;
mod traces;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::client::{Client, tasks};
use harness::process::{Process, free_port};
use harness::root;
use harness::server::{Home, Server};
use panels::{Series, boards};
use penstock_service::telemetry::emf::is_dimension;
use penstock_service::telemetry::{Kind, Metric};
use serde_json::Value;

const MODEL: &str = "task-int4";

fn metric_named(name: &str) -> Option<Metric> {
    Metric::ALL.into_iter().find(|metric| metric.name() == name)
}

/// Compares a made file with what is committed, or writes it.
fn is_up_to_date(path: &Path, made: &str) {
    if std::env::var_os("PENSTOCK_WRITE").is_some() {
        std::fs::write(path, made).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == made, "{} is not what panels.rs says: set PENSTOCK_WRITE=1 once", path.display());
}

#[test]
fn the_dashboards_are_made_of_the_list_of_panels() {
    for board in boards() {
        let text = format!("{}\n", serde_json::to_string_pretty(&grafana::dashboard(&board)).unwrap());
        is_up_to_date(&root().join(format!("infra/grafana/{}.json", board.name)), &text);
    }
    is_up_to_date(&root().join("infra/dashboards.yaml"), &cloudwatch::stack(&boards()));
}

/// The metrics of our own that the text names, in Prometheus' form.
fn named_in(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c| !word(c)).filter(|word| word.starts_with("penstock_"));
    words.map(str::to_owned).collect()
}

/// The list's metric that such a name is a form of.
fn of_list(name: &str) -> Option<Metric> {
    let name = name.strip_prefix("penstock_")?;
    ["", "_total", "_bucket", "_sum", "_count"].into_iter().find_map(|suffix| {
        let metric = metric_named(name.strip_suffix(suffix)?)?;
        let fits = match metric.kind() {
            Kind::Counter => suffix == "_total",
            Kind::Gauge => suffix.is_empty(),
            Kind::Histogram => !suffix.is_empty() && suffix != "_total",
        };
        fits.then_some(metric)
    })
}

#[test]
fn alerts_name_metrics_of_the_list_and_every_metric_is_shown_or_watched() {
    let rules = std::fs::read_to_string(root().join("infra/prometheus/alerts.yaml")).unwrap();
    let mut seen = BTreeSet::new();
    for name in named_in(&rules).into_iter().filter(|name| !name.starts_with("penstock_engine_")) {
        seen.insert(of_list(&name).unwrap_or_else(|| panic!("{name} is not measured")));
    }
    for series in boards().iter().flat_map(|board| &board.panels).flat_map(|panel| &panel.series) {
        match series {
            Series::Rate(metric, _)
            | Series::UsdPerHour(metric, _)
            | Series::Level(metric, _)
            | Series::Quantile(metric, ..) => drop(seen.insert(*metric)),
            Series::Part { part, of, .. } => seen.extend([*part, *of]),
            Series::Engine(..) => {}
        }
    }
    let unseen: Vec<&str> = Metric::ALL.into_iter().filter(|of| !seen.contains(of)).map(Metric::name).collect();
    assert!(unseen.is_empty(), "measured for nobody: {unseen:?}");
}

/// The names behind `marker` at the beginnings of lines.
fn headings(text: &str, marker: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix(marker)).map(|name| name.trim().to_owned()).collect()
}

#[test]
fn cloudwatch_alarms_name_metrics_with_the_dimensions_they_have() {
    let text = std::fs::read_to_string(root().join("infra/observability.yaml")).unwrap();
    let mut checked = 0;
    for line in text.lines() {
        if let Some(at) = line.find("Namespace: Penstock, MetricName: ") {
            let rest = &line[at + "Namespace: Penstock, MetricName: ".len()..];
            let name = rest.split(',').next().unwrap();
            let metric = metric_named(name).unwrap_or_else(|| panic!("{name} is not measured"));
            let expected: Vec<&str> = std::iter::once("stage").chain(dimensions(metric)).collect();
            let given: Vec<&str> =
                rest.split("Name: ").skip(1).map(|part| part.split([',', ' ']).next().unwrap()).collect();
            assert_eq!(given, expected, "{name}");
            checked += 1;
        }
        if let Some((_, rest)) = line.split_once("FROM SCHEMA(\"Penstock\", ") {
            let name = line.split_once('(').unwrap().1.split(')').next().unwrap();
            let metric = metric_named(name).unwrap_or_else(|| panic!("{name} is not measured"));
            let expected: Vec<&str> = std::iter::once("stage").chain(dimensions(metric)).collect();
            assert_eq!(rest.split(')').next().unwrap(), expected.join(", "), "{name}");
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}

fn dimensions(metric: Metric) -> impl Iterator<Item = &'static str> {
    metric.labels().iter().filter(|label| is_dimension(**label)).map(|label| label.name())
}

#[test]
fn every_alarm_has_its_entry_in_the_runbook_and_every_entry_its_alarm() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let mut alarms = headings(&read("infra/prometheus/alerts.yaml"), "- alert: ");
    let named = headings(&read("infra/observability.yaml"), "AlarmName: !Sub 'penstock-${Stage}-");
    assert!(named.len() > 10);
    alarms.extend(named.into_iter().map(|name| name.trim_end_matches('\'').to_owned()));
    let entries = headings(&read("handbook/runbook.md"), "### ");
    assert_eq!(entries, alarms);
}

/// A server that has been asked, refused and misused a little.
async fn under_load(home: &Home) -> Server {
    let server = home.up(&[]);
    for (prompt, expected) in tasks(7, 12) {
        let reply = server.client.ask(MODEL, &prompt, false).await;
        assert!(reply.text().contains(&expected), "{}", reply.text());
    }
    assert_eq!(server.client.send("GET", "/v1/nothing").await.status, 404);
    server
}

#[tokio::test]
async fn a_server_under_load_tells_every_metric_of_the_list_with_its_labels() {
    let home = Home::new();
    let server = under_load(&home).await;
    // The control loop ticks every two seconds, pools are evaluated every ten.
    let mut text = String::new();
    for _ in 0..300 {
        text = server.client.send("GET", "/metrics").await.body;
        if text.contains("penstock_late_starts{") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for metric in Metric::ALL {
        let suffix = match metric.kind() {
            Kind::Counter => "_total",
            Kind::Gauge => "",
            Kind::Histogram => "_count",
        };
        let name = format!("penstock_{}{suffix}", metric.name());
        let told = |line: &&str| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let series: Vec<&str> = text.lines().filter(told).collect();
        assert!(!series.is_empty(), "{name} is not told in\n{text}");
        for line in series {
            for label in metric.labels() {
                assert!(line.contains(&format!("{}=\"", label.name())), "{} is not in {line}", label.name());
            }
        }
    }
    assert_eq!(text.matches("# EOF").count(), 1);
    assert!(!text.contains("/v1/nothing"), "labels must not grow with what clients send");
}

/// The Debian package has both programs; who has none learns that something was skipped.
fn prometheus() -> Option<PathBuf> {
    let path = std::env::var_os("PENSTOCK_PROMETHEUS").map(PathBuf::from);
    if path.is_none() {
        assert!(std::env::var_os("CI").is_none(), "PENSTOCK_PROMETHEUS is not set: install the package 'prometheus'");
        println!("SKIPPED: PENSTOCK_PROMETHEUS names no folder with prometheus and promtool");
    }
    path
}

#[test]
fn promtool_finds_the_rules_right_and_they_fire_when_they_should() {
    let Some(folder) = prometheus() else { return };
    for arguments in [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts.test.yaml"],
        ["check", "config", "prometheus.yaml"],
    ] {
        let mut command = Command::new(folder.join("promtool"));
        let output = command.args(arguments).current_dir(root().join("infra/prometheus")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn prometheus_fed_from_a_server_answers_what_every_panel_asks() {
    let Some(folder) = prometheus() else { return };
    let home = Home::new();
    let server = under_load(&home).await;
    let port = free_port();
    let target = server.ready["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
    let rules = root().join("infra/prometheus/alerts.yaml");
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: ['{}']\nscrape_configs:\n  \
         - job_name: penstock\n    static_configs: [{{ targets: ['{target}'] }}]\n",
        rules.display()
    );
    let file = home.path().join("prometheus.yaml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(folder.join("prometheus"));
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", home.path().join("tsdb").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let _prometheus = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let asked = Client::new(&format!("http://127.0.0.1:{port}"), "");
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut unanswered: BTreeSet<String> = boards()
        .iter()
        .flat_map(|board| &board.panels)
        .flat_map(|panel| &panel.series)
        .map(grafana::expression)
        .collect();
    let all = unanswered.len();
    for round in 0..300 {
        // Rates need something to happen between two scrapes.
        server.client.ask_anew(MODEL, "R:38291=", &format!("run {round}")).await;
        let mut open = BTreeSet::new();
        for expression in unanswered {
            let (answered, said) = ask(&asked, &expression).await;
            assert!(said != "error", "{expression}");
            if !answered {
                open.insert(expression);
            }
        }
        unanswered = open;
        if unanswered.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(unanswered.is_empty(), "of {all} expressions these find nothing: {unanswered:#?}");
    let rules = asked.send("GET", "/api/v1/rules").await.json();
    let groups = rules["data"]["groups"].as_array().unwrap();
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_ne!(rule["state"], "firing", "{rule}");
    }
}

/// Whether Prometheus finds something, and its status.
async fn ask(prometheus: &Client, expression: &str) -> (bool, String) {
    let escaped: String = expression
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect();
    let reply = prometheus.send("GET", &format!("/api/v1/query?query={escaped}")).await;
    // It answers before it is ready.
    if reply.status == 503 {
        return (false, "starting".to_owned());
    }
    let answer: Value = reply.json();
    let found = answer["data"]["result"].as_array().is_some_and(|result| !result.is_empty());
    (found, answer["status"].as_str().unwrap_or_default().to_owned())
}
