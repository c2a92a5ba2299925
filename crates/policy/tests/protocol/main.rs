//! The protocol, proved over small worlds: every interleaving of a front door, two workers, their store and a reader, with
//! every fault in every place, is looked at (explicit-state model checking: Lamport, "Specifying Systems", 2002; the
//! checker is `stateright`).
//!
//! What decides is policy's own: `job::apply`, `resume`, `marker::plan`, `attempt::adopt`. What surrounds them is modelled
//! after `worker/work`, `door/relay`, `admission` and the AWS adapter's `accept`, one step of theirs a step here. That each
//! rule is needed shows in the worlds where one is broken: the checker finds what comes of it.
//!
//! The worlds are kept small enough for seconds; `PENSTOCK_FAULTS=3` looks at larger ones, for minutes.

#![expect(
    clippy::print_stdout,
    clippy::panic,
    reason = "a proof says how much it looked at, and stops at a counterexample"
)]
#![expect(clippy::wildcard_enum_match_arm, reason = "a model's parts stay as they are unless a step is theirs")]

mod flight;
mod life;
mod rules;
mod store;
mod worker;

use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model, Property};

use flight::Flight;
use life::Life;
use rules::{Reading, Rules};

/// Looks at a whole world, expects every property to hold, and says how large it was.
fn prove<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let checker = model.checker().threads(1).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("{name}: {} states, up to {} steps deep", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}

/// Expects a broken world to be found out, and tells how.
fn refute<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let broken: Vec<&str> =
        model.properties().iter().filter(|property| is_promise(property)).map(|property| property.name).collect();
    let checker = model.checker().threads(1).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    let (property, path) = found.into_iter().find(|(property, _)| broken.contains(property)).unwrap_or_else(|| {
        panic!("{name}: nothing was found in {} states, though a rule is broken", checker.unique_state_count())
    });
    println!("{name}: '{property}' is broken by {:?}", path.into_actions());
}

fn is_promise<M: Model>(property: &Property<M>) -> bool {
    property.expectation == stateright::Expectation::Always
}

#[expect(clippy::disallowed_methods, reason = "how large a world a person has time to look at")]
fn faults() -> u8 {
    std::env::var("PENSTOCK_FAULTS").ok().and_then(|faults| faults.parse().ok()).unwrap_or(2).max(1)
}

/// A job that is accepted, and whose text somebody reads along.
fn read_along(faults: u8) -> Life {
    Life { is_accepted: true, is_read: true, words: 2, ..Life::new(faults) }
}

#[test]
fn no_job_is_lost_doubled_or_stuck_whatever_goes_wrong() {
    prove("one job", Life::new(faults()));
}

#[test]
fn nor_when_clocks_differ() {
    prove("one job, clocks apart", Life { skew: 1, is_accepted: true, ..Life::new(faults()) });
}

#[test]
fn nor_when_it_comes_due_meanwhile() {
    prove("one job, soon due", Life { due: 2, is_accepted: true, ..Life::new(faults()) });
}

#[test]
fn nor_when_its_client_leaves() {
    prove("one job, its client leaves", Life { may_leave: true, is_accepted: true, ..Life::new(faults()) });
}

#[test]
fn no_word_is_heard_twice_changed_or_left_out_whatever_goes_wrong() {
    // One word and two faults, two words and one: both with two are a world of two million states.
    prove("one word", Life { words: 1, ..read_along(faults()) });
    prove("two words", read_along(faults() - 1));
}

#[test]
fn the_same_request_runs_once_and_nobody_who_waits_for_it_is_let_down() {
    prove("two clients, one request", Flight::new(faults(), 2));
    prove("three clients, one request", Flight::new(faults().saturating_sub(2), 3));
}

#[test]
fn every_rule_is_needed() {
    let sound = Rules::SOUND;
    let life = |rules: Rules, faults: u8| Life { rules, ..Life::new(faults) };
    refute("an end can be written over", life(Rules { apply: rules::without_an_end, ..sound }, 2));
    refute("ends can be settled again", life(Rules { apply: rules::without_settling_once, ..sound }, 3));
    refute("a claim needs a record", life(Rules { apply: rules::without_upsert, ..sound }, 1));
    refute("calling off leaves no tombstone", life(Rules { apply: rules::without_tombstone, ..sound }, 2));
    refute("messages are acknowledged first", life(Rules { acknowledges_last: false, ..sound }, 1));
    let text = |rules: Rules, faults: u8| Life { rules, ..read_along(faults) };
    refute("writes are not fenced by epochs", text(Rules { apply: rules::without_fence, ..sound }, 2));
    refute("claims do not raise the epoch", text(Rules { apply: rules::without_epochs, ..sound }, 2));
    refute("no opening chunk", text(Rules { opens: false, ..sound }, 2));
    refute("the record is read before the chunks", text(Rules { reading: Reading::RecordFirst, ..sound }, 2));
    refute("chunks are read again without the record", text(Rules { reading: Reading::ChunksAgain, ..sound }, 2));
    let flight = Flight::new(2, 2);
    refute("what is put can be called off", Flight { calls_off_what_is_put: true, ..flight.clone() });
    refute("a marker is written over whatever it names", Flight { markers_are_seized: true, ..flight.clone() });
    refute("a job that another sent again is not joined", Flight { joins_its_own: false, ..flight.clone() });
    refute("and no other is begun when that has ended", Flight { keeps_spent_ids: true, ..flight });
}
