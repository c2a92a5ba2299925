//! The limiter against the textbook's bucket, in random interleavings: stale refunds, idle edges, shards, clocks that lag,
//! return slots.
//!
//! By one clock nothing is ever admitted too much. A caller whose clock lags behind the others' by some time may win back
//! what refills in that time, and no more however often it happens: half of the interleavings show that bound.
//!
//! `PENSTOCK_INTERLEAVINGS=1000000` runs a million of them; by default a part.
#![expect(clippy::disallowed_methods, reason = "how much is tried is told by the environment")]

use std::time::Duration;

use penstock_policy::gcra::{self, Bucket, JointVerdict, Limit, Spent, Verdict};
use penstock_policy::returns;
use penstock_policy::time::Timestamp;

/// Interleavings in an ordinary run.
const SOME: u64 = 30_000;

const STEPS: u64 = 24;

/// How far a caller's clock may lag, where clocks do.
const LAG_MS: u64 = 1500;

fn interleavings() -> u64 {
    std::env::var("PENSTOCK_INTERLEAVINGS").ok().and_then(|text| text.parse().ok()).unwrap_or(SOME)
}

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// The textbook's bucket: a level, refilled by true time, never above the burst. In nanoseconds of refill, so exact.
struct Textbook {
    level_ns: i64,
    at_ns: i64,
}

impl Textbook {
    fn full(limit: &Limit, now: Timestamp) -> Self {
        Self { level_ns: limit.span(), at_ns: now.as_nanos() }
    }

    fn refill(&mut self, limit: &Limit, now: Timestamp) {
        self.level_ns = (self.level_ns + (now.as_nanos() - self.at_ns).max(0)).min(limit.span());
        self.at_ns = self.at_ns.max(now.as_nanos());
    }

    /// Takes what was granted; whether it was there, but for what `slack_ns` refill.
    fn covers(&mut self, cost_ns: i64, slack_ns: i64) -> bool {
        self.level_ns -= cost_ns;
        self.level_ns >= -slack_ns
    }

    fn give_back(&mut self, cost_ns: i64, limit: &Limit) {
        self.level_ns = (self.level_ns + cost_ns).min(limit.span());
    }
}

/// What was taken and may be given back, whenever.
struct Taken {
    shard: usize,
    spent: Vec<Spent>,
}

/// One interleaving of several hands on the shards of one tenant's bucket, two parts each.
#[test]
fn nothing_is_admitted_that_the_textbooks_bucket_does_not_hold() {
    let mut granted = 0u64;
    for number in 0..interleavings() {
        let mut chance = Chance(number);
        let shards = 1 + chance.below(3);
        let clocks_lag = number % 2 == 1;
        let slack_ns = if clocks_lag { i64::try_from(LAG_MS).unwrap() * 1_000_000 } else { 0 };
        let whole = [
            Limit::new(1 + chance.below(50), Duration::from_secs(1), 1 + chance.below(40)).unwrap(),
            Limit::new(1 + chance.below(5000), Duration::from_secs(1), 40 + chance.below(3000)).unwrap(),
        ];
        let limits = whole.map(|limit| limit.part_of(u16::try_from(shards).unwrap()));
        // Together the shards never grant more than the whole.
        for (part, whole) in limits.iter().zip(&whole) {
            assert!(part.burst() == 1 || part.burst() * shards <= whole.burst());
            assert!(i128::from(part.period_ns()) == i128::from(whole.period_ns()) * i128::from(shards));
        }
        let mut truth = Timestamp::from_millis(1_700_000_000_000);
        let start = truth;
        let mut buckets: Vec<Vec<Bucket>> = vec![Vec::new(); usize::try_from(shards).unwrap()];
        let mut books: Vec<[Textbook; 2]> =
            (0..shards).map(|_| [Textbook::full(&limits[0], start), Textbook::full(&limits[1], start)]).collect();
        let mut taken: Vec<Taken> = Vec::new();
        for step in 0..STEPS {
            // Bursts, and pauses in which buckets fill up.
            let pause = if chance.below(4) == 0 { chance.below(4000) } else { chance.below(40) };
            truth = truth.after(Duration::from_millis(pause));
            // A caller's clock may lag behind the truth.
            let lag = if clocks_lag && chance.below(3) == 0 { chance.below(LAG_MS) } else { 0 };
            let now = truth.before(Duration::from_millis(lag));
            let shard = usize::try_from(chance.below(shards)).unwrap();
            let place = format!("interleaving {number}, step {step}");
            if chance.below(10) < 7 {
                let parts = [(limits[0], 1), (limits[1], chance.below(limits[1].burst() + 10))];
                let found = buckets[shard].clone();
                match gcra::take_all(&found, &parts, now) {
                    JointVerdict::Granted { buckets: next, spent } => {
                        granted += 1;
                        for ((book, limit), cost) in books[shard].iter_mut().zip(&limits).zip(&spent) {
                            book.refill(limit, truth);
                            assert!(book.covers(cost.cost_ns, slack_ns), "{place}: over-admission");
                        }
                        buckets[shard] = next;
                        taken.push(Taken { shard, spent });
                    }
                    JointVerdict::Refused { part, until } => {
                        // What is refused until then is not refused then, if nobody else took anything.
                        match until {
                            None => assert!(parts[part].1 > limits[part].burst(), "{place}"),
                            Some(until) => assert!(
                                matches!(gcra::take_all(&found, &parts, until), JointVerdict::Granted { .. }),
                                "{place}: refused at the very moment that was told"
                            ),
                        }
                    }
                }
            } else if !taken.is_empty() {
                // Long ago or just now; partly or wholly.
                let of = taken.swap_remove(usize::try_from(chance.below(taken.len() as u64)).unwrap());
                let share = i64::try_from(chance.below(4)).unwrap();
                for (part, spent) in of.spent.iter().enumerate() {
                    let back = Spent { cost_ns: spent.cost_ns * share / 3, ..*spent };
                    let before = buckets[of.shard][part];
                    let after = gcra::refund(before, back);
                    buckets[of.shard][part] = after;
                    let book = &mut books[of.shard][part];
                    book.refill(&limits[part], truth);
                    if after == before {
                        // Void: the bucket has been full since. The textbook's is given nothing either, which is stricter.
                        continue;
                    }
                    book.give_back(back.cost_ns, &limits[part]);
                }
            }
        }
    }
    println!("{granted} takes granted in {} interleavings, none too many", interleavings());
    assert!(granted > 0);
}

