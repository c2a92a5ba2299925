//! The import table of ARCHITECTURE.md, proved over what cargo resolves.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What a room may reach of the project's own packages, and which outside crates it must never reach.
struct Room {
    package: &'static str,
    own: &'static [&'static str],
    never: &'static [&'static str],
}

const POLICY: &str = "penstock-policy";
const WIRE: &str = "penstock-wire";
const SERVICE: &str = "penstock-service";
const SQLITE: &str = "penstock-sqlite";
const AWS: &str = "penstock-aws";
const SIM: &str = "penstock-sim";
const WORKER: &str = "penstock-gpu-worker";

const AWS_SDK: &[&str] = &["aws-config", "aws-sdk-dynamodb", "aws-sdk-sqs", "aws-sdk-s3", "aws-sdk-ec2"];
const LAMBDA: &[&str] = &["lambda_http", "lambda_runtime"];
const ONNX: &[&str] = &["ort", "tokenizers"];
const DATABASE: &[&str] = &["rusqlite"];

const ROOMS: [Room; 9] = [
    Room { package: POLICY, own: &[], never: &["serde", "tokio", "rand", "getrandom"] },
    Room { package: WIRE, own: &[], never: &["tokio", "axum", "hyper"] },
    Room { package: SERVICE, own: &[POLICY, WIRE], never: &["rusqlite", "ort", "aws-config", "lambda_http", "hyper"] },
    Room { package: SQLITE, own: &[POLICY, WIRE, SERVICE], never: &["ort", "aws-config", "lambda_http"] },
    Room { package: AWS, own: &[POLICY, WIRE, SERVICE], never: &["rusqlite", "ort", "lambda_http", "aws-sdk-ec2"] },
    Room { package: SIM, own: &[POLICY, WIRE, SERVICE, SQLITE], never: &["ort", "aws-config", "lambda_http"] },
    Room {
        package: "penstock",
        own: &[POLICY, WIRE, SERVICE, SQLITE, SIM, WORKER],
        never: &["lambda_http", "lambda_runtime", "aws-config"],
    },
    Room { package: "penstock-functions", own: &[POLICY, WIRE, SERVICE, AWS], never: &["rusqlite", "ort"] },
    Room { package: WORKER, own: &[POLICY, WIRE, SERVICE], never: &["rusqlite", "lambda_http", "aws-config"] },
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every crate that a package reaches through normal dependencies with its default features.
fn reached(package: &str) -> BTreeSet<String> {
    let tree = cargo(&["tree", "--offline", "-p", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| *name != package).map(str::to_owned).collect()
}

#[test]
fn every_room_imports_only_what_its_table_row_allows() {
    for room in &ROOMS {
        let reached = reached(room.package);
        let own: BTreeSet<&str> =
            reached.iter().map(String::as_str).filter(|name| name.starts_with("penstock")).collect();
        let allowed: BTreeSet<&str> = room.own.iter().copied().collect();
        assert!(own.is_subset(&allowed), "{} imports {:?}", room.package, own.difference(&allowed));
        for never in room.never {
            assert!(!reached.contains(*never), "{} reaches {never}", room.package);
        }
    }
}

#[test]
fn a_plain_cargo_test_builds_no_aws_no_lambda_and_no_onnx_runtime() {
    let tree = cargo(&["tree", "--offline", "--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}"]);
    let reached: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    for heavy in AWS_SDK.iter().chain(LAMBDA).chain(ONNX) {
        assert!(!reached.contains(heavy), "the default members reach {heavy}");
    }
    assert!(DATABASE.iter().all(|name| reached.contains(name)));
}

#[test]
fn every_member_inherits_the_lints_and_bans_of_the_workspace() {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--offline", "--no-deps", "--format-version", "1"])).unwrap();
    let members: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["name"].as_str().unwrap(), package["manifest_path"].as_str().unwrap()))
        .collect();
    assert_eq!(members.len(), ROOMS.len() + 1, "every member but this one has a row in the table: {members:?}");
    for (name, manifest) in members {
        let text = std::fs::read_to_string(manifest).unwrap();
        assert!(text.contains("[lints]\nworkspace = true"), "{name} does not inherit the workspace's lints");
        assert!(Path::new(manifest).with_file_name("clippy.toml").is_file(), "{name} has no clippy.toml");
    }
}

#[test]
fn unsafe_code_stands_only_where_the_engine_binds_memory() {
    let mut found = Vec::new();
    visit(root(), &mut |path, text| {
        let allowed = path.starts_with(root().join("gpu-worker/src/engine/ort")) || path.ends_with(file!());
        if !allowed && text.lines().any(|line| line.trim_start().starts_with("unsafe ") || line.contains("= unsafe {"))
        {
            found.push(path.to_owned());
        }
    });
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn only_the_configuration_and_the_composition_roots_read_the_environment() {
    let mut found = Vec::new();
    visit(root(), &mut |path, text| {
        let place = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let is_root = ["crates/cli/src/", "functions/src/", "gpu-worker/src/main.rs", "tests/"]
            .iter()
            .any(|prefix| place.starts_with(prefix))
            || place.contains("/tests/");
        if !is_root && text.contains("env::var") {
            found.push(place);
        }
    });
    assert!(found.is_empty(), "{found:?}");
}

/// Shows every source file of the project to `look`.
fn visit(folder: &Path, look: &mut impl FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if !["target", ".git", ".aws-sam"].contains(&name.to_string_lossy().as_ref()) {
                visit(&path, look);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            look(&path, &std::fs::read_to_string(&path).unwrap());
        }
    }
}
