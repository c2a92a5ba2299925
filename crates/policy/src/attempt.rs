//! Which of its earlier tries a retry takes over.
//!
//! A client that lost its connection asks again, without telling which of its requests this is: the stock clients send the
//! same body and how often they have tried. So each try of a request that need not come out the same leaves its job under
//! a key made of the tenant and the body, with a hold: until when somebody waits for it. The relay renews the hold while
//! its client is there, and lets go as soon as it sees it leave; of a process that died the hold lapses. A retry takes
//! over the one job that nobody waits for; if there are several, nobody can tell whose they are, and it runs anew.
//!
//! Why not join whatever runs: two people may send the same body and want two answers.

use core::time::Duration;

use crate::id::{JobId, Nonce};
use crate::job::State;
use crate::marker::{Known, RECORD_DUE, TTL};
use crate::time::Timestamp;

/// How many tries are remembered under one key; older ones are forgotten.
pub const MOST: usize = 8;

/// How long a hold lasts unless it is renewed.
pub const HOLD: Duration = Duration::from_secs(30);

/// How often a relay renews its hold: twice before it lapses, and once in reserve.
pub const RENEW_EVERY: Duration = Duration::from_secs(10);

/// How long a job goes on for a client that has left.
pub const GRACE: Duration = Duration::from_secs(60);

/// The same while others wait for what it uses.
pub const GRACE_UNDER_PRESSURE: Duration = Duration::from_secs(10);

/// An answer that was delivered whole this often is nobody's any more: its client has it, and so has the retry that
/// never heard the first delivery.
const DELIVERED_ENOUGH: u32 = 2;

const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Somebody's claim to the answer of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Until when somebody waits.
    pub until: Timestamp,
    /// Who; each holder draws one.
    pub holder: Nonce,
    /// How often the answer was delivered whole.
    pub deliveries: u32,
}

impl Hold {
    /// The hold of a request that has just come.
    #[must_use]
    pub fn fresh(holder: Nonce, now: Timestamp) -> Self {
        Self { until: now.after(HOLD), holder, deliveries: 0 }
    }

    /// The same hold, prolonged.
    #[must_use]
    pub fn renewed(self, now: Timestamp) -> Self {
        Self { until: now.after(HOLD), ..self }
    }

    /// The hold of whoever takes over.
    #[must_use]
    pub fn taken_over(self, holder: Nonce, now: Timestamp) -> Self {
        Self { until: now.after(HOLD), holder, ..self }
    }

    /// What is left when the client has gone.
    #[must_use]
    pub const fn let_go(self, now: Timestamp) -> Self {
        Self { until: now, ..self }
    }

    /// What is left when the client was given the whole answer, as far as we can know.
    #[must_use]
    pub const fn delivered(self, now: Timestamp) -> Self {
        Self { until: now, deliveries: self.deliveries.saturating_add(1), ..self }
    }

    /// Whether somebody waits.
    #[must_use]
    pub fn is_waited_for(&self, now: Timestamp) -> bool {
        self.until > now
    }
}

/// One try of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its job.
    pub job: JobId,
    /// Who waits for it.
    pub hold: Hold,
}

/// What a retry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// Take over this try, if its hold is still this one.
    Adopt(Attempt),
    /// Send this try again under its own id: its acceptor died before its record was written.
    Resend(Attempt),
    /// Tell the failure of this job, which the request would meet again.
    Tell(JobId),
    /// All are waited for: look again then.
    Wait {
        /// When.
        until: Timestamp,
    },
    /// None, or nobody can tell which: run anew.
    RunAnew,
}

/// Where a try stands, to a retry.
enum Standing {
    Waited(Timestamp),
    Orphaned,
    Unrecorded,
    MaybeHeard,
    FailedForGood,
    Over,
}