/// Newcomers, bookings and returns on one virtual queue: at no moment does it hold more work that was let in than its
/// ceiling, and what may come back within the grace that returns are given.
#[test]
fn a_queue_with_return_slots_holds_no_more_than_its_ceiling_and_its_grace() {
    let grace_ns = i64::try_from(returns::GRACE.as_nanos()).unwrap();
    for number in 0..interleavings() / 4 {
        let mut chance = Chance(number ^ 0x5107_0000);
        let queue = Limit::new(10 + chance.below(200), Duration::from_secs(1), 100 + chance.below(2000)).unwrap();
        let mut now = Timestamp::from_millis(1_700_000_000_000);
        let mut bucket = Bucket::default();
        let mut slots: Vec<(returns::Slot, u64)> = Vec::new();
        // Work let in, worked off at the queue's rate.
        let (mut inside_ns, mut at_ns) = (0i64, now.as_nanos());
        let mut let_in = |cost_ns: i64, now: Timestamp| {
            inside_ns = (inside_ns - (now.as_nanos() - at_ns)).max(0) + cost_ns;
            at_ns = now.as_nanos();
            inside_ns
        };
        for step in 0..STEPS * 2 {
            now = now.after(Duration::from_millis(chance.below(3000)));
            let units = 1 + chance.below(queue.burst() / 4);
            if let Some(at) = slots.iter().position(|(slot, _)| returns::judge(slot, now) == returns::Return::InTime) {
                let (slot, _) = slots.swap_remove(at);
                let inside = let_in(slot.spent.cost_ns, now);
                assert!(inside <= queue.span() + grace_ns + 2_000_000, "interleaving {number}, step {step}: a return");
            }
            slots.retain(|(slot, _)| returns::judge(slot, now) != returns::Return::Lapsed);
            match gcra::take(bucket, &queue, units, now) {
                Verdict::Granted { bucket: next, spent } => {
                    bucket = next;
                    let inside = let_in(spent.cost_ns, now);
                    assert!(inside <= queue.span() + grace_ns, "interleaving {number}, step {step}: a newcomer");
                }
                Verdict::NeverSatisfiable => {}
                Verdict::Refused { .. } => {
                    if let Verdict::Granted { bucket: next, spent } =
                        gcra::take(bucket, &returns::limit(&queue), units, now)
                    {
                        bucket = next;
                        slots.push((returns::slot(&queue, bucket, spent, 0), units));
                    }
                }
            }
        }
    }
}
