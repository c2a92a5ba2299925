//! The policies side by side, as text.

use std::fmt::Write as _;

use penstock_policy::classes::Class;

use crate::requests::simulation::{Outcome, Prepared};
use crate::requests::tally::{End, OfClass, share};

/// The policies as a table: first what they came to, then class by class.
#[must_use]
pub fn table(prepared: &Prepared, outcomes: &[Outcome]) -> String {
    let demand = &prepared.demand;
    let mut out = format!(
        "{} requests in {}, {} of them need a run of {:.0} estimated tokens; a worker does {:.1} of those a second\n\n",
        demand.requests,
        secs(prepared.load.secs()),
        demand.runs,
        demand.tokens,
        prepared.tokens_per_second() / demand.tokens,
    );
    let _ = writeln!(
        out,
        "{:<15} {:>9} {:>9} {:>6} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>7} {:>7}",
        "policy",
        "cost",
        "GPU-h",
        "losses",
        "answered",
        "P0+P1",
        "kept",
        "lost",
        "refused",
        "obeyed",
        "ETA 95",
        "sharp"
    );
    for outcome in outcomes {
        let (all, urgent) = (outcome.tally.all(), outcome.tally.interactive());
        let _ = writeln!(
            out,
            "{:<15} {:>8.2}$ {:>9.2} {:>6} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>7} {:>7}",
            outcome.policy.name,
            outcome.usd(),
            outcome.bill.spot_hours + outcome.bill.on_demand_hours,
            outcome.bill.lost,
            percent(all.answered(), all.asked()),
            percent(urgent.answered(), urgent.asked()),
            percent(all.ended(End::Hit) + all.ended(End::Joined) + all.ended(End::Stale), all.asked()),
            all.ended(End::Lost),
            percent(all.refused, all.asked()),
            if all.told == 0 { "-".to_owned() } else { percent(all.told_and_answered, all.told) },
            if all.promised == 0 { "-".to_owned() } else { percent(all.kept_95, all.promised) },
            all.sharpness.quantile(0.5).map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
        );
    }
    let _ = writeln!(
        out,
        "\n{:<15} {:<5} {:>9} {:>9} {:>8} {:>8} {:>8} {:>9} {:>9} {:>8} {:>9} {:>8}",
        "policy", "class", "asked", "answered", "p50", "p95", "p99", "wait p95", "missed", "lost", "turned", "gave up"
    );
    for outcome in outcomes {
        for class in Class::ALL {
            let of = &outcome.tally.classes[class.index()];
            if of.asked() > 0 {
                row(&mut out, outcome.policy.name, class.name(), of);
            }
        }
    }
    out.push_str(LEGEND);
    out
}

fn row(out: &mut String, policy: &str, class: &str, of: &OfClass) {
    let time = |q| of.latency.quantile(q).map_or("-".to_owned(), secs);
    let _ = writeln!(
        out,
        "{policy:<15} {class:<5} {:>9} {:>9} {:>8} {:>8} {:>8} {:>9} {:>9} {:>8} {:>9} {:>8}",
        of.asked(),
        percent(of.answered(), of.asked()),
        time(0.5),
        time(0.95),
        time(0.99),
        of.wait.quantile(0.95).map_or("-".to_owned(), secs),
        percent(of.missed, of.asked()),
        of.ended(End::Lost),
        of.ended(End::TurnedAway),
        of.ended(End::GaveUp),
    );
}

const LEGEND: &str = "
answered  with a run, a kept answer, or from elsewhere    kept    without a run: kept answers and runs of others
lost      let in, and hung up before there was an answer  refused at least once
obeyed    of those told when to come back who did: answered in the end
ETA 95    answers within the time stated for nineteen of twenty; sharp: that time over the actual one, median
latency   from the first try, returns included            missed  no answer within 1 min, 5 min, 1 h, 12 h (P0 to P3)
turned    told that no wait as long as clients wait helps gave up refused as often as they try
";

/// A share as per cent; more digits where it nears the whole.
#[must_use]
pub fn percent(part: u64, whole: u64) -> String {
    let share = 100.0 * share(part, whole);
    if share > 99.0 && part < whole { format!("{share:.3}%") } else { format!("{share:.1}%") }
}

/// Seconds as a person says them.
#[must_use]
pub fn secs(secs: f64) -> String {
    if secs < 1.0 {
        format!("{:.0}ms", secs * 1000.0)
    } else if secs < 60.0 {
        format!("{secs:.1}s")
    } else if secs < 7200.0 {
        format!("{:.1}min", secs / 60.0)
    } else {
        format!("{:.1}h", secs / 3600.0)
    }
}

impl Outcome {
    /// What it cost in all, in dollars.
    #[must_use]
    pub fn usd(&self) -> f64 {
        self.bill.usd + self.elsewhere_usd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_all_is_not_shown_as_all() {
        assert_eq!(percent(999_999, 1_000_000), "100.000%");
        assert_eq!(
            (percent(1000, 1000), percent(997, 1000), percent(1, 3)),
            ("100.0%".into(), "99.700%".into(), "33.3%".into())
        );
        assert_eq!([0.25, 1.5, 90.0, 86_400.0].map(secs), ["250ms", "1.5s", "1.5min", "24.0h"]);
    }
}
