//! From the queues to the engine: receives no more than can start at once, and keeps slots free for urgent work.
//!
//! One loop a class. A loop receives only while the class may start something (`penstock_policy::classes`); what it
//! receives when another loop has taken the slot meanwhile is kept until one is free, and given back unclaimed only if
//! none is for long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, join_all, select};
use penstock_policy::classes::{Class, startable};
use penstock_policy::degrade;
use penstock_policy::retry::full_jitter;
use tokio::sync::Notify;

use crate::ports::{Delivery, PortResult, QueueId, WorkerRecord};
use crate::worker::work::{self, Workplace};

/// How long one receive waits for a message.
const RECEIVE_WAIT: Duration = Duration::from_secs(20);

/// The most messages of one receive, a limit of SQS.
const MOST_RECEIVED: usize = 10;

/// Feeds one engine from a pool's queues. Cheap to clone.
#[derive(Clone)]
pub struct Consumer {
    place: Arc<Workplace>,
    shared: Arc<Shared>,
}

struct Shared {
    busy: Mutex<[usize; 4]>,
    changed: Notify,
    draining: AtomicBool,
}

/// The slots that a job uses: one, or as many as it gives answers. Free again when dropped, however the job ends.
pub(crate) struct Slot {
    shared: Arc<Shared>,
    class: Class,
    width: usize,
}

impl Slot {
    /// Counts for as many sequences as the job turns out to have, at least 1. They may be more than are free: then the
    /// engine lets some of them wait, and nothing more is received until they have run.
    pub(crate) fn widen(&mut self, sequences: u32) {
        let more = (sequences as usize).saturating_sub(self.width);
        self.width += more;
        self.shared.busy.lock().unwrap_or_else(PoisonError::into_inner)[self.class.index()] += more;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut busy = self.shared.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy[self.class.index()] = busy[self.class.index()].saturating_sub(self.width);
        drop(busy);
        self.shared.changed.notify_waiters();
    }
}

impl Consumer {
    /// Makes a consumer that does nothing yet.
    #[must_use]
    pub fn new(place: Workplace) -> Self {
        let shared = Shared { busy: Mutex::new([0; 4]), changed: Notify::new(), draining: AtomicBool::new(false) };
        Self { place: Arc::new(place), shared: Arc::new(shared) }
    }

    /// Runs until [`Consumer::drain`], or until the engine dies; returns when the last job it had started has ended or gone back.
    pub async fn run(&self) {
        let loops = Class::ALL.into_iter().map(|class| self.serve(class));
        futures_util::future::join(join_all(loops), self.report()).await;
        while self.running() > 0 {
            self.wait_for_change().await;
        }
        let removed = self.place.service.ports().control.remove_worker(&self.place.pool, &self.place.worker).await;
        if let Err(error) = removed {
            tracing::warn!(%error, "cannot sign off; the worker's record will lapse");
        }
    }

    /// Starts nothing more. What runs goes on until it ends or the engine stops.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.shared.changed.notify_waiters();
    }

    /// How many sequences it is running.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.busy.lock().unwrap_or_else(PoisonError::into_inner).iter().sum()
    }

    /// Returns when a job has started or ended, or draining began; may return early.
    pub async fn wait_for_change(&self) {
        let clock = &self.place.service.ports().clock;
        let changed = self.shared.changed.notified();
        // Bounded, because a change between the caller's look and this wait goes unheard.
        select(changed.boxed(), clock.sleep_until(clock.now().after(Duration::from_millis(100)))).await;
    }

    fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::SeqCst)
    }

    fn slots(&self) -> usize {
        self.place.engine.info().slots as usize
    }

    fn startable(&self, class: Class) -> usize {
        startable(class, self.slots(), *self.shared.busy.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn acquire(&self, class: Class) -> Option<Slot> {
        let mut busy = self.shared.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if startable(class, self.slots(), *busy) == 0 {
            return None;
        }
        busy[class.index()] += 1;
        Some(Slot { shared: Arc::clone(&self.shared), class, width: 1 })
    }

    async fn serve(&self, class: Class) {
        let queue = QueueId { pool: self.place.pool.clone(), class };
        let mut failures = 0;
        while !self.is_draining() {
            if !self.place.engine.is_alive() {
                tracing::error!("the engine has died: this worker takes nothing more");
                self.drain();
                break;
            }
            let startable = if self.is_paused(class).await { 0 } else { self.startable(class) };
            if startable == 0 {
                self.wait_for_change().await;
                continue;
            }
            let ports = self.place.service.ports();
            let visibility = self.place.service.timing().visibility;
            let receive = ports.queue.receive(&queue, startable.min(MOST_RECEIVED), visibility, RECEIVE_WAIT);
            match select(receive, self.drained().boxed()).await {
                Either::Left((Ok(deliveries), _)) => {
                    failures = 0;
                    for delivery in deliveries {
                        if let Err(error) = self.start(class, delivery).await {
                            tracing::warn!(%error, "cannot give a message back; it comes back by itself");
                        }
                    }
                }
                Either::Left((Err(error), _)) => {
                    tracing::warn!(%error, class = class.name(), "cannot receive");
                    let fraction = self.place.service.fraction();
                    let wait = full_jitter(Duration::from_millis(200), Duration::from_secs(10), failures, fraction);
                    failures += 1;
                    ports.clock.sleep_until(ports.clock.now().after(wait)).await;
                }
                Either::Right(_) => {}
            }
        }
    }

    /// Whether the pool stands so badly that work of this class stays in its queue.
    async fn is_paused(&self, class: Class) -> bool {
        // Urgent work never pauses, and so never waits for the board.
        if class <= Class::P1 {
            return false;
        }
        let service = &self.place.service;
        let now = service.ports().clock.now();
        degrade::pauses(service.standing(&self.place.pool, now).await.tier(now), class)
    }

    async fn drained(&self) {
        while !self.is_draining() {
            let changed = self.shared.changed.notified();
            if self.is_draining() {
                return;
            }
            changed.await;
        }
    }

    /// Starts a delivery, or gives it back if there is no slot for it in time.
    async fn start(&self, class: Class, delivery: Delivery) -> PortResult<()> {
        let ports = self.place.service.ports();
        // Another loop may have taken the slot meanwhile. The message is kept for a while rather than given back at
        // once, because each receive brings it nearer to the dead-letter queue.
        let patience = ports.clock.now().after(self.place.service.timing().visibility / 2);
        let slot = loop {
            if self.is_draining() || ports.clock.now() >= patience {
                return ports.queue.hide(&delivery.receipt, Duration::ZERO).await;
            }
            match self.acquire(class) {
                Some(slot) => break slot,
                None => self.wait_for_change().await,
            }
        };
        let place = Arc::clone(&self.place);
        let task = async move {
            work::handle(place, delivery, slot).await;
        };
        ports.spawner.spawn(task.boxed());
        Ok(())
    }

    /// Reports the worker's capacity as long as it takes work.
    async fn report(&self) {
        let ports = self.place.service.ports();
        let info = self.place.engine.info();
        while !self.is_draining() {
            let now = ports.clock.now();
            let record = WorkerRecord {
                id: self.place.worker.clone(),
                pool: self.place.pool.clone(),
                digest: info.digest.clone(),
                slots: info.slots,
                tokens_per_second: info.tokens_per_second,
                seen: now,
                draining: false,
            };
            if let Err(error) = ports.control.put_worker(&record).await {
                tracing::warn!(%error, "cannot report");
            }
            let again = now.after(self.place.service.timing().worker_report);
            select(ports.clock.sleep_until(again), self.drained().boxed()).await;
        }
    }
}
