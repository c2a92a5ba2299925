//! The whole loop in virtual time: requests come, workers are launched, drained, taken by the market and replaced, and
//! nothing that was accepted is lost. Timelines are printed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use penstock_policy::fleet::offering::OfferingId;
use penstock_policy::fleet::{CALM, Limits};
use penstock_policy::forecast::LocalTime;
use penstock_policy::id::PoolId;
use penstock_service::Service;
use penstock_service::config::Timing;
use penstock_service::ports::Clock;
use penstock_service::stored::flight::replay;
use penstock_sim::{Group, Make, ScriptedFleet, World};
use penstock_wire::fleet::FleetLog;

use crate::clients::{Stories, TICK, come, quantile};

const BOOT: Duration = Duration::from_secs(60);

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// A deployment whose control loop runs a fleet of `least` to `most` workers.
fn world(seed: u64, least: u32, most: u32) -> (World, ScriptedFleet) {
    let timing = Timing { lease: Duration::from_secs(5), visibility: Duration::from_secs(7), ..Timing::default() };
    let limits = Limits {
        least_workers: least,
        most_workers: most,
        most_on_demand: most,
        usd_micros_per_hour: u64::MAX,
        calm: CALM,
    };
    let mut kept = None;
    let world = World::furnished(seed, timing, World::wide_limits().unwrap(), |ports, kernel| {
        let make =
            Make { pool: PoolId::new("default").unwrap(), boot: BOOT, slots: 8, tick: TICK, limits, offerings: (2, 1) };
        let fleet = ScriptedFleet::new(ports.clone(), kernel, timing, make);
        kept = Some(fleet.clone());
        Service::new(ports, timing, b"sim").with_fleet(Arc::new(fleet), LocalTime::utc())
    });
    let (world, fleet) = (world.unwrap(), kept.unwrap());
    let service = Arc::clone(&world.service);
    world.client(async move { service.control_loop(Duration::from_secs(2)).await });
    (world, fleet)
}

/// Seconds since the beginning, and how many workers there were in each stage.
type Timeline = Arc<Mutex<Vec<(u64, [usize; 5])>>>;

/// Writes down how many workers there are whenever that changes, until the world ends.
fn watch(world: &World, fleet: &ScriptedFleet) -> Timeline {
    let timeline = Timeline::default();
    let (told, kernel, fleet) = (Arc::clone(&timeline), world.kernel.clone(), fleet.clone());
    let begun = kernel.now();
    world.kernel.spawner(Group(0)).spawn(Box::pin(async move {
        loop {
            let (at, counts) = (kernel.now().since(begun).as_secs(), fleet.counts());
            {
                let mut told = told.lock().unwrap();
                if told.last().is_none_or(|(_, last)| *last != counts) {
                    told.push((at, counts));
                }
            }
            kernel.sleep_until(kernel.now().after(Duration::from_secs(1))).await;
        }
    }));
    timeline
}

fn print(timeline: &Timeline) {
    println!("{:>7}  launching ready noticed draining drained", "s");
    for (at, [launching, ready, noticed, draining, drained]) in timeline.lock().unwrap().iter() {
        println!("{at:>7}  {launching:>9} {ready:>5} {noticed:>7} {draining:>8} {drained:>7}");
    }
}

fn run(world: &World, span: Duration) {
    let until = world.kernel.now().after(span);
    world.kernel.run_until(until, || false);
}

/// Everybody was answered, however long it took.
fn nothing_lost(stories: &Stories) -> usize {
    let stories = stories.lock().unwrap();
    let accepted: Vec<_> = stories.iter().filter(|story| !story.turned_away).collect();
    let lost = accepted.iter().filter(|story| story.status != StatusCode::OK).count();
    assert_eq!(lost, 0, "of {} accepted", accepted.len());
    stories.len()
}

/// What the flight recorder has.
fn log(world: &World) -> FleetLog {
    let found = Arc::new(Mutex::new(None));
    let (told, service) = (Arc::clone(&found), Arc::clone(&world.service));
    world.client(async move { *told.lock().unwrap() = Some(service.fleet_log("default").await) });
    let until = world.kernel.now().after(Duration::from_secs(1));
    assert!(world.kernel.run_until(until, || found.lock().unwrap().is_some()));
    let log = found.lock().unwrap().take().unwrap();
    log.unwrap_or_else(|_| unreachable!("the pool is there"))
}

