//! The parameters of a deployment that bears what was simulated, as a section of `samconfig.toml`.
//!
//! What follows from a simulation and is a parameter of the template: how many requests the API lets in, and the fuse of
//! the table of token buckets. How many executions wait at once is stated too, because an account's limit is not ours to set.

use std::fmt::Write as _;

use crate::requests::simulation::{Outcome, Prepared};
use crate::requests::timeline::Sample;

/// Room above the busiest ten seconds: within them it is busier still.
const ROOM: f64 = 1.5;

/// Writes to the token buckets that a request makes at most which no kept answer spares: the tenant's take, the virtual
/// queue's, the booking of a return slot, its hold.
const TAKES: f64 = 4.0;

/// The parameters, to be pasted into `samconfig.toml`, for a stage.
#[must_use]
pub fn parameters(prepared: &Prepared, outcome: &Outcome, stage: &str) -> String {
    let most = |of: fn(&Sample) -> f64| outcome.timeline.iter().map(of).fold(0.0, f64::max);
    let asked = most(|sample| sample.hits + sample.accepted + sample.refused);
    let taken = most(|sample| sample.accepted + sample.refused);
    let waiting = most(|sample| f64::from(sample.connected));
    let workers = most(|sample| {
        f64::from(sample.workers.spot + sample.workers.on_demand + sample.workers.launching + sample.workers.going)
    });
    let mut out = String::new();
    let _ = write!(
        out,
        "# By `penstock simulate`: {} requests, {:.0} a second in the busiest ten seconds, returns included.\n\
         # At the peak {waiting:.0} clients waited at once, each for one execution of the function `front`: the account's limit\n\
         # of concurrent executions must be higher (AccountConcurrency says what it is, for its alarm).\n\
         # The pool had {workers:.0} workers at the most.\n\
         [{stage}.deploy.parameters]\n\
         parameter_overrides = [\n    \"Stage={stage}\",\n",
        prepared.demand.requests, asked,
    );
    let mut line = |name: &str, value: f64| {
        let _ = writeln!(out, "    \"{name}={:.0}\",", rounded(value));
    };
    line("ApiRateLimit", asked * ROOM);
    line("ApiBurstLimit", asked * ROOM * 2.0);
    line("MaxAdmWrites", taken * ROOM * TAKES);
    out.push_str("]\n");
    out
}

/// Two digits, upwards; 100 at least.
fn rounded(value: f64) -> f64 {
    let value = value.max(100.0);
    let unit = 10f64.powf(value.log10().floor() - 1.0);
    (value / unit).ceil() * unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::policy::Policy;
    use crate::requests::scenario::Scenario;
    use crate::requests::simulation::run;

    #[test]
    fn every_parameter_is_one_of_the_templates() {
        let scenario = Scenario::parse(r#"{"load": {"shape": "steady 20 2m"}}"#).unwrap();
        let prepared = Prepared::new(scenario).unwrap();
        let outcome = run(&prepared, Policy::ALL[0], |_| {}).unwrap();
        let text = parameters(&prepared, &outcome, "prod");
        let template = concat!(env!("CARGO_MANIFEST_DIR"), "/../../template.yaml");
        let template = std::fs::read_to_string(template).unwrap();
        let names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix('"')?.split_once('='))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names.len(), 4, "{text}");
        for name in names {
            assert!(template.contains(&format!("\n  {name}:\n")), "{name}");
        }
        assert_eq!([12.0, 101.0, 4501.0].map(rounded), [100.0, 110.0, 4600.0]);
    }
}
