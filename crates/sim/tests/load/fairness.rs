//! Whether one tenant can crowd out another.

use std::time::Duration;

use http::StatusCode;
use penstock_service::ports::Clock;
use penstock_sim::World;

use crate::clients::{ANY, Stories, TICK, come, quantile, tenant, world};

const SPAN: Duration = Duration::from_secs(240);

fn run(world: &World) {
    world.kernel.run_until(world.kernel.now().after(SPAN + Duration::from_secs(900)), || false);
}

/// Waits of everybody that came after the first two minutes, ms; and the share that was not served.
fn waits(stories: &Stories, world_began: penstock_policy::time::Timestamp) -> (Vec<f64>, f64) {
    let stories = stories.lock().unwrap();
    let late = || stories.iter().filter(|story| story.began.since(world_began) > Duration::from_secs(60));
    let served: Vec<f64> =
        late().filter(|story| story.status == StatusCode::OK).map(|story| story.all as f64).collect();
    let lost = 1.0 - served.len() as f64 / late().count().max(1) as f64;
    (served, lost)
}

/// A quiet tenant's time to answers of the same length, alone and beside one that asks for a hundred times as much, which is
/// nearly twice what there is.
#[test]
#[ignore = "takes minutes in a build without optimisation: run with --ignored"]
fn a_quiet_tenant_hardly_notices_a_noisy_one() {
    let alone = |noisy: bool| {
        let mut world = world(21);
        world.start_worker(8, TICK).unwrap();
        world.start_worker(8, TICK).unwrap();
        let begun = world.kernel.now();
        let quiet = tenant(&world, "quiet", World::wide_limits().unwrap());
        let stories = come(&world, &quiet, "default", SPAN, 0.12, Some(60), |_| 0.12);
        let crowd = noisy.then(|| come(&world, &world.key, "default", SPAN, 12.0, ANY, |_| 12.0));
        run(&world);
        drop(crowd);
        waits(&stories, begun)
    };
    let ((solo, _), (beside, lost)) = (alone(false), alone(true));
    let (solo, beside) = (quantile(solo, 0.99), quantile(beside, 0.99));
    println!("quiet tenant, p99: alone {solo} ms, beside a noisy one {beside} ms, not served {lost:.3}");
    assert!(lost < 0.01, "{lost}");
    assert!(beside <= 1.5 * solo, "{beside} against {solo}");
}

/// Tenants that all want more than there is get the same, however much more they want.
#[test]
fn tenants_that_all_want_more_get_the_same() {
    let mut world = world(22);
    world.start_worker(2, TICK).unwrap();
    world.start_worker(2, TICK).unwrap();
    let begun = world.kernel.now();
    let crowd: Vec<Stories> = [1.0, 2.0, 4.0, 8.0]
        .into_iter()
        .enumerate()
        .map(|(number, rate)| {
            let key = tenant(&world, &format!("t{number}"), World::wide_limits().unwrap());
            come(&world, &key, "default", SPAN, 0.6 * rate, ANY, move |_| 0.6 * rate)
        })
        .collect();
    // While all of them have something waiting.
    world.kernel.run_until(begun.after(SPAN), || false);
    let served: Vec<f64> = crowd
        .iter()
        .map(|stories| stories.lock().unwrap().iter().filter(|story| story.status == StatusCode::OK).count() as f64)
        .collect();
    let (sum, squares) = (served.iter().sum::<f64>(), served.iter().map(|x| x * x).sum::<f64>());
    let jain = sum * sum / (served.len() as f64 * squares);
    println!("served {served:?}, Jain's index {jain:.3}");
    assert!(jain >= 0.95, "{served:?}: {jain}");
}
