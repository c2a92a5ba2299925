//! Single-flight and idempotency: what a request does when the same request is known already.
//!
//! One marker per key holds the job that answers it. The job is the marker's lease: there is no time-out of its own to
//! get wrong. Keys never reach beyond one tenant.

use core::time::Duration;

use crate::classes::Class;
use crate::id::JobId;
use crate::job::State;
use crate::time::Timestamp;

/// How long a job answers the request that bears its name, and its retries, after its end.
pub const TTL: Duration = Duration::from_secs(300);

/// How long a job record may be missing after its marker was written before the acceptor is taken for dead.
pub const RECORD_DUE: Duration = Duration::from_secs(5);

/// A marker as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The job that answers this key.
    pub job: JobId,
    /// A digest of the request the key was first used with.
    pub fingerprint: u64,
    /// When the marker was written.
    pub written: Timestamp,
    /// When it stops to count, whether or not the store has removed it.
    pub expires: Timestamp,
}

/// What is known of the marker's job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// There is no record yet.
    Absent,
    /// There is one.
    Job {
        /// Where it stands.
        state: State,
        /// Its class.
        class: Class,
        /// How many want its answer.
        interest: u32,
        /// When it ended, if it has.
        ended: Option<Timestamp>,
        /// Whether its failure, if it failed, would fail again the same way (a prompt that is too long).
        failed_for_good: bool,
    },
}

/// What the request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Run anew under a job id of its own; the marker, if any, is taken over from this job.
    Run {
        /// The job whose marker is replaced.
        replaces: Option<JobId>,
    },
    /// Wait for the answer of this job as one more who wants it.
    Join(JobId),
    /// Answer from the result of this job.
    Serve(JobId),
    /// Send again under the same id: the acceptor died before its record was written, or this request is of a better
    /// class than the job waits in, and then joins it.
    Resend(JobId),
    /// Nobody wants that job any more, but it has not ended: end it, then look again.
    PutAway(JobId),
    /// Look again at that moment.
    Wait {
        /// When.
        until: Timestamp,
    },
    /// The key was used before with another request.
    Conflict,
}

/// A request, as its marker's plan needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    /// Its digest.
    pub fingerprint: u64,
    /// Its class.
    pub class: Class,
    /// For how long after its end a job answers this request; zero if it wants a run that is still under way, or a new one.
    pub served_for: Duration,
}

