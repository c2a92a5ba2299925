//! The roles of the template against the programs that run under them, both ways: whatever a program asked of AWS was
//! permitted, or the test that asked has failed; and whatever is permitted was asked for by somebody, or stands below with
//! its reason.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise and prints its figures")]

mod hours;
mod programs;
mod release;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use harness::client::Client;
use harness::deployment::{deploy, deploy_with};
use harness::iam::Permission;
use harness::idle;
use harness::ministack::Ministack;
use harness::process::Process;
use penstock_policy::id::PoolId;
use penstock_service::ports::{Clock, Control, Pool};
use penstock_service::system::SystemClock;
use serde_json::json;

const MODEL: &str = "task-int4";
const ENCODER: &str = "random-encoder";

/// What is permitted though nothing here needs it, by the beginning of its name, and why it stays.
const NOT_SHOWN: [(&str, &str); 32] = [
    ("PreloadRole.ReadRatiosAndReturns: TLY#returns/*", "as for the front: a full queue"),
    ("PreloadRole.BookReturnsAndCountUsageAndDemand: TLY#returns/*", "the same"),
    (
        "PreloadRole.BookReturnsAndCountUsageAndDemand: TLY#usage/*",
        "answers found ready are counted a while later, when the process may have been stopped",
    ),
    ("PreloadRole.ReadPoolsAndWorkers: WRK#*", "read where no control tick has ever published rates"),
    ("PreloadRole.RecordJobs: dynamodb:GetItem", "a question that is still being answered when the next call comes"),
    (
        "PreloadRole.FindClaimAndClearMarkers: dynamodb:GetItem",
        "a marker that somebody wrote between the look and the claim",
    ),
    ("PreloadRole.FindClaimAndClearMarkers: dynamodb:DeleteItem", "a message that its queue refused"),
    ("PreloadRole.StoreLargePayloads: s3:DeleteObject", "the same, of a large question"),
    ("PreloadRole.ReadLargeAnswers: s3:GetObject", "as for the front"),
    (
        "FrontRole.CountForRampsReturnsAndRatios: TLY#returns/*",
        "slots are booked when the virtual queue is full for longer than clients wait; crates/sim/tests/load has it",
    ),
    (
        "FrontRole.ReadHowPoolsStandAndProbe: dynamodb:UpdateItem",
        "probes of a pool whose breaker is open; crates/sim/tests/degradation.rs has them",
    ),
    (
        "FrontRole.TellWhatIsAskedForMost: dynamodb:UpdateItem",
        "told once something has been hot; crates/sim/tests/kept.rs has it",
    ),
    ("FrontRole.ReadLargeAnswers: s3:GetObject", "kept answers above 300 KiB, which no model here gives"),
    ("WorkerRole.KeepLargeAnswers: s3:PutObject", "the same"),
    (
        "WorkerRole.ReadAndForgetLargePayloads: s3:DeleteObject",
        "the large question of a tenant that keeps nothing, answered; JobsRole shows the removal for one that was cancelled",
    ),
    (
        "JobsRole.ForgetLargePayloads: arn:aws:s3:::payload/res/*",
        "a job cancelled between the storing of vectors and its end",
    ),
    (
        "JobsRole.ShowCancelAndForgetJobs: dynamodb:DeleteItem",
        "chunks of a job cancelled in mid-answer, which its worker may have removed first",
    ),
    ("SplitRole.", "no batch is run here; tests/contract has its ports, crates/sim/tests the whole"),
    ("ReconcileRole.", "nothing is left lying here; tests/contract has its ports, crates/sim/tests the whole"),
    ("ControlRole.FindParkedJobs", "nothing is parked here; crates/sim/tests/parked.rs has it"),
    ("ControlRole.LeadAndPublish: BRD#parking/*", "the same"),
    ("ControlRole.ReleaseParkedJobs", "the same"),
    ("ControlRole.SendParkedJobs", "the same"),
    ("ControlRole.DoErrands", "no webhook is told of here, and no file has ended"),
    ("ControlRole.LookAtResponses", "the same"),
    ("ControlRole.ReadKeptResponses", "the same"),
    ("ControlRole.RemoveFilesThatHaveEnded", "the same"),
    ("ControlRole.TellWhatIsNotKept", "the same"),
    ("FrontRole.WriteDownWhatIsToBeTold", "the same"),
    ("WorkerRole.WriteDownWhatIsToBeTold", "the same"),
    ("WorkerRole.ReadKeptResponses", "the same"),
    ("JobsRole.Keep", "uploads in parts, which tests/contract has; files are kept and removed here"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_permission_is_needed_and_every_need_is_permitted() {
    let ministack = Ministack::start().await;
    let deployment = deploy(&ministack, "roles", &[MODEL, ENCODER, hours::POOL, hours::VECTORS]).await;
    programs::run(&deployment).await;
    tokio::time::timeout(Duration::from_secs(120), hours::pass(&deployment)).await.unwrap();

    let bucket = deployment.stack["outputs"]["PayloadBucket"].as_str().unwrap();
    let named = |permission: &Permission| permission.to_string().replace(bucket, "payload");
    let shown: BTreeSet<String> = deployment.used().iter().map(named).collect();
    let permitted: BTreeSet<String> = deployment.permissions().iter().map(named).collect();
    // Lambda itself writes the logs, and tells of calls that failed.
    let by_lambda = |permission: &str| permission.contains(".Log: ") || permission.contains(".TellOfFailedCalls: ");
    let ours = permitted.iter().filter(|permission| !by_lambda(permission));
    let excused = |permission: &str| NOT_SHOWN.iter().any(|(beginning, _)| permission.starts_with(beginning));
    let idle: Vec<&String> = ours.filter(|permission| !shown.contains(*permission) && !excused(permission)).collect();
    let denied = deployment.take_denied();
    assert!(denied.is_empty(), "needed and not permitted:\n{}", denied.join("\n"));
    assert!(idle.is_empty(), "permitted and not needed: {idle:#?}");
    for (excused, _) in NOT_SHOWN {
        // Some are shown by chance, when one of two programs is quicker.
        let is_permitted = permitted.iter().any(|permission| permission.starts_with(excused));
        assert!(is_permitted, "no longer permitted, so it needs no excuse: {excused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_permission_what_needs_it_fails_and_says_so() {
    for (role, sid, action) in [
        ("FrontRole", "SendJobs", "sqs:SendMessage"),
        ("FrontRole", "ReadKeysAndTenants", "dynamodb:GetItem"),
        ("FrontRole", "FindClaimAndClearMarkers", "K#*"),
    ] {
        let gone = Permission { role: role.to_owned(), sid: sid.to_owned(), of: action.to_owned() };
        let ministack = Ministack::start().await;
        let without = |role: harness::iam::Role| if role.name == gone.role { role.without(&gone) } else { role };
        let deployment = deploy_with(&ministack, "less", &[MODEL], without).await;
        let _worker = Process::start(&mut deployment.worker(MODEL, MODEL, "w"));
        deployment.signed_on(MODEL, "w").await;
        let client = Client::new(&deployment.url, &deployment.key);
        let reply = client.ask(MODEL, "C:1=", false).await;
        assert!(reply.status >= 500, "{gone}: {} {}", reply.status, reply.body);
        let denied = deployment.take_denied();
        let said = denied.iter().any(|line| line.starts_with(&format!("{role} may not ")));
        assert!(said, "{gone}: {denied:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_minute_takes_no_more_than_the_idle_month_is_priced_by() {
    let ministack = Ministack::start().await;
    let deployment = deploy(&ministack, "idle", &[MODEL]).await;
    let pool = Pool::new(PoolId::new(MODEL).unwrap(), MODEL, 64, SystemClock.now());
    deployment.aws.put_pool(&pool).await.unwrap();
    for most in idle::MOST {
        let function = &deployment.functions[most.function];
        let role = format!("{}{}Role", most.function[..1].to_uppercase(), &most.function[1..]);
        let call = async || {
            let before = deployment.calls(&role);
            function.answer(&json!({"source": "aws.events"})).await.unwrap();
            let after = deployment.calls(&role);
            let of = |kind: &str, names: &[&str]| -> u64 {
                let count = |calls: &BTreeMap<String, u64>| -> u64 {
                    let of = calls.iter().filter(|(action, _)| {
                        action.starts_with(kind)
                            && (names.is_empty() || names.iter().any(|name| action.ends_with(name)))
                    });
                    of.map(|(_, count)| count).sum()
                };
                count(&after) - count(&before)
            };
            let reads = of("dynamodb:", &["GetItem", "Query"]);
            (reads, of("dynamodb:", &["UpdateItem", "PutItem", "DeleteItem"]), of("sqs:", &[]))
        };
        let first = call().await;
        let (reads, writes, queues) = call().await;
        println!(
            "{}, calls of a first minute {first:?} and of another: {reads} reads, {writes} writes, {queues} of queues",
            most.function
        );
        let within = reads <= u64::from(most.reads) && writes <= u64::from(most.writes);
        assert!(within && queues <= u64::from(most.queues), "{most:?}: {reads} {writes} {queues}");
    }
}