/// Decides for a retry that found these tries and what is known of their jobs.
#[must_use]
pub fn adopt(tries: &[(Attempt, Known)], now: Timestamp) -> Adoption {
    let standings: Vec<(Attempt, Standing)> =
        tries.iter().map(|(attempt, known)| (*attempt, standing(attempt, known, now))).collect();
    let of = |wanted: fn(&Standing) -> bool| {
        standings.iter().filter(move |(_, standing)| wanted(standing)).map(|(attempt, _)| *attempt)
    };
    if let Some(attempt) = of(|standing| matches!(standing, Standing::FailedForGood)).next() {
        return Adoption::Tell(attempt.job);
    }
    let mut orphaned = of(|standing| matches!(standing, Standing::Orphaned | Standing::Unrecorded));
    match (orphaned.next(), orphaned.next()) {
        (Some(_), Some(_)) => return Adoption::RunAnew,
        (Some(attempt), None) => {
            let unrecorded = of(|standing| matches!(standing, Standing::Unrecorded)).next().is_some();
            return if unrecorded { Adoption::Resend(attempt) } else { Adoption::Adopt(attempt) };
        }
        (None, _) => {}
    }
    let mut heard = of(|standing| matches!(standing, Standing::MaybeHeard));
    match (heard.next(), heard.next()) {
        (Some(_), Some(_)) => return Adoption::RunAnew,
        (Some(attempt), None) => return Adoption::Adopt(attempt),
        (None, _) => {}
    }
    let waited = standings.iter().filter_map(|(_, standing)| match standing {
        Standing::Waited(until) => Some(*until),
        Standing::Orphaned | Standing::Unrecorded | Standing::MaybeHeard | Standing::FailedForGood | Standing::Over => {
            None
        }
    });
    match waited.min() {
        Some(lapses) => Adoption::Wait { until: lapses.min(now.after(LOOK_AGAIN)) },
        None => Adoption::RunAnew,
    }
}

fn standing(attempt: &Attempt, known: &Known, now: Timestamp) -> Standing {
    let waited = attempt.hold.is_waited_for(now);
    match known {
        Known::Absent if now.since(attempt.job.created()) < RECORD_DUE => {
            Standing::Waited(attempt.job.created().after(RECORD_DUE))
        }
        // Its acceptor would have renewed it by now, so a live hold is that of a retry that sends it again.
        Known::Absent if waited => Standing::Waited(attempt.hold.until),
        Known::Absent => Standing::Unrecorded,
        Known::Job { ended: Some(ended), .. } if now.since(*ended) >= TTL => Standing::Over,
        Known::Job { state: State::Failed, failed_for_good: true, .. } => Standing::FailedForGood,
        Known::Job { state: State::Failed | State::Cancelled | State::Expired, .. } => Standing::Over,
        // Nobody may join it any more.
        Known::Job { state: State::Parked | State::Queued | State::Running, interest: 0, .. } => Standing::Over,
        Known::Job { .. } if waited => Standing::Waited(attempt.hold.until),
        Known::Job { .. } if attempt.hold.deliveries >= DELIVERED_ENOUGH => Standing::Over,
        Known::Job { .. } if attempt.hold.deliveries > 0 => Standing::MaybeHeard,
        Known::Job { .. } => Standing::Orphaned,
    }
}

/// Why a client no longer waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It closed the connection.
    Closed {
        /// Others wait for what its job uses.
        under_pressure: bool,
    },
    /// We broke the connection off: it will be back.
    BrokenOff,
}

