//! The door: what becomes of a request, by the very decisions that the service takes, in its order: the tenant's limits and
//! the virtual queue in one take, return slots for whoever finds the queue full, the promise for who is let in.
//!
//! Beside it the two doors that others have: one that lets everybody in, and one that knows tenants' limits alone.

use core::time::Duration;
use std::collections::BTreeMap;

use penstock_policy::admission::{Capacity, ComeBack, Estimate};
use penstock_policy::classes::Class;
use penstock_policy::cost::Price;
use penstock_policy::decision::{self, Decision, Known, Refusal, Snapshot, Why, told};
use penstock_policy::degrade::Course;
use penstock_policy::fair::LetIn;
use penstock_policy::gcra::{self, Bucket, JointVerdict, Limit, Verdict, take_all};
use penstock_policy::promise::Promise;
use penstock_policy::rates::{self, Rates};
use penstock_policy::returns::{self, Return, Slot};
use penstock_policy::time::Timestamp;

use super::load::Arrival;

/// Which door it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Lets everybody in.
    Open,
    /// Knows tenants' limits and nothing of the pool.
    Limiter,
    /// Ours.
    Admission,
}

/// What somebody is told.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// Comes in; with a promise, where the door makes one.
    In(Option<Promise>),
    /// Is sent away; with a slot to come back at, or without.
    Away(ComeBack, Option<Slot>),
    /// Something else answers in the pool's place, if anything does.
    Elsewhere(Course),
}

/// Slots that one tenant holds in one queue, by their moment and holder: tokens.
type Slots = BTreeMap<(Timestamp, u32), u64>;

/// The door's state.
#[derive(Clone, Debug)]
pub struct Door {
    kind: Kind,
    limits: Vec<[Limit; 2]>,
    buckets: Vec<[Bucket; 2]>,
    /// The shards of each class's virtual queue.
    queues: [Vec<Bucket>; 4],
    let_in: [LetIn<u16>; 4],
    slots: [BTreeMap<u16, Slots>; 4],
    rates: Rates,
}

impl Door {
    /// A door to a pool of which `rates` are known, for tenants of these limits.
    #[must_use]
    pub fn new(kind: Kind, limits: Vec<[Limit; 2]>, rates: Rates) -> Self {
        let buckets = vec![[Bucket::default(); 2]; limits.len()];
        let queues = core::array::from_fn(|_| vec![Bucket::default(); usize::from(u8::MAX)]);
        Self { kind, limits, buckets, queues, let_in: Default::default(), slots: Default::default(), rates }
    }

    /// The rates as published last.
    #[must_use]
    pub const fn rates(&self) -> &Rates {
        &self.rates
    }

    /// Asks to be let in. `who` is a number of the client's own; `slot` what it was given when it was refused; `place` the
    /// number of the front process that it reaches.
    pub fn ask(
        &mut self,
        who: u32,
        arrival: &Arrival,
        course: Course,
        slot: Option<Slot>,
        place: u16,
        now: Timestamp,
    ) -> Answer {
        if self.kind == Kind::Open {
            return Answer::In(None);
        }
        let tenant = usize::from(arrival.tenant).min(self.limits.len().saturating_sub(1));
        let parts = [(self.limits[tenant][0], 1), (self.limits[tenant][1], arrival.estimate())];
        if self.kind == Kind::Limiter {
            return match take_all(&self.buckets[tenant], &parts, now) {
                JointVerdict::Granted { buckets, .. } => {
                    self.store(tenant, &buckets);
                    Answer::In(None)
                }
                JointVerdict::Refused { part, until } => away(Why::of_part(part), until, None, now),
            };
        }
        let class = arrival.class;
        let capacity = Capacity { tokens_per_second: self.rates.pace.tokens_per_second };
        let Ok(whole) = capacity.virtual_queue(class) else { return Answer::In(None) };
        let shards = self.rates.shards.clamp(1, u16::from(u8::MAX));
        let (whole, shard) = (whole.part_of(shards), place % shards);
        let bucket = self.queues[class.index()][usize::from(shard)];
        let all = gcra::backlog(bucket, now);
        let shares = self.let_in[class.index()].shares(&arrival.tenant, all, now);
        let queued = whole.refilled_in(all) as f64;
        let queue = shares.limit(&whole, queued, returns::WINDOW);
        let ahead = if queued > 0.0 { (shares.ahead(queued) / queued).clamp(0.0, 1.0) } else { 1.0 };
        let estimate = Estimate { prompt: u64::from(arrival.prompt), output: u64::from(arrival.reserved) };
        let snapshot = Snapshot {
            known: Known::Nothing,
            class,
            estimate,
            price: Price { input_usd_micros_per_million_tokens: 0, output_usd_micros_per_million_tokens: 0 },
            parts: &parts,
            denied: &[],
            course,
            rates: &self.rates,
            backlog: all.mul_f64(ahead),
            waiting: all,
        };
        let promise = match decision::decide(&snapshot, now) {
            Decision::Accept { promise, .. } => promise,
            Decision::Refuse(refusal) => return Answer::Away(told(&refusal, now), None),
            Decision::Degrade(course) => return Answer::Elsewhere(course),
            Decision::Serve(_) | Decision::Join(_) => return Answer::In(None),
        };
        let mut kept = false;
        if let Some(slot) = slot {
            match returns::judge(&slot, now) {
                Return::Early { at } => return away(Why::QueueFull, Some(at), Some(slot), now),
                Return::InTime => kept = self.claim(class, arrival.tenant, slot.at, who),
                Return::Lapsed => {
                    self.claim(class, arrival.tenant, slot.at, who);
                }
            }
        }
        let of_tenant = match take_all(&self.buckets[tenant], &parts, now) {
            JointVerdict::Granted { buckets, .. } => buckets,
            JointVerdict::Refused { part, until } => return away(Why::of_part(part), until, None, now),
        };
        let units = arrival.estimate().min(queue.burst());
        if !kept {
            match gcra::take(bucket, &queue, units, now) {
                Verdict::Granted { bucket, .. } => self.queues[class.index()][usize::from(shard)] = bucket,
                Verdict::Refused { until } => {
                    let booked = self.book(who, arrival, &queue, units, shard, now);
                    let why = if booked.is_some() { Why::QueueFull } else { Why::NoSlot };
                    return away(why, Some(booked.map_or(until, |slot| slot.at)), booked, now);
                }
                Verdict::NeverSatisfiable => return away(Why::NoSlot, None, None, now),
            }
        }
        self.store(tenant, &of_tenant);
        self.let_in[class.index()].note(arrival.tenant, arrival.estimate(), now);
        Answer::In(Some(promise))
    }

