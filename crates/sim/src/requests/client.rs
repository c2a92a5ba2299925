//! Who asks: what a client does with a refusal.

use core::time::Duration;

use penstock_policy::admission::ComeBack;
use penstock_policy::retry::full_jitter;
use penstock_policy::returns::Slot;

use super::load::Arrival;
use super::moment::Moment;
use super::scenario::Clients;
use crate::chance::Chance;

/// How a client takes a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Comes back when it is told to, as stock clients do.
    Obeys,
    /// Comes back after about a second, two, four, whatever it is told.
    Blind,
    /// Goes.
    GivesUp,
}

/// A client with its request.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Its number, never used again.
    pub serial: u32,
    /// What it asks.
    pub arrival: Arrival,
    /// How it takes a refusal.
    pub manner: Manner,
    /// Tries so far.
    pub tries: u32,
    /// It was refused.
    pub refused: bool,
    /// It was told when to come back.
    pub told: bool,
    /// What it was given when it was refused.
    pub slot: Option<Slot>,
    /// The job whose answer it waits for.
    pub job: Option<u32>,
}

/// What a refused client does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next {
    /// Comes back after so many seconds.
    Back(f64),
    /// Goes, because it was told that no wait helps.
    TurnedAway,
    /// Goes, because it has tried enough.
    GivesUp,
}

impl Client {
    /// A client that comes now.
    pub fn new(serial: u32, arrival: Arrival, clients: &Clients, chance: &mut Chance) -> Self {
        let manner = [Manner::Obeys, Manner::Blind, Manner::GivesUp]
            [chance.which(&[clients.obey, clients.blind, clients.give_up])];
        Self { serial, arrival, manner, tries: 0, refused: false, told: false, slot: None, job: None }
    }

    /// What it does with a refusal.
    pub fn takes(&mut self, come_back: ComeBack, most_tries: u32, chance: &mut Chance) -> Next {
        /// What a network adds to a wait.
        const LATE_SECS: f64 = 0.02;
        let again = self.tries < most_tries;
        match (self.manner, come_back) {
            (Manner::GivesUp, _) => Next::GivesUp,
            (Manner::Obeys, ComeBack::Later(_) | ComeBack::Never) => Next::TurnedAway,
            (Manner::Obeys, ComeBack::After(wait)) => {
                self.told = true;
                if again { Next::Back(wait.as_secs_f64() + LATE_SECS * chance.fraction()) } else { Next::GivesUp }
            }
            (Manner::Blind, _) if again => {
                let (base, cap) = (Duration::from_secs(2), Duration::from_secs(30));
                let wait = full_jitter(base, cap, self.tries.saturating_sub(1), chance.fraction());
                Next::Back(wait.as_secs_f64())
            }
            (Manner::Blind, _) => Next::GivesUp,
        }
    }

    /// Seconds since it first asked.
    #[must_use]
    pub fn asked_for(&self, now: Moment) -> f64 {
        now.since(self.arrival.at)
    }
}
