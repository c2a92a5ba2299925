//! A store and a network that do their worst: the ports of a process, between which and the store everything may happen
//! that happens between a process and DynamoDB, SQS and S3.
//!
//! Each call travels on its own: it takes time there and back, goes on when its process has died, and meets a fate drawn
//! from the seed. What a port does not promise it does not get: calls overtake each other, no two of them are one
//! transaction, reads that may lag do lag, and acceptance may stop between the message and the record.
//!
//! The adversary keeps a ledger: what it did and when, which is the story of a failing seed, and which writes ended or
//! settled a job, so that a job that ended twice is seen whoever is to blame.

mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use penstock_policy::id::{JobId, Nonce};
use penstock_policy::marker::Marker;
use penstock_policy::time::Timestamp;
use penstock_service::Ports;
use penstock_service::ports::{Clock, MarkerKey, PortError, PortResult};
use tokio::sync::oneshot;

use crate::kernel::{Group, Kernel};

/// The group of what is under way between processes and the store.
const NETWORK: Group = Group(u32::MAX);

/// What may happen to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The store refuses it for being asked too much; nothing is done.
    Throttled,
    /// It never arrives.
    RequestLost,
    /// It is done, and nobody hears of it.
    ReplyLost,
    /// It is given up, and arrives seconds later.
    Late,
    /// It is done twice, as by a client library that tries again.
    Twice,
    /// It takes seconds.
    Slow,
    /// What may lag behind the newest write does.
    StaleRead,
    /// A message is delivered a second time while the first delivery is worked on.
    DeliveredTwice,
    /// A message stays out of sight for a while, and others overtake it.
    Overtaken,
    /// An acceptor's message is sent, and it comes to nothing more: no record, no reply.
    SentOnly,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Throttled,
        Self::RequestLost,
        Self::ReplyLost,
        Self::Late,
        Self::Twice,
        Self::Slow,
        Self::StaleRead,
        Self::DeliveredTwice,
        Self::Overtaken,
        Self::SentOnly,
    ];
}

/// What a call may suffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    /// A read that may lag behind.
    LaggingRead,
    /// May be repeated.
    Write,
    /// Is never repeated, and so never done twice.
    Refund,
    Receive,
    Accept,
}

impl Kind {
    const fn suffers(self, fault: Fault) -> bool {
        match fault {
            Fault::Throttled | Fault::RequestLost | Fault::Slow => true,
            Fault::ReplyLost => !matches!(self, Self::Read | Self::LaggingRead),
            Fault::Late => matches!(self, Self::Write | Self::Refund),
            Fault::Twice => matches!(self, Self::Write | Self::Accept),
            Fault::StaleRead => matches!(self, Self::LaggingRead),
            Fault::DeliveredTwice | Fault::Overtaken => matches!(self, Self::Receive),
            Fault::SentOnly => matches!(self, Self::Accept),
        }
    }
}

/// How often the adversary does what, in thousandths of the calls that can suffer it.
pub type Plan = BTreeMap<Fault, u64>;

/// Whose calls they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A front door's: the outage keeps it from the store.
    Front,
    /// A worker's.
    Worker,
}

#[derive(Default)]
struct Ledger {
    plan: Plan,
    out: bool,
    refuses: bool,
    /// How often it did what.
    done: BTreeMap<Fault, u64>,
    story: Vec<(Timestamp, String)>,
    ends: BTreeMap<JobId, BTreeSet<Nonce>>,
    settled: BTreeMap<JobId, BTreeSet<Nonce>>,
    /// What lagging reads saw last.
    markers: BTreeMap<MarkerKey, Option<Marker>>,
}

/// Stands between the processes of a world and their store. Cheap to clone; without a plan it only looks on.
#[derive(Clone)]
pub struct Adversary {
    kernel: Kernel,
    ledger: Arc<Mutex<Ledger>>,
}

impl Adversary {
    /// An adversary that does nothing yet.
    #[must_use]
    pub fn new(kernel: &Kernel) -> Self {
        Self { kernel: kernel.clone(), ledger: Arc::default() }
    }

    /// From now on it does this. An empty plan calms it.
    pub fn set_plan(&self, plan: Plan) {
        self.tell(format!("the plan is {plan:?}"));
        self.lock().plan = plan;
    }

    /// Begins or ends an outage: while it lasts, every call of a front door is refused at once.
    pub fn set_out(&self, out: bool) {
        self.tell(format!("the store is {}", if out { "out" } else { "back" }));
        self.lock().out = out;
    }

    /// Lets the store refuse front doors for good, as when a table is not there, or ends that.
    pub fn set_refusing(&self, refuses: bool) {
        self.tell(format!("the store {}", if refuses { "refuses" } else { "is right again" }));
        self.lock().refuses = refuses;
    }

