//! The table of guards, [`penstock_policy::job::apply`], as condition expressions. Nothing here decides: each arm says in
//! DynamoDB's words what the table says in ours, and the contract suite holds the two together.
//!
//! Attributes: `st` state, `ep` epoch, `lu` lease until (ms), `rel` releases, `int` interest, `le` and `ls` last
//! position, `uns` present while unsettled, `n` nonce; and the keys of the index ([`INDEXED`]), which has parked jobs in one
//! place, those that wait, run or are not settled in another, and no others.

use penstock_policy::id::{JobId, Nonce};
use penstock_policy::job::{End, State, Step};
use penstock_policy::time::Timestamp;

use crate::census;
use crate::item::{VERSION, ms, n, nonce_value, s};
use crate::jobs::{KEPT, record};
use crate::table::{Write, ttl};

/// The keys of the index, and a parked job's tokens, which the index repeats.
pub(crate) const INDEXED: [&str; 3] = ["gp", "gs", "tok"];

const WAITING: &str = "#st IN (:parked, :queued)";
const LAPSED: &str = "#st = :running AND #lu < :now";
const LIVE: &str = "#st IN (:parked, :queued, :running)";
const HELD: &str = "#st = :running AND #ep = :epoch";
const ENDED: &str = "#st IN (:succeeded, :failed, :cancelled, :expired)";

/// The conditional write that makes `step` on the record of `job`.
pub(crate) fn write(job: JobId, step: Step, nonce: Nonce, now: Timestamp) -> Write {
    let mut write = Write::on(record::job_key(job));
    write.require("attribute_not_exists(#n) OR #n <> :set_n").set("n", nonce_value(nonce));
    write.bind("now", ms(now)).bind("zero", n(0)).bind("one", n(1));
    for state in State::ALL {
        write.bind(word(state), s(state.code()));
    }
    match step {
        Step::Put => {
            create(&mut write, now);
            open(&mut write, job);
            write.require("attribute_not_exists(#pk)").set("st", s(State::Queued.code())).set("int", n(1));
        }
        Step::Park => {
            create(&mut write, now);
            write.require("attribute_not_exists(#pk)").set("st", s(State::Parked.code())).set("int", n(1));
        }
        Step::Unpark => {
            write.require("#st = :parked").set("st", s(State::Queued.code()));
            open(&mut write, job);
        }
        Step::Claim { lease_until } => {
            create(&mut write, now);
            open(&mut write, job);
            write
                .require(format!("attribute_not_exists(#pk) OR {WAITING} OR ({LAPSED})"))
                .set("st", s(State::Running.code()))
                .set_if_absent("int", n(1))
                .clause("#ep = if_not_exists(#ep, :zero) + :one")
                .set("lu", ms(lease_until));
        }
        Step::Renew { epoch, lease_until } => {
            write.require(HELD).bind("epoch", n(epoch.0)).set("lu", ms(lease_until));
        }
        Step::Release { epoch, blameless } => {
            write.require(HELD).bind("epoch", n(epoch.0)).set("st", s(State::Queued.code()));
            if blameless {
                write.clause("#rel = #rel + :one");
            }
        }
        Step::Finish { epoch, end, last } => {
            let state = match end {
                End::Succeeded => State::Succeeded,
                End::Failed => State::Failed,
            };
            write.require(HELD).bind("epoch", n(epoch.0)).set("st", s(state.code()));
            unsettled(&mut write);
            if let Some(last) = last {
                write.set("le", n(last.epoch.0)).set("ls", n(last.seq));
            }
        }
        Step::Expire => {
            create(&mut write, now);
            open(&mut write, job);
            write
                .require(format!("attribute_not_exists(#pk) OR {WAITING} OR ({LAPSED})"))
                .set("st", s(State::Expired.code()))
                .set_if_absent("int", n(0));
            unsettled(&mut write);
        }
        Step::Join => {
            write.require(format!("{LIVE} AND #int > :zero")).clause("#int = #int + :one");
        }
        Step::Leave => {
            write.require(format!("{LIVE} AND #int > :zero")).clause("#int = #int - :one");
        }
        Step::Cancel { regardless_of_interest } => {
            let unwanted = if regardless_of_interest { "" } else { " AND #int = :zero" };
            create(&mut write, now);
            open(&mut write, job);
            write
                .require(format!("attribute_not_exists(#pk) OR ({LIVE}{unwanted})"))
                .set("st", s(State::Cancelled.code()))
                .set("int", n(0));
            unsettled(&mut write);
        }
        Step::CallOff => {
            create(&mut write, now);
            write.require("attribute_not_exists(#pk)").set("st", s(State::Cancelled.code())).set("int", n(0));
        }
        Step::Settle => {
            over(&mut write);
            write.require(format!("{ENDED} AND attribute_exists(#uns)")).remove("uns");
        }
    }
    // What a new record begins with, unless the step itself has just said otherwise.
    if matches!(step, Step::Put | Step::Park | Step::Expire | Step::Cancel { .. } | Step::CallOff) {
        write.set_if_absent("ep", n(0)).set_if_absent("lu", n(0));
    }
    write
}

