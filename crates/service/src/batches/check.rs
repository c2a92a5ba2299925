//! Whether a file is a batch's input: every line is read once, and nothing of it is held but digests of the names.

use std::collections::BTreeSet;

use penstock_policy::id::TenantId;
use penstock_policy::time::Timestamp;
use penstock_wire::batches::{BatchProblem, BatchStatus, Line, MOST_LINE_BYTES, MOST_LINES, MOST_PROBLEMS};
use penstock_wire::error::BadRequest;
use sha2::{Digest, Sha256};

use super::batch::StoredBatch;
use super::lines::{Found, Lines, is_blank};
use crate::Service;
use crate::ports::PortResult;

/// What a check came to.
#[derive(Default)]
struct Checked {
    requests: u64,
    problems: Vec<BatchProblem>,
    /// Digests of the names seen: 16 bytes each, whatever the names are.
    names: BTreeSet<u128>,
}

impl Checked {
    fn object(&mut self, line: Option<u64>, problem: BadRequest) {
        let BadRequest { param, code, message } = problem;
        self.problems.push(BatchProblem { code: code.to_owned(), line, message, param });
    }

    fn note(&mut self, number: u64, line: Result<Line<'_>, BadRequest>) {
        self.requests += 1;
        match line {
            Ok(line) => {
                if !self.names.insert(digest(&line.custom_id)) {
                    let message = format!("'custom_id' is '{}', as on an earlier line", line.custom_id);
                    self.object(Some(number), BadRequest::field("custom_id", "duplicate_custom_id", message));
                }
            }
            Err(problem) => self.object(Some(number), problem),
        }
    }
}

fn digest(name: &str) -> u128 {
    let digest = Sha256::digest(name.as_bytes());
    let mut short = [0u8; 16];
    short.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(short)
}

impl Service {
    /// Checks a batch's file; the batch goes on, or has failed.
    pub(super) async fn check(
        &self,
        tenant: &TenantId,
        id: &str,
        mut batch: StoredBatch,
        version: u64,
        now: Timestamp,
    ) -> PortResult<bool> {
        let Some(input) = self.find_file(tenant, &batch.input).await? else {
            self.fail_batch(tenant, id, batch, version, vec![gone()], now).await?;
            return Ok(true);
        };
        let mut checked = Checked::default();
        let mut lines = Lines::new(self.ports.blobs.as_ref(), tenant, &input.runs, 0);
        let mut number = 0u64;
        while let Some(found) = lines.next().await? {
            number += 1;
            match &found {
                Found::Line(line) if is_blank(line) => {}
                Found::Line(line) => checked.note(number, Line::parse(line, batch.endpoint)),
                Found::TooLong => {
                    let message = format!("the line is longer than {MOST_LINE_BYTES} bytes");
                    checked.note(number, Err(BadRequest { param: None, code: "line_too_long", message }));
                }
            }
            if checked.requests > MOST_LINES || checked.problems.len() >= MOST_PROBLEMS {
                break;
            }
        }
        if checked.requests > MOST_LINES {
            let message = format!("a batch has {MOST_LINES} requests at most: make several of it");
            checked.object(None, BadRequest { param: None, code: "too_many_requests", message });
        }
        if checked.requests == 0 {
            let message = "the file holds no request".to_owned();
            checked.object(None, BadRequest { param: None, code: "empty_file", message });
        }
        if checked.problems.is_empty() {
            batch.total = checked.requests;
            batch.grown_ms = now.as_millis();
            batch.enter(BatchStatus::InProgress, now);
            self.write_batch(tenant, id, &batch, version, now).await?;
        } else {
            self.fail_batch(tenant, id, batch, version, checked.problems, now).await?;
        }
        Ok(true)
    }

    /// Ends a batch that cannot go on.
    pub(super) async fn fail_batch(
        &self,
        tenant: &TenantId,
        id: &str,
        mut batch: StoredBatch,
        version: u64,
        problems: Vec<BatchProblem>,
        now: Timestamp,
    ) -> PortResult<()> {
        // What is parked already has nobody left to tell its answer.
        let parked = batch.collected.requests..batch.parked_before();
        self.cancel_all(parked.map(|n| batch.job(id, n)).collect::<Vec<_>>()).await?;
        batch.problems = problems;
        batch.enter(BatchStatus::Failed, now);
        // Its end is announced when it is looked at next.
        self.write_batch(tenant, id, &batch, version, now).await?;
        Ok(())
    }
}

/// What is wrong when the input is gone.
pub(super) fn gone() -> BatchProblem {
    BatchProblem {
        code: "input_file_not_found".to_owned(),
        line: None,
        message: "the input file was deleted, or has expired".to_owned(),
        param: Some("input_file_id".to_owned()),
    }
}