    /// The same ports, with the adversary before those that a request's way leads over.
    #[must_use]
    pub fn over(&self, ports: Ports, side: Side) -> Ports {
        let over = Arc::new(ports::Over { adversary: self.clone(), side, ports: ports.clone() });
        Ports {
            jobs: over.clone(),
            queue: over.clone(),
            limits: over.clone(),
            markers: over.clone(),
            attempts: over.clone(),
            answers: over,
            ..ports
        }
    }

    /// Puts a line into the story.
    pub fn tell(&self, what: String) {
        let now = self.kernel.now();
        self.lock().story.push((now, what));
    }

    /// What happened, line by line, in milliseconds since `begun`.
    #[must_use]
    pub fn story(&self, begun: Timestamp) -> String {
        let line = |(at, what): &(Timestamp, String)| format!("{:>8} ms  {what}\n", at.since(begun).as_millis());
        self.lock().story.iter().map(line).collect()
    }

    /// How often it did what.
    #[must_use]
    pub fn done(&self) -> BTreeMap<Fault, u64> {
        self.lock().done.clone()
    }

    /// The jobs that ended, or were settled, by more than one write.
    #[must_use]
    pub fn doubled(&self) -> Vec<JobId> {
        let ledger = self.lock();
        let twice = |writes: &BTreeMap<JobId, BTreeSet<Nonce>>| -> Vec<JobId> {
            writes.iter().filter(|(_, nonces)| nonces.len() > 1).map(|(job, _)| *job).collect()
        };
        [twice(&ledger.ends), twice(&ledger.settled)].concat()
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, side: Side) -> PortResult<()> {
        if side == Side::Worker {
            return Ok(());
        }
        let ledger = self.lock();
        if ledger.refuses {
            return Err(PortError::Refused { store: "sim", cause: "there is no such table".to_owned() });
        }
        if ledger.out { Err(gone("it is out")) } else { Ok(()) }
    }

    fn is_quiet(&self) -> bool {
        self.lock().plan.is_empty()
    }

    /// What becomes of the next call of this kind.
    fn fate(&self, kind: Kind, call: &'static str) -> Option<Fault> {
        let plan: Vec<(Fault, u64)> = self.lock().plan.iter().map(|(fault, often)| (*fault, *often)).collect();
        let suffered = plan.into_iter().filter(|(fault, _)| kind.suffers(*fault));
        let fault = suffered.filter(|(_, often)| self.kernel.below(1000) < *often).map(|(fault, _)| fault).next()?;
        *self.lock().done.entry(fault).or_default() += 1;
        self.tell(format!("{call}: {fault:?}"));
        Some(fault)
    }

    async fn sleep(&self, most_ms: u64) {
        let while_ms = self.kernel.below(most_ms + 1);
        self.kernel.sleep_until(self.kernel.now().after(Duration::from_millis(while_ms))).await;
    }

    /// Lets a call travel to the store and its reply back.
    async fn pass<T, F>(&self, side: Side, kind: Kind, call: &'static str, run: F) -> PortResult<T>
    where
        T: Send + 'static,
        F: Fn() -> BoxFuture<'static, PortResult<T>> + Send + Sync + 'static,
    {
        self.check(side)?;
        if self.is_quiet() {
            return run().await;
        }
        let fate = self.fate(kind, call);
        let (answer, reply) = oneshot::channel();
        let adversary = self.clone();
        let travel = async move {
            adversary.sleep(if fate == Some(Fault::Slow) { 5_000 } else { 5 }).await;
            let result = match fate {
                Some(Fault::Throttled) => Err(PortError::Throttled { store: "sim", cause: "drawn".to_owned() }),
                Some(Fault::RequestLost) => Err(gone("the request was lost")),
                Some(Fault::ReplyLost) => {
                    // Done; whatever it came to, nobody hears of it.
                    drop(run().await);
                    Err(gone("the reply was lost"))
                }
                Some(Fault::Late) => {
                    // Its sender may be gone by then.
                    drop(answer.send(Err(gone("nobody answered"))));
                    adversary.sleep(10_000).await;
                    drop(run().await);
                    return;
                }
                Some(Fault::Twice) => {
                    drop(run().await);
                    adversary.sleep(500).await;
                    run().await
                }
                Some(Fault::Slow | Fault::StaleRead | Fault::DeliveredTwice | Fault::Overtaken | Fault::SentOnly)
                | None => run().await,
            };
            adversary.sleep(5).await;
            // The caller may be gone.
            drop(answer.send(result));
        };
        self.kernel.spawner(NETWORK).spawn(travel.boxed());
        reply.await.unwrap_or_else(|_| Err(gone("the network is gone")))
    }
}

fn gone(cause: &str) -> PortError {
    PortError::Unavailable { store: "sim", cause: cause.to_owned() }
}