/// Whether the step ends the job.
pub(crate) const fn ends(step: Step) -> bool {
    match step {
        Step::Finish { .. } | Step::Expire | Step::Cancel { .. } | Step::CallOff => true,
        Step::Put
        | Step::Park
        | Step::Unpark
        | Step::Claim { .. }
        | Step::Renew { .. }
        | Step::Release { .. }
        | Step::Join
        | Step::Leave
        | Step::Settle => false,
    }
}

/// What every record has whoever creates it.
fn create(write: &mut Write, now: Timestamp) {
    write.set_if_absent("v", n(VERSION)).set_if_absent("rel", n(0)).set("ttl", ttl(now, KEPT));
}

/// Keeps the record where open jobs are found. The same values each time: the index is written only when they are new.
fn open(write: &mut Write, job: JobId) {
    let [partition, place, _] = INDEXED;
    write.set(partition, s(census::partition_of(job))).set(place, s(job.to_string()));
}

/// Takes the record out of the index.
fn over(write: &mut Write) {
    for attribute in INDEXED {
        write.remove(attribute);
    }
}

fn unsettled(write: &mut Write) {
    write.set("uns", aws_sdk_dynamodb::types::AttributeValue::Bool(true));
}

/// The bound value that stands for a state.
const fn word(state: State) -> &'static str {
    match state {
        State::Parked => "parked",
        State::Queued => "queued",
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
        State::Expired => "expired",
    }
}

#[cfg(test)]
mod tests {
    use penstock_policy::id::Epoch;
    use penstock_policy::job::Position;

    use super::*;

    #[test]
    fn every_steps_expression_is_one_dynamodb_takes() {
        let now = Timestamp::from_millis(1);
        let last = Some(Position { epoch: Epoch(1), seq: 2 });
        let steps = [
            Step::Put,
            Step::Park,
            Step::Unpark,
            Step::Claim { lease_until: now },
            Step::Renew { epoch: Epoch(1), lease_until: now },
            Step::Release { epoch: Epoch(1), blameless: true },
            Step::Release { epoch: Epoch(1), blameless: false },
            Step::Finish { epoch: Epoch(1), end: End::Failed, last },
            Step::Finish { epoch: Epoch(1), end: End::Succeeded, last: None },
            Step::Expire,
            Step::Join,
            Step::Leave,
            Step::Cancel { regardless_of_interest: true },
            Step::Cancel { regardless_of_interest: false },
            Step::CallOff,
            Step::Settle,
        ];
        let job = JobId::new(now, 3);
        for step in steps {
            assert_eq!(write(job, step, Nonce(4), now).problems(), [""; 0], "{step:?}");
        }
    }
}
