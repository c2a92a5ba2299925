//! Charts as SVG, drawn here, so that a page needs nothing from elsewhere.

use std::fmt::Write as _;

const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;

/// Points that a line has at most: more than there are pixels is waste.
const MOST_POINTS: usize = 460;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A line.
    Line,
    /// A dashed line.
    Dashed,
    /// A line that stays where it is until the next point.
    Steps,
    /// Filled down to the series before it that is filled, or to the axis.
    Stacked,
}

/// A series of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// The class of its colour, `c0` to `c5`.
    pub colour: usize,
    /// How it is drawn.
    pub style: Style,
    /// Its values at the chart's moments; `None` where there is none.
    pub values: Vec<Option<f64>>,
}

/// A chart over time.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// The unit of its values.
    pub unit: &'static str,
    /// Its moments in seconds.
    pub at: Vec<f64>,
    /// The series.
    pub series: Vec<Series>,
    /// The most that is shown, if not all.
    pub most: Option<f64>,
}

impl Chart {
    /// Draws it, with its title and legend.
    #[must_use]
    pub fn svg(&self) -> String {
        let (from, to) = (self.at.first().copied().unwrap_or(0.0), self.at.last().copied().unwrap_or(1.0));
        let span = (to - from).max(1e-9);
        let stacked = self.stacked();
        let top = stacked.iter().flatten().flatten().copied().fold(0.0, f64::max);
        let top = nice(self.most.map_or(top, |most| top.min(most)));
        let x = |at: f64| LEFT + (at - from) / span * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - (value.min(top) / top) * (HEIGHT - TOP - BOTTOM);
        let mut out = format!("<figure><figcaption>{}</figcaption>", escaped(&self.title));
        let _ =
            write!(out, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escaped(&self.title));
        for tick in 0..=4 {
            let value = top * f64::from(tick) / 4.0;
            let _ = write!(
                out,
                "<line class=\"g\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" \
                 class=\"r\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y(value) + 4.0,
                short(value),
                y = y(value),
            );
        }
        for tick in 0..=6 {
            let at = from + span * f64::from(tick) / 6.0;
            let _ = write!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" class=\"m\">{}</text>",
                x(at),
                HEIGHT - 8.0,
                moment(at, span)
            );
        }
        let thinned = self.thinned();
        let mut floor: Vec<Option<f64>> = vec![Some(0.0); self.at.len()];
        for (series, values) in self.series.iter().zip(&stacked) {
            let path = line(&thinned, &self.at, values, series.style == Style::Steps, &x, &y);
            let colour = series.colour;
            if series.style == Style::Stacked {
                let back: Vec<usize> = thinned.iter().rev().copied().collect();
                let floor_path = line(&back, &self.at, &floor, false, &x, &y).replacen('M', "L", 1);
                let _ = write!(out, "<path class=\"f c{colour}\" d=\"{path}{floor_path}Z\"/>");
                floor.clone_from(values);
            } else {
                let dashed = if series.style == Style::Dashed { " d" } else { "" };
                let _ = write!(out, "<path class=\"l c{colour}{dashed}\" d=\"{path}\"/>");
            }
        }
        let _ = write!(out, "</svg><p class=\"k\">");
        for series in &self.series {
            let _ = write!(out, "<span class=\"c{}\">{}</span> ", series.colour, escaped(&series.name));
        }
        let _ = write!(out, "<em>{}</em></p></figure>", escaped(self.unit));
        out
    }

    /// The values as they are drawn: what is stacked stands on what was stacked before.
    fn stacked(&self) -> Vec<Vec<Option<f64>>> {
        let mut sum = vec![0.0; self.at.len()];
        let stack = |series: &Series| -> Vec<Option<f64>> {
            if series.style != Style::Stacked {
                return series.values.clone();
            }
            for (sum, value) in sum.iter_mut().zip(&series.values) {
                *sum += value.unwrap_or(0.0);
            }
            sum.iter().copied().map(Some).collect()
        };
        self.series.iter().map(stack).collect()
    }

    /// The points that are drawn: of neighbours that share a pixel the one with the most to show.
    fn thinned(&self) -> Vec<usize> {
        let group = self.at.len().div_ceil(MOST_POINTS).max(1);
        let height = |at: &usize| {
            self.series.iter().filter_map(|series| series.values.get(*at).copied().flatten()).fold(0.0, f64::max)
        };
        (0..self.at.len())
            .step_by(group)
            .filter_map(|first| {
                (first..(first + group).min(self.at.len())).max_by(|a, b| height(a).total_cmp(&height(b)))
            })
            .collect()
    }
}

fn line(
    points: &[usize],
    at: &[f64],
    values: &[Option<f64>],
    steps: bool,
    x: &impl Fn(f64) -> f64,
    y: &impl Fn(f64) -> f64,
) -> String {
    let (mut path, mut drawn) = (String::new(), false);
    for point in points {
        let Some(value) = values.get(*point).copied().flatten() else {
            drawn = false;
            continue;
        };
        let (x, y) = (x(at[*point]), y(value));
        let _ = match (drawn, steps) {
            (false, _) => write!(path, "M{x:.1} {y:.1}"),
            (true, true) => write!(path, "H{x:.1}V{y:.1}"),
            (true, false) => write!(path, "L{x:.1} {y:.1}"),
        };
        drawn = true;
    }
    path
}

/// The next round number.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 5.0, 8.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= value * 0.999)
        .unwrap_or(value)
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        value if value >= 1e4 => format!("{}k", trimmed(value / 1e3)),
        value => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn moment(secs: f64, span: f64) -> String {
    if span < 600.0 {
        format!("{secs:.0} s")
    } else if span < 4.0 * 3600.0 {
        format!("{} min", trimmed((secs / 6.0).round() / 10.0))
    } else if span < 4.0 * 86_400.0 {
        format!("{} h", trimmed((secs / 360.0).round() / 10.0))
    } else {
        format!("{} d", trimmed((secs / 8640.0).round() / 10.0))
    }
}

/// Text for HTML.
#[must_use]
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: Vec<Option<f64>>, style: Style) -> Chart {
        let at = (0..values.len()).map(|at| at as f64).collect();
        let series = vec![Series { name: "a < b".to_owned(), colour: 0, style, values }];
        Chart { title: "t".to_owned(), unit: "rps", at, series, most: None }
    }

    #[test]
    fn a_gap_breaks_a_line_and_names_are_escaped() {
        let svg = chart(vec![Some(1.0), None, Some(2.0)], Style::Line).svg();
        assert_eq!(svg.matches('M').count(), 2, "{svg}");
        assert!(svg.contains("a &lt; b") && !svg.contains("a < b"));
    }

    #[test]
    fn thinning_keeps_a_peak() {
        let mut values = vec![Some(1.0); 10_000];
        values[5001] = Some(77.0);
        let chart = chart(values, Style::Line);
        let drawn = chart.thinned();
        assert!(drawn.contains(&5001) && drawn.len() <= MOST_POINTS);
    }

    #[test]
    fn an_empty_chart_is_drawn_all_the_same() {
        assert!(chart(Vec::new(), Style::Stacked).svg().contains("<svg"));
        assert_eq!([0.0, 0.7, 3.0, 9.0, 4100.0].map(nice), [1.0, 0.8, 4.0, 10.0, 5000.0]);
    }
}
