//! The roll call: what became of the workers since the last look, and what that teaches of what they were bought as.
//!
//! Nobody tells us that the market took a worker without notice, or that a launch will never come: it shows in who is
//! there and who is not. Each worker is told apart by its name, and each thing that happens to it counts once.
//!
//! Edge cases: a worker first seen ready teaches nothing (it was there before we were); one that is drained and goes is no
//! loss; one that was noticed and goes was counted when the notice came; a launch that is overdue has failed once, even if
//! it comes after all.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use super::offering::{Instance, OVERDUE, OfferingId, Stage};
use super::score::{Event, Score};
use crate::time::Timestamp;

/// How long a launch is taken to need before any was seen.
pub const ASSUMED_LEAD: Duration = Duration::from_secs(180);

/// Boots that are remembered.
pub(super) const BOOTS: usize = 50;

/// What is known of the workers and of what they were bought as.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Roll {
    pub(super) scores: BTreeMap<OfferingId, Score>,
    pub(super) known: BTreeMap<String, Known>,
    /// How long boots took, oldest first.
    pub(super) boots: VecDeque<Duration>,
    pub(super) called: Option<Timestamp>,
}

/// A worker as it was found last.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    pub(super) offering: OfferingId,
    pub(super) stage: Stage,
    /// Its launch was overdue, and has been counted as failed.
    pub(super) failed: bool,
}

impl Roll {
    /// Looks at who is there, and learns from it; returns what happened, in the order of the workers' names.
    pub fn call(&mut self, instances: &[Instance], now: Timestamp) -> Vec<(OfferingId, Event)> {
        let lead = self.lead();
        let mut events = Vec::new();
        let mut there = BTreeMap::new();
        for instance in instances {
            let before = self.known.remove(&instance.id);
            let was = before.as_ref().map(|before| before.stage);
            let mut failed = before.is_some_and(|before| before.failed);
            match (was, instance.stage) {
                (Some(Stage::Launching), Stage::Ready) => {
                    self.boots.push_back(now.since(instance.since));
                    events.push((instance.offering.clone(), Event::Launched));
                }
                (Some(Stage::Launching | Stage::Ready | Stage::Draining), Stage::Noticed) => {
                    events.push((instance.offering.clone(), Event::Lost));
                }
                (_, Stage::Launching) if !failed && now.since(instance.since) > lead * OVERDUE => {
                    failed = true;
                    events.push((instance.offering.clone(), Event::Failed));
                }
                _ => {}
            }
            let offering = instance.offering.clone();
            there.insert(instance.id.clone(), Known { offering, stage: instance.stage, failed });
        }
        for gone in core::mem::replace(&mut self.known, there).into_values() {
            match gone.stage {
                Stage::Launching if !gone.failed => events.push((gone.offering, Event::Failed)),
                Stage::Ready => events.push((gone.offering, Event::Lost)),
                Stage::Launching | Stage::Noticed | Stage::Draining | Stage::Drained => {}
            }
        }
        if let Some(called) = self.called {
            let mut surviving: Vec<&OfferingId> = instances
                .iter()
                .filter(|instance| instance.stage == Stage::Ready)
                .map(|instance| &instance.offering)
                .collect();
            surviving.sort();
            surviving.dedup();
            let survived = Event::Survived(now.since(called));
            events.extend(surviving.into_iter().map(|offering| (offering.clone(), survived)));
        }
        while self.boots.len() > BOOTS {
            self.boots.pop_front();
        }
        self.called = Some(now);
        for (offering, event) in &events {
            let score = self.scores.entry(offering.clone()).or_default();
            *score = score.after(*event, now);
        }
        events
    }

    /// What was learned of an offering.
    #[must_use]
    pub fn score(&self, offering: &OfferingId) -> Score {
        self.scores.get(offering).copied().unwrap_or_default()
    }

    /// How long a launch takes to serve, nine in ten of those seen.
    #[must_use]
    pub fn lead(&self) -> Duration {
        let mut boots: Vec<Duration> = self.boots.iter().copied().collect();
        boots.sort_unstable();
        let rank = (boots.len() * 9).div_ceil(10);
        rank.checked_sub(1).and_then(|at| boots.get(at)).copied().unwrap_or(ASSUMED_LEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    fn worker(id: &str, stage: Stage) -> Instance {
        Instance { id: id.to_owned(), offering: OfferingId("spot".to_owned()), stage, since: at(0), running: 0 }
    }

    fn told(roll: &mut Roll, workers: &[Instance], secs: i64) -> Vec<Event> {
        let survived = |event: &Event| matches!(event, Event::Survived(_));
        roll.call(workers, at(secs)).into_iter().map(|(_, event)| event).filter(|event| !survived(event)).collect()
    }

    #[test]
    fn a_boot_is_measured_and_a_loss_is_counted_once_with_notice_or_without() {
        let mut roll = Roll::default();
        assert_eq!(roll.lead(), ASSUMED_LEAD);
        assert_eq!(told(&mut roll, &[worker("a", Stage::Launching), worker("b", Stage::Launching)], 0), []);
        let ready = [worker("a", Stage::Ready), worker("b", Stage::Ready)];
        assert_eq!(told(&mut roll, &ready, 40), [Event::Launched, Event::Launched]);
        assert_eq!(roll.lead(), Duration::from_secs(40));
        let noticed = [worker("a", Stage::Noticed), worker("b", Stage::Ready)];
        assert_eq!(told(&mut roll, &noticed, 50), [Event::Lost]);
        assert_eq!(told(&mut roll, &[worker("b", Stage::Ready)], 60), [], "told of before");
        assert_eq!(told(&mut roll, &[], 70), [Event::Lost], "taken without a word");
        assert!(!roll.score(&OfferingId("spot".to_owned())).open(at(71)));
    }

    #[test]
    fn a_launch_that_does_not_come_has_failed_once_and_who_was_drained_is_no_loss() {
        let mut roll = Roll::default();
        let late = [worker("a", Stage::Launching)];
        assert_eq!(told(&mut roll, &late, 10), []);
        assert_eq!(told(&mut roll, &late, 541), [Event::Failed]);
        assert_eq!(told(&mut roll, &late, 551), []);
        assert_eq!(told(&mut roll, &[], 561), [], "ended because it was overdue");
        told(&mut roll, &[worker("b", Stage::Ready)], 570);
        told(&mut roll, &[worker("b", Stage::Draining)], 580);
        assert_eq!(told(&mut roll, &[], 590), []);
    }
}