/// How long a job goes on for a client that no longer waits.
#[must_use]
pub const fn grace(leaving: Leaving) -> Duration {
    match leaving {
        Leaving::Closed { under_pressure: true } => GRACE_UNDER_PRESSURE,
        Leaving::Closed { under_pressure: false } | Leaving::BrokenOff => GRACE,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::classes::Class;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn hold(until_secs: i64, deliveries: u32) -> Hold {
        Hold { until: Timestamp::from_millis(NOW.as_millis() + until_secs * 1000), holder: Nonce(1), deliveries }
    }

    fn attempt(number: u128, hold: Hold) -> Attempt {
        Attempt { job: JobId::new(NOW.before(Duration::from_secs(60)), number), hold }
    }

    fn job(state: State) -> Known {
        let ended = state.is_terminal().then_some(NOW);
        Known::Job { state, class: Class::P1, interest: 1, ended, failed_for_good: false }
    }

    fn for_good() -> Known {
        Known::Job { state: State::Failed, class: Class::P1, interest: 0, ended: Some(NOW), failed_for_good: true }
    }

    #[test]
    fn the_one_try_nobody_waits_for_is_taken_over_whatever_it_has_come_to() {
        for state in [State::Parked, State::Queued, State::Running, State::Succeeded] {
            let (orphan, waited) = (attempt(1, hold(0, 0)), attempt(2, hold(9, 0)));
            assert_eq!(adopt(&[(waited, job(state)), (orphan, job(state))], NOW), Adoption::Adopt(orphan));
        }
    }

    #[test]
    fn among_several_orphans_nobody_can_tell_whose_is_whose() {
        let tries = [1, 2].map(|number| (attempt(number, hold(-1, 0)), job(State::Running)));
        assert_eq!(adopt(&tries, NOW), Adoption::RunAnew);
        assert_eq!(adopt(&[], NOW), Adoption::RunAnew);
    }

    #[test]
    fn while_all_are_waited_for_the_retry_waits_for_the_first_to_lapse() {
        let tries = [(attempt(1, hold(20, 0)), job(State::Running)), (attempt(2, hold(5, 0)), job(State::Queued))];
        assert_eq!(adopt(&tries, NOW), Adoption::Wait { until: NOW.after(LOOK_AGAIN) });
        let nearly =
            [(attempt(1, Hold { until: NOW.after(Duration::from_millis(3)), ..hold(0, 0) }), job(State::Running))];
        assert_eq!(adopt(&nearly, NOW), Adoption::Wait { until: NOW.after(Duration::from_millis(3)) });
    }

    #[test]
    fn an_answer_whose_delivery_may_have_been_lost_is_given_once_more() {
        let heard = |deliveries| [(attempt(1, hold(0, deliveries)), job(State::Succeeded))];
        assert_eq!(adopt(&heard(1), NOW), Adoption::Adopt(heard(1)[0].0));
        assert_eq!(adopt(&heard(2), NOW), Adoption::RunAnew);
        let orphan = attempt(2, hold(0, 0));
        let tries = [heard(1)[0], (orphan, job(State::Running))];
        assert_eq!(adopt(&tries, NOW), Adoption::Adopt(orphan), "one that nobody has heard goes before");
    }

    #[test]
    fn what_failed_for_good_is_told_for_a_while_and_what_failed_otherwise_is_run_anew() {
        let tries = [(attempt(1, hold(9, 0)), for_good())];
        assert_eq!(adopt(&tries, NOW), Adoption::Tell(tries[0].0.job));
        assert_eq!(adopt(&tries, NOW.after(TTL)), Adoption::RunAnew);
        for state in [State::Failed, State::Cancelled, State::Expired] {
            assert_eq!(adopt(&[(attempt(1, hold(0, 0)), job(state))], NOW), Adoption::RunAnew);
        }
    }

    #[test]
    fn a_try_whose_acceptor_died_is_sent_again_under_its_own_id() {
        let young = Attempt { job: JobId::new(NOW, 1), hold: hold(30, 0) };
        assert!(matches!(adopt(&[(young, Known::Absent)], NOW), Adoption::Wait { .. }));
        let old = attempt(1, hold(-1, 0));
        assert_eq!(adopt(&[(old, Known::Absent)], NOW), Adoption::Resend(old));
    }

    #[test]
    fn a_job_goes_on_for_a_client_that_left_for_less_long_when_others_wait() {
        assert!(grace(Leaving::Closed { under_pressure: true }) < grace(Leaving::Closed { under_pressure: false }));
        assert_eq!(grace(Leaving::BrokenOff), GRACE);
    }

    fn known() -> impl Strategy<Value = Known> {
        let state = proptest::sample::select(State::ALL.to_vec());
        prop_oneof![
            1 => Just(Known::Absent),
            6 => (state, 0u32..3, 0i64..600, any::<bool>()).prop_map(|(state, interest, ago, for_good)| Known::Job {
                state,
                class: Class::P1,
                interest,
                ended: state.is_terminal().then(|| NOW.before(Duration::from_secs(ago.unsigned_abs()))),
                failed_for_good: for_good && state == State::Failed,
            }),
        ]
    }

    proptest! {
        #[test]
        fn nothing_that_is_waited_for_spent_or_failing_is_ever_taken_over(
            tries in proptest::collection::vec((-40i64..40, 0u32..4, known()), 0..8),
        ) {
            let tries: Vec<(Attempt, Known)> = (0..)
                .zip(tries)
                .map(|(number, (until, deliveries, known))| (attempt(number, hold(until, deliveries)), known))
                .collect();
            match adopt(&tries, NOW) {
                Adoption::Adopt(taken) | Adoption::Resend(taken) => {
                    let (_, known) = tries.iter().find(|(attempt, _)| *attempt == taken).unwrap();
                    prop_assert!(!taken.hold.is_waited_for(NOW));
                    match known {
                        Known::Absent => {}
                        Known::Job { state, interest, .. } => {
                            prop_assert!(taken.hold.deliveries < DELIVERED_ENOUGH);
                            prop_assert!(!matches!(state, State::Failed | State::Cancelled | State::Expired));
                            prop_assert!(state.is_terminal() || *interest > 0);
                        }
                    }
                }
                Adoption::Tell(job) => {
                    let (_, known) = tries.iter().find(|(attempt, _)| attempt.job == job).unwrap();
                    let told = matches!(known, Known::Job { failed_for_good: true, .. });
                    prop_assert!(told);
                }
                Adoption::Wait { until } => prop_assert!(until > NOW && until <= NOW.after(LOOK_AGAIN)),
                Adoption::RunAnew => {}
            }
        }

        /// Retries and clients that come and go in any order: one answer never has two clients at once.
        #[test]
        fn one_hold_has_one_holder(steps in proptest::collection::vec((0u64..4, 0u64..4, 0u64..20), 0..60)) {
            let (mut now, mut stored) = (NOW, attempt(1, Hold::fresh(Nonce(1), NOW)));
            let mut seen: [Option<Hold>; 4] = [None; 4];
            seen[0] = Some(stored.hold);
            for (who, what, pass) in steps {
                now = now.after(Duration::from_secs(pass));
                let holder = usize::try_from(who).unwrap();
                let swap = |from: Hold, to: Hold, stored: &mut Attempt| {
                    let matches = stored.hold == from;
                    if matches { stored.hold = to; }
                    matches
                };
                match (what, seen[holder]) {
                    (0, None) => {
                        if let Adoption::Adopt(found) = adopt(&[(stored, job(State::Running))], now) {
                            prop_assert!(!stored.hold.is_waited_for(now));
                            let to = found.hold.taken_over(Nonce(who + 1), now);
                            seen[holder] = swap(found.hold, to, &mut stored).then_some(to);
                        }
                    }
                    (1, Some(mine)) => {
                        let to = mine.renewed(now);
                        seen[holder] = swap(mine, to, &mut stored).then_some(to);
                    }
                    (2, Some(mine)) => { swap(mine, mine.let_go(now), &mut stored); seen[holder] = None; }
                    (3, Some(mine)) => { swap(mine, mine.delivered(now), &mut stored); seen[holder] = None; }
                    _ => {}
                }
                let holders = seen.iter().flatten().filter(|hold| stored.hold == **hold).count();
                prop_assert!(holders <= 1);
            }
        }
    }
}
