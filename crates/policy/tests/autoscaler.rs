//! What an autoscaler keeps between ticks comes back as it was, and what was recorded of a tick gives the same plan.

use std::time::Duration;

use penstock_policy::fleet::autoscaler::{Autoscaler, Sight};
use penstock_policy::fleet::demand::Backlog;
use penstock_policy::fleet::flight::Flight;
use penstock_policy::fleet::offering::{Device, Instance, Market, Offering, OfferingId, Stage};
use penstock_policy::fleet::orders::Orders;
use penstock_policy::fleet::score::Score;
use penstock_policy::fleet::{CALM, Limits};
use penstock_policy::forecast::{Forecaster, Load, LocalTime, Step};
use penstock_policy::time::Timestamp;
use proptest::prelude::*;

const BEGIN: Timestamp = Timestamp::from_millis(1_704_067_200_000);
const LIMITS: Limits =
    Limits { least_workers: 0, most_workers: 9, most_on_demand: 3, usd_micros_per_hour: 9_000_000, calm: CALM };

/// A fleet that carries orders out: what is wanted is there at the next look, and what is to go has gone.
#[derive(Default)]
struct Fleet {
    instances: Vec<Instance>,
    named: u32,
}

impl Fleet {
    fn obey(&mut self, orders: &Orders, now: Timestamp) {
        let gone = |id: &String| orders.release.contains(id) || orders.give_up.contains(id);
        self.instances.retain(|instance| !gone(&instance.id));
        for instance in &mut self.instances {
            if orders.drain.contains(&instance.id) {
                instance.stage = Stage::Draining;
            }
        }
        for (offering, wanted) in &orders.wanted {
            let there = self.instances.iter().filter(|one| one.offering == *offering && one.stage.counts()).count();
            for _ in there..*wanted as usize {
                self.named += 1;
                let (id, offering) = (format!("i-{}", self.named), offering.clone());
                self.instances.push(Instance { id, offering, stage: Stage::Launching, since: now, running: 0 });
            }
        }
    }

    /// Every worker goes on one stage, the first of those that serve is taken if the market wants it.
    fn pass(&mut self, takes: bool) {
        if takes && let Some(taken) = self.instances.iter_mut().find(|one| one.stage == Stage::Ready) {
            taken.stage = Stage::Noticed;
        }
        self.instances.retain(|one| one.stage != Stage::Noticed || takes);
        for instance in &mut self.instances {
            instance.stage = match instance.stage {
                Stage::Launching => Stage::Ready,
                Stage::Draining => Stage::Drained,
                other @ (Stage::Ready | Stage::Noticed | Stage::Drained) => other,
            };
        }
    }
}

fn offerings() -> Vec<Offering> {
    [(Market::Spot, 300_000), (Market::OnDemand, 900_000)]
        .map(|(market, usd_micros_per_hour)| Offering {
            id: OfferingId(format!("{market:?}")),
            market,
            device: Device::GpuSlice { of: 2 },
            tokens_per_second: 100.0,
            usd_micros_per_hour,
            score: Score::default(),
            most: 9,
        })
        .into()
}

proptest! {
    // Each case forecasts a few hundred days.
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn an_autoscaler_that_is_stored_after_each_tick_plans_like_one_that_never_was_and_flights_fly_again(
        loads in prop::collection::vec((0.0..500.0f64, 0u64..400, any::<bool>()), 1..60),
    ) {
        let (mut kept, mut stored) = (Autoscaler::default(), Autoscaler::default());
        let (mut of_kept, mut of_stored) = (Forecaster::new(Step::FIVE_MINUTES), Forecaster::new(Step::FIVE_MINUTES));
        let (mut market, local, mut now, mut ended) = (Fleet::default(), LocalTime::utc(), BEGIN, BEGIN);
        for (tokens_per_second, gap, takes) in loads {
            now = now.after(Duration::from_secs(gap));
            let mut steps = Vec::new();
            while ended.after(Step::FIVE_MINUTES.duration()) <= now {
                steps.push((ended, Load::Offered(tokens_per_second * 300.0)));
                ended = ended.after(Step::FIVE_MINUTES.duration());
            }
            let waits = Backlog { tokens: tokens_per_second, due: Some(now.after(Duration::from_secs(900))) };
            let sight = Sight {
                ended: steps,
                tokens_per_second,
                backlog: [Backlog::default(), waits, Backlog::default(), waits],
                instances: market.instances.clone(),
                offerings: offerings(),
            };
            let tick = kept.tick(&mut of_kept, sight.clone(), &LIMITS, &local, now);
            let again = stored.tick(&mut of_stored, sight, &LIMITS, &local, now);
            prop_assert_eq!(&tick.plan, &again.plan);
            stored = Autoscaler::decode(&stored.encode()).unwrap();
            of_stored = Forecaster::decode(&of_stored.encode()).unwrap();
            prop_assert_eq!(&kept, &stored);
            let flown = Flight::decode(&tick.flight.encode()).unwrap();
            prop_assert_eq!(&flown, &tick.flight);
            prop_assert_eq!(flown.plan().encode(), tick.plan.encode());
            let there: u32 = tick.orders.wanted.values().sum();
            prop_assert!(there <= LIMITS.most_workers);
            market.obey(&tick.orders, now);
            let before = market.instances.clone();
            market.obey(&tick.orders, now);
            prop_assert_eq!(&market.instances, &before, "an order that is repeated does nothing again");
            market.pass(takes);
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_are_an_autoscaler_never_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..2000,
    ) {
        let _ = Autoscaler::decode(&bytes);
        let _ = Flight::decode(&bytes);
        let whole = Autoscaler::default().encode();
        let cut = cut.min(whole.len() - 1);
        prop_assert!(Autoscaler::decode(&whole[..cut]).is_err());
    }
}
