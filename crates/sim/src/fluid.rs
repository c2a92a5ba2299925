//! A fleet as a fluid: load flows in step by step, capacity is what a policy has ready, what is above it queues.

use crate::trace::Trace;

/// What a policy has ready in each step of the scored time, in units of capacity.
pub type Units = Vec<f64>;

/// The terms all policies share.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What one unit of capacity serves in a step.
    pub capacity: f64,
    /// Seconds from a decision until its launch serves.
    pub delay_secs: f64,
    /// Seconds of start-up that are paid for with each unit launched.
    pub billed_start_secs: f64,
    /// Seconds that capacity is kept after it was last needed.
    pub hold_secs: f64,
    /// The first step that is scored.
    pub from: usize,
    /// The step after the last one.
    pub to: usize,
}

impl Terms {
    /// The terms of the comparison: one unit is a twentieth of the 99 % quantile of the scored load, ten minutes to
    /// start, five of them paid, kept fifteen.
    #[must_use]
    pub fn usual(trace: &Trace, from: usize, to: usize) -> Self {
        let mut sorted = trace.filled[from..to].to_vec();
        sorted.sort_by(f64::total_cmp);
        let capacity = crate::baselines::quantile(&sorted, 0.99) / 20.0;
        Self { capacity, delay_secs: 600.0, billed_start_secs: 300.0, hold_secs: 900.0, from, to }
    }

    /// Steps from a decision until it serves.
    #[must_use]
    pub fn delay_steps(&self, trace: &Trace) -> usize {
        steps(self.delay_secs, trace).max(1)
    }

    /// Steps that capacity is kept.
    #[must_use]
    pub fn hold_steps(&self, trace: &Trace) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few steps")]
        let steps = (self.hold_secs / trace.step.secs() as f64) as usize;
        steps.max(1)
    }
}

fn steps(secs: f64, trace: &Trace) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few steps")]
    let steps = (secs / trace.step.secs() as f64).ceil() as usize;
    steps
}

/// What a policy came to.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Unit-hours, start-up included.
    pub gpu_hours: f64,
    /// Share of the load that came while it exceeded the capacity of its step.
    pub above: f64,
    /// Share of the load that waited longer than 30 s.
    pub late_30s: f64,
    /// The wait that 99 % of the load stayed within, in seconds.
    pub wait_p99_secs: f64,
}

/// Runs the scored time of a trace on what a policy has ready.
#[must_use]
pub fn evaluate(trace: &Trace, terms: &Terms, units: &[f64]) -> Outcome {
    let step = trace.step.secs() as f64;
    let (mut queue, mut above, mut total, mut hours) = (0.0f64, 0.0, 0.0, 0.0);
    let mut waits = Vec::with_capacity(terms.to - terms.from);
    let mut before = units[terms.from].max(1.0);
    for at in terms.from..terms.to {
        let (load, units) = (trace.filled[at], units[at].max(1.0));
        let capacity = units * terms.capacity;
        queue = (queue + load - capacity).max(0.0);
        above += (load - capacity).max(0.0);
        total += load;
        hours += units * step / 3600.0 + (units - before).max(0.0) * terms.billed_start_secs / 3600.0;
        before = units;
        waits.push((queue / capacity * step, load));
    }
    waits.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut seen = 0.0;
    let p99 = waits.iter().find(|(_, load)| {
        seen += load;
        seen >= 0.99 * total
    });
    let late = waits.iter().filter(|(wait, _)| *wait > 30.0).map(|(_, load)| load).sum::<f64>();
    Outcome {
        gpu_hours: hours,
        above: above / total,
        late_30s: late / total,
        wait_p99_secs: p99.map_or(0.0, |(wait, _)| *wait),
    }
}

/// Keeps units `steps` further steps after they were last needed.
#[must_use]
pub fn held(units: &[f64], steps: usize) -> Units {
    (0..units.len()).map(|at| units[at.saturating_sub(steps)..=at].iter().copied().fold(1.0, f64::max)).collect()
}

/// Who knows the load beforehand, and keeps units as long as everybody.
#[must_use]
pub fn oracle(trace: &Trace, terms: &Terms) -> Units {
    let needed: Units = trace.filled.iter().map(|load| (load / terms.capacity).ceil()).collect();
    held(&needed, terms.hold_steps(trace))
}

/// Target tracking: the load of the last whole step at utilisation `u`, after the delay.
#[must_use]
pub fn reactive(trace: &Trace, terms: &Terms, u: f64) -> Units {
    let late = 1 + terms.delay_steps(trace);
    let asked: Units = (0..trace.filled.len())
        .map(|at| at.checked_sub(late).map_or(1.0, |seen| (trace.filled[seen] / (u * terms.capacity)).ceil()))
        .collect();
    held(&asked, terms.hold_steps(trace))
}

/// The peak of the last week times `factor`, set each midnight.
#[must_use]
pub fn static_peak(trace: &Trace, terms: &Terms, factor: f64) -> Units {
    let (day, mut units) = (trace.per_day(), 1.0);
    (0..trace.filled.len())
        .map(|at| {
            if at % day == 0 {
                let peak = trace.filled[at.saturating_sub(7 * day)..=at].iter().copied().fold(0.0, f64::max);
                units = (factor * peak / terms.capacity).ceil();
            }
            units
        })
        .collect()
}

/// What a cloud's predictive scaling is taken for: hourly means of the weekday-aware 14-day average, refreshed every six
/// hours, scale-out only over target tracking at the same utilisation.
#[must_use]
pub fn aws_like(trace: &Trace, terms: &Terms, averages: &[Vec<f64>], u: f64) -> Units {
    let (hour, day) = (trace.per_hour(), trace.per_day());
    let mut planned = vec![1.0; trace.filled.len()];
    // `averages[k]` was made at the origin `2 days + 6 h x k`.
    for origin in (2 * day..trace.filled.len()).step_by(hour) {
        let refresh = (origin - 2 * day) / (6 * hour);
        let (Some(made), from) = (averages.get(refresh), origin + hour) else { continue };
        let ahead = from - (2 * day + refresh * 6 * hour);
        let mean = made[ahead..ahead + hour].iter().sum::<f64>() / hour as f64;
        let units = (mean / (u * terms.capacity)).ceil();
        for at in from..(from + hour).min(planned.len()) {
            planned[at] = units;
        }
    }
    // Launched up to a hold's length ahead of its hour.
    let early = terms.hold_steps(trace);
    let tracked = reactive(trace, terms, u);
    (0..planned.len())
        .map(|at| planned[at..(at + early).min(planned.len())].iter().copied().fold(tracked[at], f64::max))
        .collect()
}

/// Unit-hours at a share above capacity, read off the swept points: between two of them by the logarithm of the share.
#[must_use]
pub fn at_share(points: &[Outcome], share: f64) -> Option<f64> {
    let mut sorted: Vec<(f64, f64)> = points.iter().map(|point| (point.gpu_hours, point.above.max(1e-6))).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Only what nothing cheaper beats.
    let mut least = f64::INFINITY;
    sorted.retain(|(_, above)| {
        let keep = *above < least;
        least = least.min(*above);
        keep
    });
    let first = sorted.iter().position(|(_, above)| *above <= share)?;
    let Some((before, above)) = first.checked_sub(1).map(|at| sorted[at]) else { return Some(sorted[0].0) };
    let (hours, below) = sorted[first];
    let part = (above.ln() - share.ln()) / (above.ln() - below.ln());
    Some(before + part * (hours - before))
}
