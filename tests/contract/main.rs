//! The contract of the ports, held against the policy model: random commands, repeated after lost replies, under a
//! clock that also steps back, on every adapter.
//!
//! On SQLite always; with the feature `aws` also on DynamoDB, SQS and S3, on the wire against the emulator.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod census;
mod commands;
mod erasing;
mod holds;
mod kept;
mod model;
mod parking;
mod queues;
mod records;
mod settling;
mod shelves;
mod subject;

use std::sync::Arc;

use commands::run_sequences;
use penstock_service::ports::Clock;
use penstock_sqlite::{DiskBlobs, Sqlite};
use subject::{StillClock, Subject};

/// Random command sequences on each adapter.
const SEQUENCES: u64 = 10_000;

fn on_sqlite(folder: &tempfile::TempDir) -> Subject {
    let clock = Arc::new(StillClock::default());
    let sqlite = Arc::new(Sqlite::in_memory(clock.clone() as Arc<dyn Clock>).unwrap());
    Subject {
        jobs: sqlite.clone(),
        queue: sqlite.clone(),
        limits: sqlite.clone(),
        markers: sqlite.clone(),
        parking: sqlite.clone(),
        census: sqlite.clone(),
        attempts: sqlite.clone(),
        answers: sqlite.clone(),
        control: sqlite.clone(),
        board: sqlite.clone(),
        tally: sqlite.clone(),
        shelf: sqlite.clone(),
        blobs: Arc::new(DiskBlobs::new(folder.path())),
        erasure: sqlite.erasure(DiskBlobs::new(folder.path())),
    }
}

#[tokio::test]
async fn sqlite_keeps_the_contract_of_jobs_limits_and_markers() {
    let folder = tempfile::tempdir().unwrap();
    run_sequences(&on_sqlite(&folder), SEQUENCES).await;
}

#[tokio::test]
async fn sqlite_keeps_the_contract_of_queues() {
    let folder = tempfile::tempdir().unwrap();
    queues::check(&on_sqlite(&folder), 200).await;
}

#[tokio::test]
async fn sqlite_keeps_the_contract_of_parking() {
    let folder = tempfile::tempdir().unwrap();
    parking::check(&on_sqlite(&folder), 2_000).await;
    census::check(&on_sqlite(&folder), 1_000).await;
}

#[tokio::test]
async fn sqlite_keeps_the_contract_of_records_and_blobs() {
    let folder = tempfile::tempdir().unwrap();
    records::check(&on_sqlite(&folder)).await;
    settling::check(&on_sqlite(&folder)).await;
    shelves::check(&on_sqlite(&folder)).await;
    erasing::check(&on_sqlite(&folder)).await;
}

#[tokio::test]
async fn sqlite_keeps_the_contract_of_holds() {
    let folder = tempfile::tempdir().unwrap();
    holds::check(&on_sqlite(&folder), 3_000).await;
}

#[tokio::test]
async fn sqlite_keeps_the_contract_of_kept_answers_and_tries() {
    let folder = tempfile::tempdir().unwrap();
    kept::check_answers(&on_sqlite(&folder)).await;
    kept::check_attempts(&on_sqlite(&folder)).await;
}

#[tokio::test]
async fn a_database_in_a_file_keeps_the_contract_under_many_hands() {
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(StillClock::default());
    let path = folder.path().join("db");
    let sqlite = Arc::new(Sqlite::open(&path, penstock_sqlite::Durability::Process, clock).unwrap());
    let subject = Subject {
        jobs: sqlite.clone(),
        queue: sqlite.clone(),
        limits: sqlite.clone(),
        markers: sqlite.clone(),
        parking: sqlite.clone(),
        census: sqlite.clone(),
        attempts: sqlite.clone(),
        answers: sqlite.clone(),
        control: sqlite.clone(),
        board: sqlite.clone(),
        tally: sqlite.clone(),
        shelf: sqlite.clone(),
        blobs: Arc::new(DiskBlobs::new(folder.path())),
        erasure: sqlite.erasure(DiskBlobs::new(folder.path())),
    };
    run_sequences(&subject, 300).await;
    records::check_many_hands(&subject).await;
    for round in 0..20 {
        holds::check_many_hands(&subject, round).await;
    }
    erasing::check_bytes(&subject, folder.path()).await;
}

#[cfg(feature = "aws")]
mod aws {
    use harness::deployment::deploy;
    use harness::ministack::Ministack;

    use super::subject::{POOL, Subject};
    use super::{SEQUENCES, census, erasing, holds, kept, parking, queues, records, run_sequences, settling, shelves};

    /// The ports on the emulator, which is stopped when the second part is dropped.
    async fn subject() -> (Subject, Ministack) {
        let ministack = Ministack::start().await;
        let aws = deploy(&ministack, "contract", &[POOL]).await.aws.clone();
        let subject = Subject {
            jobs: aws.clone(),
            queue: aws.clone(),
            limits: aws.clone(),
            markers: aws.clone(),
            parking: aws.clone(),
            census: aws.clone(),
            attempts: aws.clone(),
            answers: aws.clone(),
            control: aws.clone(),
            board: aws.clone(),
            tally: aws.clone(),
            shelf: aws.clone(),
            blobs: aws.clone(),
            erasure: aws,
        };
        (subject, ministack)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn aws_keeps_the_contract_of_jobs_limits_and_markers() {
        let (subject, _ministack) = subject().await;
        run_sequences(&subject, on_the_wire()).await;
    }

    /// Random command sequences on the wire, where each takes some hundred times as long: `PENSTOCK_SEQUENCES` of them.
    fn on_the_wire() -> u64 {
        std::env::var("PENSTOCK_SEQUENCES").ok().and_then(|number| number.parse().ok()).unwrap_or(SEQUENCES / 5)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn aws_keeps_the_contract_of_queues() {
        let (subject, _ministack) = subject().await;
        queues::check(&subject, 200).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn aws_keeps_the_contract_of_parking() {
        let (subject, _ministack) = subject().await;
        parking::check(&subject, 300).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn aws_keeps_the_contract_of_the_census() {
        let (subject, _ministack) = subject().await;
        census::check(&subject, 400).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn aws_keeps_the_contract_of_holds_under_many_hands() {
        let (subject, _ministack) = subject().await;
        holds::check(&subject, 150).await;
        for round in 0..3 {
            holds::check_many_hands(&subject, round).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn aws_keeps_the_contract_of_kept_answers_and_tries() {
        let (subject, _ministack) = subject().await;
        kept::check_answers(&subject).await;
        kept::check_attempts(&subject).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn aws_keeps_the_contract_of_records_and_blobs_under_many_hands() {
        let (subject, _ministack) = subject().await;
        records::check(&subject).await;
        settling::check(&subject).await;
        shelves::check(&subject).await;
        erasing::check(&subject).await;
        records::check_many_hands(&subject).await;
    }
}
