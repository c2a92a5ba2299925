//! Load by its shape: `surge 50 3000 5m`, or phases such as `steady 50 10m then ramp 50 400 5m then steady 400 1h`.

use core::fmt;
use core::str::FromStr;

/// How a surge is led up to, and what follows it: long enough for what waits to be worked off.
const LED_UP_BY: f64 = 600.0;
const FOLLOWED_BY: f64 = 1800.0;

/// A rate of requests over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    phases: Vec<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Phase {
    kind: Kind,
    /// Requests a second: at its beginning and its end, or the least and the most of a day.
    rates: (f64, f64),
    secs: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Line,
    /// From the least at its beginning to the most half a day later and back.
    Day,
}

/// Why a text is no shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidShape(String);

impl fmt::Display for InvalidShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' is no shape: write 'surge 50 3000 5m', 'steady 50 10m', 'ramp 50 400 5m' or 'day 5 80 24h', in requests \
             a second, and join several with 'then'",
            self.0
        )
    }
}

impl std::error::Error for InvalidShape {}

impl FromStr for Shape {
    type Err = InvalidShape;

    fn from_str(text: &str) -> Result<Self, InvalidShape> {
        let mut phases = Vec::new();
        for part in text.split(" then ") {
            let words: Vec<&str> = part.split_whitespace().collect();
            let bad = || InvalidShape(part.trim().to_owned());
            let rate =
                |word: &str| word.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0).ok_or_else(bad);
            let secs = |word: &str| seconds(word).ok_or_else(bad);
            let line = |from, to, secs| Phase { kind: Kind::Line, rates: (from, to), secs };
            match words.as_slice() {
                ["steady", at, lasts] => phases.push(line(rate(at)?, rate(at)?, secs(lasts)?)),
                ["ramp", from, to, lasts] => phases.push(line(rate(from)?, rate(to)?, secs(lasts)?)),
                ["day", low, high, lasts] => {
                    phases.push(Phase { kind: Kind::Day, rates: (rate(low)?, rate(high)?), secs: secs(lasts)? });
                }
                ["surge", low, high, lasts] => {
                    let (low, high) = (rate(low)?, rate(high)?);
                    phases.push(line(low, low, LED_UP_BY));
                    phases.push(line(high, high, secs(lasts)?));
                    phases.push(line(low, low, FOLLOWED_BY));
                }
                _ => return Err(bad()),
            }
        }
        Ok(Self { phases })
    }
}

/// Seconds in a text such as `90s`, `5m`, `1.5h` or `2d`; a bare number is seconds. `None` unless positive.
#[must_use]
pub fn seconds(text: &str) -> Option<f64> {
    let unit = |text: &str| match text {
        "" | "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        "d" => Some(86_400.0),
        _ => None,
    };
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, name) = text.split_at(end);
    let secs = number.parse::<f64>().ok()? * unit(name)?;
    (secs.is_finite() && secs > 0.0).then_some(secs)
}

impl Shape {
    /// Requests a second at `secs` from the beginning; 0 before and after.
    #[must_use]
    pub fn rate(&self, secs: f64) -> f64 {
        let mut left = secs;
        for Phase { kind, rates: (from, to), secs } in &self.phases {
            if (0.0..*secs).contains(&left) {
                return match kind {
                    Kind::Line => from + (to - from) * left / secs,
                    Kind::Day => {
                        let turn = core::f64::consts::TAU * left / 86_400.0;
                        from + (to - from) * (1.0 - turn.cos()) / 2.0
                    }
                };
            }
            left -= secs;
        }
        0.0
    }

    /// The end of the phase that `secs` lies in, and the most there is in that phase; `None` after the last.
    #[must_use]
    pub fn phase(&self, secs: f64) -> Option<(f64, f64)> {
        let mut end = 0.0;
        self.phases.iter().find_map(|phase| {
            end += phase.secs;
            (secs < end).then_some((end, phase.rates.0.max(phase.rates.1)))
        })
    }

    /// How long it lasts, in seconds.
    #[must_use]
    pub fn secs(&self) -> f64 {
        self.phases.iter().map(|phase| phase.secs).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_surge_is_led_up_to_and_followed_by_its_base() {
        let shape: Shape = "surge 50 3000 5m".parse().unwrap();
        assert_eq!(
            [0.0, 599.0, 600.0, 899.0, 900.0, 2699.0, 2700.0].map(|at| shape.rate(at)),
            [50.0, 50.0, 3000.0, 3000.0, 50.0, 50.0, 0.0]
        );
        assert_eq!((shape.secs(), shape.phase(700.0), shape.phase(2700.0)), (2700.0, Some((900.0, 3000.0)), None));
    }

    #[test]
    fn phases_follow_one_another_and_a_day_has_its_height_at_noon() {
        let shape: Shape = "ramp 0 100 100s then day 5 80 1d".parse().unwrap();
        assert_eq!(shape.rate(50.0), 50.0);
        assert!((shape.rate(100.0) - 5.0).abs() < 1e-9 && (shape.rate(100.0 + 43_200.0) - 80.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_no_shape_is_named_with_an_example() {
        for text in ["", "surge", "surge 50 3000", "steady -1 5m", "steady 5 0s", "steady NaN 5m", "steady 5 5y"] {
            let error = text.parse::<Shape>().unwrap_err();
            assert!(error.to_string().contains("surge 50 3000 5m"), "{error}");
        }
        assert_eq!(seconds("1.5h"), Some(5400.0));
    }
}