/// Decides for a request that found `marker`, about whose job `known` was read.
#[must_use]
pub fn plan(marker: Option<&Marker>, known: Known, asking: &Asking, now: Timestamp) -> Plan {
    const LOOK_AGAIN: Duration = Duration::from_millis(50);
    let Some(marker) = marker.filter(|marker| marker.expires > now) else {
        return Plan::Run { replaces: marker.map(|stale| stale.job) };
    };
    if marker.fingerprint != asking.fingerprint {
        return Plan::Conflict;
    }
    match known {
        Known::Absent if now.since(marker.written) >= RECORD_DUE => Plan::Resend(marker.job),
        Known::Absent => Plan::Wait { until: now.after(LOOK_AGAIN) },
        Known::Job { state: State::Parked | State::Queued | State::Running, interest: 0, .. } => {
            Plan::PutAway(marker.job)
        }
        Known::Job { state: State::Parked | State::Queued, class, .. } if asking.class < class => {
            Plan::Resend(marker.job)
        }
        Known::Job { state: State::Parked | State::Queued | State::Running, .. } => Plan::Join(marker.job),
        Known::Job { ended: Some(ended), .. } if now.since(ended) >= asking.served_for => {
            Plan::Run { replaces: Some(marker.job) }
        }
        Known::Job { state: State::Succeeded, .. } => Plan::Serve(marker.job),
        Known::Job { state: State::Failed, failed_for_good: true, .. } => Plan::Serve(marker.job),
        Known::Job { state: State::Failed | State::Cancelled | State::Expired, .. } => {
            Plan::Run { replaces: Some(marker.job) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn plan(marker: Option<&Marker>, known: Known, fingerprint: u64, class: Class, now: Timestamp) -> Plan {
        super::plan(marker, known, &Asking { fingerprint, class, served_for: TTL }, now)
    }

    fn marker() -> Marker {
        Marker { job: JobId::new(NOW, 1), fingerprint: 7, written: NOW, expires: NOW.after(TTL) }
    }

    fn job(state: State) -> Known {
        Known::Job { state, class: Class::P1, interest: 1, ended: Some(NOW), failed_for_good: false }
    }

    #[test]
    fn the_same_request_in_flight_joins_and_a_finished_one_serves() {
        let m = marker();
        assert_eq!(plan(Some(&m), job(State::Running), 7, Class::P1, NOW), Plan::Join(m.job));
        assert_eq!(plan(Some(&m), job(State::Succeeded), 7, Class::P1, NOW), Plan::Serve(m.job));
    }

    #[test]
    fn an_answer_is_served_again_for_a_while_only() {
        let m = Marker { expires: NOW.after(10 * TTL), ..marker() };
        assert_eq!(
            plan(Some(&m), job(State::Succeeded), 7, Class::P1, NOW.after(TTL)),
            Plan::Run { replaces: Some(m.job) }
        );
    }

    #[test]
    fn who_wants_a_new_run_joins_one_under_way_and_is_served_by_none_that_has_ended() {
        let m = marker();
        let asking = Asking { fingerprint: 7, class: Class::P1, served_for: Duration::ZERO };
        assert_eq!(super::plan(Some(&m), job(State::Running), &asking, NOW), Plan::Join(m.job));
        assert_eq!(super::plan(Some(&m), job(State::Succeeded), &asking, NOW), Plan::Run { replaces: Some(m.job) });
    }

    #[test]
    fn a_failed_run_is_taken_over_unless_it_would_fail_again() {
        let m = marker();
        assert_eq!(plan(Some(&m), job(State::Failed), 7, Class::P1, NOW), Plan::Run { replaces: Some(m.job) });
        let hopeless =
            Known::Job { state: State::Failed, class: Class::P1, interest: 0, ended: Some(NOW), failed_for_good: true };
        assert_eq!(plan(Some(&m), hopeless, 7, Class::P1, NOW), Plan::Serve(m.job));
    }

    #[test]
    fn a_dead_acceptor_is_replaced_under_its_own_job_id() {
        let m = marker();
        assert!(matches!(plan(Some(&m), Known::Absent, 7, Class::P1, NOW), Plan::Wait { .. }));
        assert_eq!(plan(Some(&m), Known::Absent, 7, Class::P1, NOW.after(RECORD_DUE)), Plan::Resend(m.job));
    }

    #[test]
    fn another_body_under_the_same_key_is_a_conflict_until_the_marker_expires() {
        let m = marker();
        assert_eq!(plan(Some(&m), job(State::Running), 8, Class::P1, NOW), Plan::Conflict);
        assert_eq!(plan(Some(&m), job(State::Running), 8, Class::P1, m.expires), Plan::Run { replaces: Some(m.job) });
    }

    #[test]
    fn a_better_class_sends_a_waiting_job_to_its_own_queue_and_a_worse_one_just_joins() {
        let m = marker();
        assert_eq!(plan(Some(&m), job(State::Queued), 7, Class::P0, NOW), Plan::Resend(m.job));
        assert_eq!(plan(Some(&m), job(State::Running), 7, Class::P0, NOW), Plan::Join(m.job));
        assert_eq!(plan(Some(&m), job(State::Queued), 7, Class::P3, NOW), Plan::Join(m.job));
    }

    #[test]
    fn a_job_nobody_wants_any_more_is_put_away_before_it_is_asked_for_anew() {
        let dying =
            Known::Job { state: State::Queued, class: Class::P1, interest: 0, ended: None, failed_for_good: false };
        let m = marker();
        assert_eq!(plan(Some(&m), dying, 7, Class::P1, NOW), Plan::PutAway(m.job));
    }
}
