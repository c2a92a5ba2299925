//! What a forecaster keeps to, whatever it is shown.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::time::Duration;

use penstock_policy::forecast::{Basis, Forecaster, Load, LocalTime, QUANTILES, Step, Taken, Undecodable};
use penstock_policy::time::Timestamp;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);
const START: Timestamp = Timestamp::from_millis(1_704_067_200_000);

/// A day like every day, with a little noise that is always the same.
fn usual(hour: u32) -> f64 {
    let of_day = f64::from(hour % 24) / 24.0 * core::f64::consts::TAU;
    1000.0 + 600.0 * of_day.sin() + f64::from(hour.wrapping_mul(2_654_435_761) >> 25)
}

fn hourly() -> Forecaster {
    Forecaster::new(Step::new(3600).unwrap())
}

fn at(hour: u32) -> Timestamp {
    START.after(HOUR * hour)
}

#[test]
fn from_no_history_nothing_is_known_and_that_is_said() {
    assert_eq!(hourly().forecast(&LocalTime::utc()).basis(), Basis::Nothing);
    let mut blind = hourly();
    blind.observe(START, Load::Missing, &LocalTime::utc());
    assert_eq!(blind.forecast(&LocalTime::utc()).basis(), Basis::Nothing);
}

#[test]
fn in_the_first_day_the_last_hour_goes_on_with_a_wide_bound() {
    let mut forecaster = hourly();
    for hour in 0..5 {
        forecaster.observe(at(hour), Load::Offered(100.0 * f64::from(hour)), &LocalTime::utc());
    }
    let forecast = forecaster.forecast(&LocalTime::utc());
    assert_eq!((forecast.basis(), forecast.from()), (Basis::FirstDay, at(5)));
    assert!((forecast.point(20) - 400.0).abs() < 1e-6);
    assert!(forecast.quantile(0.9, 1) >= 400.0 + 0.6 * (200.0f64 * 400.0).sqrt());
}

#[test]
fn a_day_like_every_day_is_foreseen_and_its_bounds_hold() {
    let (mut forecaster, local) = (hourly(), LocalTime::utc());
    let (mut held, mut off, mut count) = (0.0, 0.0, 0.0);
    for hour in 0..24 * 28 {
        forecaster.observe(at(hour), Load::Offered(usual(hour)), &local);
        if hour > 24 * 10 {
            let forecast = forecaster.forecast(&local);
            let came = usual(hour + 2);
            held += f64::from(u8::from(came <= forecast.quantile(0.9, 1)));
            off += (forecast.quantile(0.5, 1) - came).abs() / came;
            count += 1.0;
        }
    }
    assert!((0.85..0.96).contains(&(held / count)), "{}", held / count);
    assert!(off / count < 0.06, "{}", off / count);
}

#[test]
fn after_a_change_of_clocks_the_users_come_by_their_own() {
    // The users live by the wall: from the change on everything comes an hour later in UTC.
    let change = 24 * 20;
    let local = LocalTime::new(0, [(at(change), -3600)]);
    let wrong = |keyed_by: &LocalTime| {
        let mut forecaster = hourly();
        let mut off = 0.0;
        for hour in 0..change + 24 * 2 {
            let shown = if hour < change { usual(hour) } else { usual(hour - 1) };
            forecaster.observe(at(hour), Load::Offered(shown), keyed_by);
            if hour > change {
                off += (forecaster.forecast(keyed_by).point(11) - usual(hour + 11)).abs();
            }
        }
        off
    };
    assert!(wrong(&local) < 0.6 * wrong(&LocalTime::utc()));
}

#[test]
fn what_is_stored_forecasts_the_same_and_is_small() {
    let (mut forecaster, local) = (Forecaster::new(Step::FIVE_MINUTES), LocalTime::utc());
    for step in 0..288 * 9 {
        let load = if step % 700 == 3 { Load::Missing } else { Load::Offered(usual(step / 12) * 7.3) };
        forecaster.observe(START.after(Duration::from_secs(300) * step), load, &local);
    }
    let stored = forecaster.encode();
    let mut loaded = Forecaster::decode(&stored).unwrap();
    assert_eq!(loaded.encode(), stored);
    assert_eq!(loaded.forecast(&local), forecaster.forecast(&local));
    let next = START.after(Duration::from_secs(300) * (288 * 9));
    assert_eq!(loaded.observe(next, Load::Offered(5.0), &local), Taken::Added { missing: 0 });
    assert!(stored.len() < 90_000, "{}", stored.len());
    assert_eq!(Forecaster::decode(&[9]), Err(Undecodable::Version(9)));
    for cut in (1..stored.len()).step_by(997) {
        assert!(Forecaster::decode(&stored[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn a_step_twice_is_late_and_a_gap_beyond_memory_begins_anew() {
    let (mut forecaster, local) = (hourly(), LocalTime::utc());
    assert_eq!(forecaster.observe(at(0), Load::Offered(1.0), &local), Taken::Added { missing: 0 });
    assert_eq!(forecaster.observe(at(0), Load::Offered(1.0), &local), Taken::Late);
    assert_eq!(forecaster.observe(at(4), Load::Offered(1.0), &local), Taken::Added { missing: 3 });
    assert_eq!(forecaster.observe(at(24 * 60), Load::Offered(1.0), &local), Taken::BegunAnew);
    assert_eq!(forecaster.known_until(), at(24 * 60 + 1));
}

fn anything() -> impl Strategy<Value = Load> {
    prop_oneof![
        4 => (0.0..1e4).prop_map(Load::Offered),
        1 => Just(Load::Offered(0.0)),
        1 => Just(Load::Missing),
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(-5.0), Just(1e30)].prop_map(Load::Offered),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_comes_forecasts_are_finite_ordered_and_never_negative(
        loads in prop::collection::vec((anything(), 1u32..4), 1..260),
        offset in -50_000i32..50_000,
    ) {
        let (mut forecaster, mut hour) = (hourly(), 0);
        let local = LocalTime::new(offset, [(at(100), offset + 3600)]);
        for (load, gap) in loads {
            forecaster.observe(at(hour), load, &local);
            hour += gap;
        }
        let forecast = forecaster.forecast(&local);
        for ahead in 0..24 {
            let said = QUANTILES.map(|q| forecast.quantile(q, ahead));
            prop_assert!(said.iter().all(|value| value.is_finite() && *value >= 0.0), "{said:?}");
            prop_assert!(said.windows(2).all(|pair| pair[0] <= pair[1] + 1e-9), "{said:?}");
        }
        let stored = forecaster.encode();
        prop_assert_eq!(Forecaster::decode(&stored).unwrap().encode(), stored);
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_and_never_break(flips in prop::collection::vec((any::<u16>(), any::<u8>()), 1..20)) {
        let mut forecaster = hourly();
        for hour in 0..100 {
            forecaster.observe(at(hour), Load::Offered(usual(hour)), &LocalTime::utc());
        }
        let mut bytes = forecaster.encode();
        for (place, with) in flips {
            let place = usize::from(place) % bytes.len();
            bytes[place] ^= with;
        }
        if let Ok(read) = Forecaster::decode(&bytes) {
            let _ = read.forecast(&LocalTime::utc());
        }
    }
}