    fn store(&mut self, tenant: usize, buckets: &[Bucket]) {
        if let [requests, tokens] = buckets {
            self.buckets[tenant] = [*requests, *tokens];
        }
    }

    fn claim(&mut self, class: Class, tenant: u16, at: Timestamp, who: u32) -> bool {
        self.slots[class.index()].get_mut(&tenant).is_some_and(|slots| slots.remove(&(at, who)).is_some())
    }

    /// Books a slot on the queue's own bucket, if its tenant may hold another.
    fn book(
        &mut self,
        who: u32,
        arrival: &Arrival,
        queue: &Limit,
        units: u64,
        shard: u16,
        now: Timestamp,
    ) -> Option<Slot> {
        let class = arrival.class.index();
        let bucket = &mut self.queues[class][usize::from(shard)];
        let Verdict::Granted { bucket: after, spent } = gcra::take(*bucket, &returns::limit(queue), units, now) else {
            return None;
        };
        let slot = returns::slot(queue, after, spent, shard);
        let held = self.slots[class].entry(arrival.tenant).or_default();
        let most = returns::tenant_cap(queue, after, units, now);
        let sum = |held: &Slots| held.values().sum::<u64>();
        if sum(held) + units > most {
            // Slots that nobody came back for make room.
            held.retain(|(at, _), _| returns::lapses(*at) >= now);
        }
        if sum(held) + units > most {
            return None;
        }
        *bucket = after;
        held.insert((slot.at, who), units);
        Some(slot)
    }

    /// Tokens of a class's queue that are kept for those who have not come back yet and still may.
    fn kept_for_returns(&self, class: Class, now: Timestamp) -> u64 {
        let first = now.before(returns::GRACE);
        self.slots[class.index()].values().flat_map(|slots| slots.range((first, 0)..).map(|(_, units)| units)).sum()
    }

    /// New rates: virtual queues run at them, and are moved towards what really waits.
    pub fn publish(&mut self, rates: Rates, now: Timestamp) {
        self.rates = rates;
        let capacity = Capacity { tokens_per_second: self.rates.pace.tokens_per_second };
        let shards = self.rates.shards.clamp(1, u16::from(u8::MAX));
        for class in Class::ALL {
            let Ok(limit) = capacity.virtual_queue(class) else { continue };
            let kept = self.kept_for_returns(class, now) as f64;
            let real = (self.rates.ahead[class.index()] + kept) / f64::from(shards);
            for bucket in &mut self.queues[class.index()][..usize::from(shards)] {
                if let Some(spent) = rates::anchor(*bucket, &limit.part_of(shards), real, now) {
                    *bucket = gcra::refund(*bucket, spent);
                }
            }
        }
    }

    /// How long the virtual queue of a class is, in time: the mean of its shards.
    #[must_use]
    pub fn backlog(&self, class: Class, now: Timestamp) -> Duration {
        let shards = usize::from(self.rates.shards.clamp(1, u16::from(u8::MAX)));
        let sum: Duration = self.queues[class.index()][..shards].iter().map(|bucket| gcra::backlog(*bucket, now)).sum();
        sum / u32::try_from(shards).unwrap_or(1)
    }
}

fn away(why: Why, until: Option<Timestamp>, slot: Option<Slot>, now: Timestamp) -> Answer {
    Answer::Away(told(&Refusal { why, until }, now), slot)
}
