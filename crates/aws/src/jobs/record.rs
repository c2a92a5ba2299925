//! A job's record as an item. Beside the guards' attributes (see `guard`): `spec` what is fixed, as the message has it,
//! `ten` the tenant, `ow` owner, `dig` digest, `sta` and `fin` started and finished (ms), `out` the outcome, `story` what
//! happened, a list of texts, `gone` once its words are removed.

use aws_sdk_dynamodb::types::AttributeValue;
use penstock_policy::id::{Epoch, JobId};
use penstock_policy::job::{Head, Position, State};
use penstock_service::ports::{JobRecord, JobSpec, PortResult};
use penstock_service::stored::record::{outcome_from, spec_from, spec_text};
use penstock_service::stored::story::{Event, MOST_EVENTS};

use crate::item::{Fields, Item, item, n, s};
use crate::table::Write;

const WHAT: &str = "job record";

/// The partition of a job.
pub(crate) fn job_pk(job: JobId) -> String {
    format!("J#{job}")
}

/// The key of a job's record.
pub(crate) fn job_key(job: JobId) -> Item {
    item([("pk", s(job_pk(job))), ("sk", s("M"))])
}

/// Fills in what is fixed about a job, unless the record has it.
pub(crate) fn set_spec(write: &mut Write, spec: &JobSpec) {
    write.set_if_absent("spec", s(spec_text(spec))).set_if_absent("ten", s(spec.tenant.as_str()));
}

/// Appends an event to the job's story, on the condition that there is room. A write whose condition fails on a story
/// that is full is made again without.
pub(crate) fn append_event(write: &mut Write, event: &Event) {
    write
        .clause("#story = list_append(if_not_exists(#story, :nothing), :event)")
        .require("attribute_not_exists(#story) OR size(#story) < :most_events")
        .bind("nothing", AttributeValue::L(Vec::new()))
        .bind("event", AttributeValue::L(vec![s(event.text())]))
        .bind("most_events", n(MOST_EVENTS));
}

/// Whether there is no room for another event.
pub(crate) fn is_told(found: &Item) -> bool {
    matches!(found.get("story"), Some(AttributeValue::L(events)) if events.len() >= MOST_EVENTS)
}

/// What the guards look at.
pub(crate) fn head(found: &Item) -> PortResult<Head> {
    let fields = Fields::versioned(WHAT, found)?;
    let last = fields.maybe_number("le")?.zip(fields.maybe_number("ls")?);
    Ok(Head {
        state: State::from_code(fields.text("st")?).ok_or_else(|| fields.broken("st"))?,
        epoch: Epoch(fields.number("ep")?),
        lease_until: fields.moment("lu")?,
        releases: fields.number("rel")?,
        interest: fields.number("int")?,
        last: last.map(|(epoch, seq)| Position { epoch: Epoch(epoch), seq }),
        unsettled: fields.has("uns"),
        nonce: fields.nonce()?.ok_or_else(|| fields.broken("n"))?,
    })
}

/// The whole record.
pub(crate) fn read(found: &Item) -> PortResult<JobRecord> {
    let fields = Fields::versioned(WHAT, found)?;
    let spec = fields.maybe_text("spec")?.map(|text| spec_from(text).ok_or_else(|| fields.broken("spec")));
    let outcome = fields.maybe_text("out")?.map(|text| outcome_from(text).ok_or_else(|| fields.broken("out")));
    Ok(JobRecord {
        spec: spec.transpose()?,
        head: head(found)?,
        owner: fields.maybe_parsed("ow")?,
        digest: fields.maybe_text("dig")?.map(str::to_owned),
        started: fields.maybe_moment("sta")?,
        finished: fields.maybe_moment("fin")?,
        outcome: outcome.transpose()?,
        forgotten: fields.has("gone"),
        story: fields.texts("story")?.iter().filter_map(|text| Event::from_text(text)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_without_its_state_is_damage() {
        let found = item([("v", crate::item::n(crate::item::VERSION))]);
        assert!(!read(&found).unwrap_err().is_passing());
    }
}
