//! What is under test.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use penstock_policy::id::{JobId, Nonce};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{
    Answers, Attempts, Blobs, Board, Census, Clock, Control, Erasure, Jobs, Limits, Markers, Parking, Queue, Shelf,
    Tally,
};

/// One adapter's ports.
pub(crate) struct Subject {
    pub(crate) jobs: Arc<dyn Jobs>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) limits: Arc<dyn Limits>,
    pub(crate) markers: Arc<dyn Markers>,
    pub(crate) parking: Arc<dyn Parking>,
    pub(crate) census: Arc<dyn Census>,
    pub(crate) attempts: Arc<dyn Attempts>,
    pub(crate) answers: Arc<dyn Answers>,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) board: Arc<dyn Board>,
    pub(crate) tally: Arc<dyn Tally>,
    pub(crate) shelf: Arc<dyn Shelf>,
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) erasure: Arc<dyn Erasure>,
}

/// The pool of the suite.
pub(crate) const POOL: &str = "contract";

/// A clock that shows the system's time but never waits: the suite asks for no waiting that must be real.
#[derive(Default)]
pub(crate) struct StillClock {
    ahead_ms: AtomicI64,
}

#[async_trait]
impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(BASE_MS + self.ahead_ms.load(Ordering::Relaxed))
    }

    async fn sleep_until(&self, moment: Timestamp) {
        self.ahead_ms.fetch_max(moment.as_millis() - BASE_MS, Ordering::Relaxed);
    }
}

/// Where the suite's own time begins.
pub(crate) const BASE_MS: i64 = 1_800_000_000_000;

/// A small seeded generator (splitmix64), so that a failing sequence is named by its number.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    pub(crate) fn nonce(&mut self) -> Nonce {
        Nonce(self.draw().max(1))
    }

    pub(crate) fn job(&mut self, now: Timestamp) -> JobId {
        JobId::new(now, u128::from(self.draw()) << 32 | u128::from(self.draw() >> 40))
    }
}