#[test]
fn a_surge_brings_workers_calm_takes_them_all_and_one_request_brings_one_back() {
    let (world, fleet) = world(1, 0, 8);
    let timeline = watch(&world, &fleet);
    let key = world.key.clone();
    // One worker makes 200 tokens a second; at the height some 600 are asked for.
    let surge = come(&world, &key, "default", minutes(10), 3.0, Some(100), |_| 3.0);
    run(&world, minutes(10));
    let [_, ready, ..] = fleet.counts();
    assert!((3..=8).contains(&ready), "{ready} workers at the end of the surge");
    run(&world, minutes(35));
    assert_eq!(fleet.counts(), [0; 5], "nobody came for half an hour");
    let asked = nothing_lost(&surge);
    let late = come(&world, &key, "default", minutes(1), 0.05, Some(100), |_| 0.05);
    run(&world, minutes(6));
    nothing_lost(&late);
    print(&timeline);
    let waits: Vec<f64> = surge.lock().unwrap().iter().map(|story| story.all as f64 / 1000.0).collect();
    println!(
        "{asked} requests, all answered; half within {:.1} s, 99 % within {:.1} s; {:.1} worker hours",
        quantile(waits.clone(), 0.5),
        quantile(waits, 0.99),
        fleet.worked().as_secs_f64() / 3600.0
    );
    let late = late.lock().unwrap();
    assert!(!late.is_empty(), "somebody came after the calm");
    // Who came first waited longest; stories are told in the order of their ends.
    let first = late.iter().max_by_key(|story| story.took).unwrap();
    let (_, stated) = first.stated.unwrap();
    println!(
        "from zero: at most {:.1} s were stated, it took {:.1} s",
        stated as f64 / 1000.0,
        first.took as f64 / 1000.0
    );
    assert!(first.took >= BOOT.as_millis() as u64 && stated >= BOOT.as_millis() as u64, "the boot is part of both");
    assert!(first.took <= stated);
}

#[test]
fn the_market_takes_workers_with_notice_and_without_and_successors_come_while_the_noticed_still_serve() {
    let (world, fleet) = world(2, 2, 8);
    let timeline = watch(&world, &fleet);
    let key = world.key.clone();
    let load = come(&world, &key, "default", minutes(20), 2.0, Some(100), |_| 2.0);
    run(&world, minutes(6));
    let [launching, before, ..] = fleet.counts();
    assert!(before >= 2);
    fleet.notice().unwrap();
    run(&world, Duration::from_secs(30));
    let [successors, _, noticed, ..] = fleet.counts();
    assert!(noticed == 1 && successors > launching, "a successor boots while the noticed one serves");
    run(&world, minutes(5));
    let [_, after, noticed, ..] = fleet.counts();
    assert!(noticed == 0 && after >= before, "{after} after {before}");
    fleet.take().unwrap();
    run(&world, minutes(5));
    assert!(fleet.counts()[1] >= before);
    run(&world, minutes(6));
    print(&timeline);
    println!("{} requests, all answered", nothing_lost(&load));
}

#[test]
fn on_demand_stands_in_while_spot_is_sold_out_and_goes_when_it_is_back() {
    let (world, fleet) = world(3, 1, 8);
    let key = world.key.clone();
    let spot = [1, 2].map(|number| OfferingId(format!("spot-{number}")));
    spot.iter().for_each(|offering| fleet.sell_out(offering, true));
    let timeline = watch(&world, &fleet);
    let load = come(&world, &key, "default", minutes(50), 1.0, Some(100), |_| 1.0);
    run(&world, minutes(10));
    assert!(fleet.counts()[1] >= 1, "somebody serves all the same");
    spot.iter().for_each(|offering| fleet.sell_out(offering, false));
    run(&world, minutes(45));
    print(&timeline);
    nothing_lost(&load);
    let steps: Vec<String> = log(&world).data.into_iter().flat_map(|tick| tick.steps).collect();
    println!("{}", steps.join("\n"));
    assert!(steps.iter().any(|step| step.contains("spot is back")), "what stood in has gone");
}

#[test]
fn every_recorded_tick_flies_again_bit_for_bit() {
    let (world, fleet) = world(4, 0, 8);
    let key = world.key.clone();
    let load = come(&world, &key, "default", minutes(15), 3.0, Some(100), |at| if at < 500.0 { 1.0 } else { 3.0 });
    run(&world, minutes(8));
    fleet.take().unwrap();
    run(&world, minutes(10));
    nothing_lost(&load);
    let log = log(&world);
    assert!(log.data.len() > 20 && log.data.iter().any(|tick| !tick.steps.is_empty()));
    for tick in &log.data {
        let read = serde_json::from_str(&serde_json::to_string(tick).unwrap()).unwrap();
        let replayed = replay(&read).unwrap();
        assert!(replayed.is_same, "{tick:?}");
        let steps: Vec<String> = replayed.plan.steps.iter().map(ToString::to_string).collect();
        assert_eq!(steps, tick.steps);
    }
    let mut other = log.data[0].clone();
    other.plan = log.data.last().unwrap().plan.clone();
    assert!(!replay(&other).unwrap().is_same, "another plan is told apart");
}
