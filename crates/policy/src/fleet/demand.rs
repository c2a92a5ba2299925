//! How much capacity is needed: what is forecast or seen, and what waits.
//!
//! What is forecast for the time a launch made now would serve, at the chosen quantile, or what was seen last at the
//! chosen utilisation, whichever is more: prediction alone does not beat tracking on loads like ours, the larger of both
//! does. On top each class's backlog within its time. Work of P3 that may wait is poured into the valleys of the next
//! hours instead: it raises the level only as far as it must to be done in time.
//!
//! Edge cases: without history the forecast says nothing and tracking alone speaks; a due time in the past counts as now.

use core::time::Duration;

use crate::classes::Class;
use crate::forecast::{Basis, Forecast};
use crate::time::Timestamp;

use super::tuning::Choice;

/// In how long a class's backlog is to be gone.
#[must_use]
pub const fn drain(class: Class) -> Duration {
    Duration::from_secs(match class {
        Class::P0 => 5,
        Class::P1 => 20,
        Class::P2 => 120,
        Class::P3 => 1_800,
    })
}

/// What waits of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Backlog {
    /// Estimated tokens.
    pub tokens: f64,
    /// When the most urgent of it is due.
    pub due: Option<Timestamp>,
}

/// How many jobs of each class wait, where `depths` wait or run and `running` sequences run: better classes run first.
#[must_use]
pub fn waiting(depths: [u64; 4], running: u64) -> [u64; 4] {
    let mut running = running;
    depths.map(|depth| {
        let runs = running.min(depth);
        running -= runs;
        depth - runs
    })
}

/// What is known of a pool's load.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    /// The forecast of its tokens, if there is one.
    pub forecast: Option<&'a Forecast>,
    /// Tokens offered a second, over the last minutes.
    pub tokens_per_second: f64,
    /// What waits, by class.
    pub backlog: [Backlog; 4],
}

/// What asked for capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The forecast for when a launch would serve.
    Forecast,
    /// What was seen last.
    Tracking,
    /// What waits of a class, more than the steady load does.
    Backlog(Class),
    /// The pool is to keep so much always.
    Floor,
}

/// How much is needed, in tokens a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Need {
    /// By the forecast.
    pub forecast: f64,
    /// By what was seen.
    pub tracking: f64,
    /// By what waits, by class.
    pub backlog: [f64; 4],
    /// What on-demand capacity must stand for, because something is due before spot could be waited for.
    pub threatened: Option<Class>,
}

impl Need {
    /// What is needed altogether.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.forecast.max(self.tracking) + self.backlog.iter().sum::<f64>()
    }

    /// What asked for most of it.
    #[must_use]
    pub fn cause(&self) -> Cause {
        let waiting = Class::ALL.into_iter().max_by(|a, b| self.backlog[a.index()].total_cmp(&self.backlog[b.index()]));
        match waiting {
            Some(class) if self.backlog[class.index()] > self.forecast.max(self.tracking) => Cause::Backlog(class),
            Some(_) | None if self.forecast > self.tracking => Cause::Forecast,
            Some(_) | None => Cause::Tracking,
        }
    }
}

/// How much is needed at `now`, where a launch takes `lead`, and `standing` tokens a second are there or coming.
#[must_use]
pub fn need(load: &Load<'_>, choice: Choice, lead: Duration, standing: f64, now: Timestamp) -> Need {
    let finite = |value: f64| if value.is_finite() { value.max(0.0) } else { 0.0 };
    let seen = finite(load.tokens_per_second);
    let forecast = load.forecast.filter(|forecast| forecast.basis() == Basis::Experts);
    let said = forecast.map_or(0.0, |forecast| {
        let secs = forecast.step().duration().as_secs_f64();
        let from = ahead(forecast, now);
        let to = ahead(forecast, now.after(lead));
        (from..=to).map(|at| finite(forecast.quantile(choice.quantile(), at)) / secs).fold(0.0, f64::max)
    });
    let tracking = seen / choice.utilisation();
    let steady = said.max(tracking);
    let backlog = Class::ALL.map(|class| {
        let waits = load.backlog[class.index()];
        let fast = finite(waits.tokens) / drain(class).as_secs_f64();
        match (class, forecast, waits.due) {
            (Class::P3, Some(forecast), Some(due)) => {
                fast.min(poured(forecast, finite(waits.tokens), steady, due, now))
            }
            (Class::P0 | Class::P1 | Class::P2 | Class::P3, _, _) => fast,
        }
    });
    let threatened = Class::ALL.into_iter().find(|class| {
        let ahead: f64 = load.backlog[..=class.index()].iter().map(|waits| finite(waits.tokens)).sum();
        let left = load.backlog[class.index()].due.map(|due| due.since(now).as_secs_f64());
        // What is left of the standing capacity beside the load that keeps coming.
        left.is_some_and(|left| ahead > 0.0 && (standing - seen).max(0.0) * left < ahead)
    });
    Need { forecast: said, tracking, backlog, threatened }
}

fn ahead(forecast: &Forecast, at: Timestamp) -> usize {
    let steps = at.since(forecast.from()).as_secs() / forecast.step().duration().as_secs().max(1);
    usize::try_from(steps).unwrap_or(usize::MAX).min(forecast.steps().saturating_sub(1))
}

/// How far work that may wait raises the level now, so that it is done by `due` in the valleys below that level.
fn poured(forecast: &Forecast, tokens: f64, steady: f64, due: Timestamp, now: Timestamp) -> f64 {
    let secs = forecast.step().duration().as_secs_f64();
    let (from, to) = (ahead(forecast, now), ahead(forecast, due));
    let mut valley: Vec<f64> = (from..=to).map(|at| forecast.point(at) / secs).collect();
    valley.sort_by(f64::total_cmp);
    // Filled from the lowest step up, like water.
    let (mut level, mut left) = (valley.first().copied().unwrap_or(0.0), tokens);
    for (filled, next) in (1..).zip(valley.iter().skip(1).copied().chain([f64::INFINITY])) {
        let room = (next - level) * secs * f64::from(filled);
        if room >= left {
            level += left / (secs * f64::from(filled));
            break;
        }
        left -= room;
        level = next;
    }
    (level - steady).max(0.0)
}
