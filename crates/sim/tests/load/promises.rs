//! Whether promises are kept, and how sharp they are: in steady load, in a surge, when capacity is lost, from zero; and
//! whether whoever obeys a refusal is served.

use std::time::Duration;

use http::StatusCode;
use penstock_service::ports::Clock;
use penstock_sim::World;

use crate::clients::{ANY, Stories, Story, TICK, come, quantile, world};

/// What a scenario came to.
#[derive(Debug)]
struct Figures {
    asked: usize,
    served: usize,
    /// Shares of answers within the stated times.
    kept_50: f64,
    kept_95: f64,
    /// The median of stated 95 % over actual.
    sharpness: f64,
    /// Shares of clients that were refused at first, and turned away for good.
    refused: f64,
    turned_away: f64,
    /// The share of those served who were told to come back and did.
    obeyed: f64,
}

fn figures(stories: &[Story]) -> Figures {
    let served: Vec<&Story> = stories.iter().filter(|story| story.status == StatusCode::OK).collect();
    let share = |count: usize, of: usize| if of == 0 { 1.0 } else { count as f64 / of as f64 };
    let within = |by: fn(&(u64, u64)) -> u64| {
        served.iter().filter(|story| story.stated.as_ref().is_some_and(|stated| story.took <= by(stated))).count()
    };
    let sharpness = served.iter().filter_map(|story| Some(story.stated?.1 as f64 / story.took.max(1) as f64));
    let obeying: Vec<&Story> = stories.iter().filter(|story| story.refusals > 0).collect();
    Figures {
        asked: stories.len(),
        served: served.len(),
        kept_50: share(within(|stated| stated.0), served.len()),
        kept_95: share(within(|stated| stated.1), served.len()),
        sharpness: quantile(sharpness.collect(), 0.5),
        refused: share(stories.iter().filter(|story| story.refusals > 0 || story.turned_away).count(), stories.len()),
        turned_away: share(stories.iter().filter(|story| story.turned_away).count(), stories.len()),
        obeyed: share(obeying.iter().filter(|story| story.status == StatusCode::OK).count(), obeying.len()),
    }
}

fn finish(name: &str, world: &World, stories: &Stories, span: Duration) -> Figures {
    // Until everybody has been answered, and a while longer.
    world.kernel.run_until(world.kernel.now().after(span + Duration::from_secs(900)), || false);
    let figures = figures(&stories.lock().unwrap());
    println!(
        "{name}: {} asked, {} served; kept {:.3} at 50 %, {:.3} at 95 %; stated 95 % over actual {:.2}; refused at first \
         {:.3}, turned away {:.3}; obeyed and served {:.3}",
        figures.asked,
        figures.served,
        figures.kept_50,
        figures.kept_95,
        figures.sharpness,
        figures.refused,
        figures.turned_away,
        figures.obeyed
    );
    figures
}

fn expect_kept(figures: &Figures) {
    assert!(figures.kept_95 >= 0.95, "{figures:?}");
    assert!(figures.sharpness <= 2.0, "{figures:?}");
    assert!(figures.obeyed >= 0.95, "{figures:?}");
}

/// What two workers of two slots do in a second, in these jobs.
const CAPACITY: f64 = 1.65;

#[test]
fn promises_are_kept_in_steady_load() {
    let mut world = world(11);
    world.start_worker(2, TICK).unwrap();
    world.start_worker(2, TICK).unwrap();
    let span = Duration::from_secs(600);
    let stories = come(&world, &world.key, "default", span, CAPACITY, ANY, |_| 0.75 * CAPACITY);
    let figures = finish("steady", &world, &stories, span);
    expect_kept(&figures);
    assert!(figures.refused < 0.01, "{figures:?}");
}

#[test]
fn promises_are_kept_in_surges_and_who_obeys_is_served() {
    // One surge is one draw: what it does to promises it does to hundreds at once, so several are judged together.
    let mut all = Vec::new();
    for seed in [12, 21, 22] {
        all.append(&mut surge(seed).lock().unwrap());
    }
    expect_kept(&figures(&all));
}

fn surge(seed: u64) -> Stories {
    let mut world = world(seed);
    world.start_worker(2, TICK).unwrap();
    world.start_worker(2, TICK).unwrap();
    let span = Duration::from_secs(1500);
    let surge = |at: f64| if (400.0..700.0).contains(&at) { 3.0 * CAPACITY } else { 0.6 * CAPACITY };
    let stories = come(&world, &world.key, "default", span, 3.0 * CAPACITY, ANY, surge);
    finish("surge", &world, &stories, span);
    stories
}

#[test]
fn promises_are_kept_when_half_of_the_capacity_is_lost() {
    let mut world = world(13);
    world.start_worker(2, TICK).unwrap();
    let (lost, _) = world.start_worker(2, TICK).unwrap();
    let span = Duration::from_secs(1500);
    let stories = come(&world, &world.key, "default", span, CAPACITY, ANY, |_| 0.6 * CAPACITY);
    world.kernel.run_until(world.kernel.now().after(Duration::from_secs(600)), || false);
    world.kernel.kill(lost);
    world.kernel.run_until(world.kernel.now().after(Duration::from_secs(120)), || false);
    world.start_worker(2, TICK).unwrap();
    let figures = finish("loss", &world, &stories, span);
    expect_kept(&figures);
}

#[test]
fn promises_are_kept_from_zero() {
    let mut world = world(14);
    let span = Duration::from_secs(80 * 60);
    // A burst each ten minutes; the fleet comes 50 to 70 s after its beginning and goes when it is quiet.
    let bursts = |at: f64| if at % 600.0 < 150.0 { 0.5 * CAPACITY } else { 0.0 };
    let stories = come(&world, &world.key, "default", span, 0.5 * CAPACITY, ANY, bursts);
    let begun = world.kernel.now();
    for burst in 0..8u64 {
        let boot = 50_000 + world.kernel.below(20_000);
        let at = |ms: u64| begun.after(Duration::from_millis(burst * 600_000 + ms));
        world.kernel.run_until(at(boot), || false);
        let (_, first) = world.start_worker(2, TICK).unwrap();
        let (_, second) = world.start_worker(2, TICK).unwrap();
        world.kernel.run_until(at(500_000), || false);
        first.drain();
        second.drain();
        world.kernel.run_until(at(600_000), || false);
    }
    let figures = finish("from zero", &world, &stories, Duration::ZERO);
    expect_kept(&figures);
}
