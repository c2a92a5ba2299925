//! Arrivals in the order of time, from a shape, a trace or an access log.

use core::time::Duration;
use std::collections::BTreeMap;
use std::path::Path;

use penstock_policy::classes::Class;

use super::moment::Moment;
use super::scenario::{InvalidScenario, Scenario, class_named};
use super::shape::Shape;
use crate::chance::Chance;

/// One request, as its client means it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// When.
    pub at: Moment,
    /// Its class.
    pub class: Class,
    /// The number of its tenant.
    pub tenant: u16,
    /// Tokens of its prompt.
    pub prompt: u32,
    /// Tokens its answer will have.
    pub output: u32,
    /// Tokens it reserves for the answer.
    pub reserved: u32,
    /// Which question it asks, if others ask it too.
    pub question: Option<u32>,
}

impl Arrival {
    /// What it is estimated at.
    #[must_use]
    pub const fn estimate(&self) -> u64 {
        self.prompt as u64 + self.reserved as u64
    }
}

/// What a recorded line says of a request; the rest is drawn.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    class: Option<Class>,
    tenant: Option<u16>,
    prompt: Option<f64>,
    output: Option<f64>,
    question: Option<u32>,
}

/// Where arrivals come from.
#[derive(Clone, Debug)]
enum Source {
    Shape(Shape),
    /// Recorded requests.
    Requests(Vec<(Moment, Known)>),
    /// Recorded steps: the beginning of each, how many requests a second, how long their prompts and answers are.
    Steps {
        steps: Vec<(f64, f64, Known)>,
        end: f64,
    },
}

/// A load, ready to be drawn as often as wanted, each time the same.
#[derive(Clone, Debug)]
pub struct Load {
    source: Source,
    seed: u64,
    classes: [f64; 4],
    tenants: Vec<f64>,
    /// The names of tenants in the order of their numbers.
    pub names: Vec<String>,
    tokens: super::scenario::Tokens,
    repeated: f64,
    /// The cumulated shares of the questions.
    zipf: Vec<f64>,
    scale: f64,
}

impl Load {
    /// Reads what the scenario names.
    ///
    /// # Errors
    /// [`InvalidScenario`]: a file cannot be read, or a line is not of the form.
    pub fn of(scenario: &Scenario) -> Result<Self, InvalidScenario> {
        let load = &scenario.load;
        let mut names: Vec<String> = scenario.tenants.iter().map(|tenant| tenant.name.clone()).collect();
        let source = match (&load.shape, &load.trace, &load.log) {
            (Some(shape), None, None) => {
                let shape = shape.parse();
                Source::Shape(shape.map_err(|error: super::shape::InvalidShape| InvalidScenario::Field {
                    name: "load.shape",
                    should: format!("a shape: {error}"),
                })?)
            }
            (None, Some(file), None) => trace(file, &mut names)?,
            (None, None, Some(file)) => log(file)?,
            _ => {
                let should = "exactly one of shape, trace and log".to_owned();
                return Err(InvalidScenario::Field { name: "load", should });
            }
        };
        let all: f64 = scenario.tenants.iter().map(|tenant| tenant.share).sum();
        let repeats = &scenario.repeats;
        let mut sum = 0.0;
        let mut zipf: Vec<f64> = (1..=repeats.questions)
            .map(|rank| {
                sum += f64::from(rank).powf(-repeats.exponent);
                sum
            })
            .collect();
        zipf.iter_mut().for_each(|share| *share /= sum);
        let scale = load.scale.unwrap_or(1.0);
        if !(scale.is_finite() && scale > 0.0 && scale <= 1.0) {
            let should = "above 0 and at most 1".to_owned();
            return Err(InvalidScenario::Field { name: "load.scale", should });
        }
        Ok(Self {
            source,
            seed: scenario.seed,
            classes: scenario.classes,
            tenants: scenario.tenants.iter().map(|tenant| tenant.share / all).collect(),
            names,
            tokens: scenario.tokens,
            repeated: repeats.share,
            zipf,
            scale,
        })
    }

    /// How long anybody comes, in seconds.
    #[must_use]
    pub fn secs(&self) -> f64 {
        match &self.source {
            Source::Shape(shape) => shape.secs(),
            Source::Requests(requests) => requests.last().map_or(0.0, |(at, _)| at.secs()),
            Source::Steps { end, .. } => *end,
        }
    }

    /// All arrivals, in order.
    #[must_use]
    pub fn arrivals(&self) -> Arrivals<'_> {
        let chance = |purpose| Chance::of(self.seed, purpose);
        Arrivals { load: self, times: chance("times"), traits: chance("traits"), at: 0.0, next: 0 }
    }
}

/// The arrivals of a load.
#[derive(Clone, Debug)]
pub struct Arrivals<'a> {
    load: &'a Load,
    times: Chance,
    traits: Chance,
    at: f64,
    next: usize,
}

impl Iterator for Arrivals<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let (at, known) = match &self.load.source {
            Source::Shape(shape) => (Moment::from_secs(self.by_shape(shape)?), Known::default()),
            Source::Requests(requests) => loop {
                let request = *requests.get(self.next)?;
                self.next += 1;
                if self.load.scale >= 1.0 || self.times.fraction() < self.load.scale {
                    break request;
                }
            },
            Source::Steps { steps, end } => {
                let (at, known) = self.by_step(steps, *end)?;
                (Moment::from_secs(at), known)
            }
        };
        Some(self.complete(at, known))
    }
}

impl Arrivals<'_> {
    /// Independent arrivals at a changing rate, by thinning (Lewis and Shedler, 1979).
    fn by_shape(&mut self, shape: &Shape) -> Option<f64> {
        loop {
            let (end, most) = shape.phase(self.at)?;
            let most = most * self.load.scale;
            let gap = if most > 0.0 { self.times.gap(most) } else { f64::INFINITY };
            if self.at + gap >= end {
                // What comes later comes at another rate, and chance has no memory.
                self.at = end;
                continue;
            }
            self.at += gap;
            if self.times.fraction() * most < shape.rate(self.at) * self.load.scale {
                return Some(self.at);
            }
        }
    }

    fn by_step(&mut self, steps: &[(f64, f64, Known)], end: f64) -> Option<(f64, Known)> {
        loop {
            let (begin, rate, known) = *steps.get(self.next)?;
            let until = steps.get(self.next + 1).map_or(end, |(begin, _, _)| *begin);
            let rate = rate * self.load.scale;
            self.at = self.at.max(begin);
            let gap = if rate > 0.0 { self.times.gap(rate) } else { f64::INFINITY };
            if self.at + gap < until {
                self.at += gap;
                return Some((self.at, known));
            }
            self.at = until;
            self.next += 1;
        }
    }

    /// Draws what is not known.
    fn complete(&mut self, at: Moment, known: Known) -> Arrival {
        let (load, chance) = (self.load, &mut self.traits);
        // Every draw is made whatever is known, so that a trace with one more column tells the same story.
        let class = Class::ALL[chance.which(&load.classes)];
        let tenant = u16::try_from(chance.which(&load.tenants)).unwrap_or(0);
        let tokens = &load.tokens;
        let drawn = |chance: &mut Chance, (median, sigma): (f64, f64)| chance.log_normal(median, sigma);
        let (mut prompt, mut output) = (drawn(chance, tokens.prompt), drawn(chance, tokens.output));
        let (repeated, rank) = (chance.fraction() < load.repeated, chance.fraction());
        let asked = load.zipf.partition_point(|cumulated| *cumulated <= rank).min(load.zipf.len().saturating_sub(1));
        let question = known.question.or(repeated.then_some(u32::try_from(asked).unwrap_or(0)));
        if let Some(question) = question {
            // The same question has the same answer.
            let mut own = Chance::of(load.seed ^ u64::from(question), "question");
            (prompt, output) = (drawn(&mut own, tokens.prompt), drawn(&mut own, tokens.output));
        }
        let reserved = 1.0 + (tokens.reserved - 1.0) * chance.fraction();
        let context = f64::from(tokens.context);
        let prompt = known.prompt.unwrap_or(prompt).round().clamp(1.0, context - 1.0);
        let output = known.output.unwrap_or(output).round().clamp(1.0, context - prompt);
        let reserved = (output * reserved).round().min(context - prompt);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the context")]
        let [prompt, output, reserved] = [prompt, output, reserved].map(|tokens| tokens as u32);
        let class = known.class.unwrap_or(class);
        Arrival { at, class, tenant: known.tenant.unwrap_or(tenant), prompt, output, reserved, question }
    }
}

fn text_of(file: &Path) -> Result<String, InvalidScenario> {
    std::fs::read_to_string(file).map_err(|error| InvalidScenario::Read(file.to_owned(), error))
}

/// The most tenants that a trace's names become.
const MOST_TENANTS: usize = 1000;

fn trace(file: &Path, names: &mut Vec<String>) -> Result<Source, InvalidScenario> {
    let text = text_of(file)?;
    let mut lines = text.lines();
    let columns: Vec<&str> = lines.next().unwrap_or("").split(',').map(str::trim).collect();
    let place = |name: &str| columns.iter().position(|column| *column == name);
    let wrong = |line: usize, what: String| InvalidScenario::Line { file: file.to_owned(), line, what };
    let (time, unit) = match (place("t_s"), place("t_ms")) {
        (Some(at), _) => (at, 1.0),
        (None, Some(at)) => (at, 1e-3),
        (None, None) => return Err(wrong(1, "no column 't_s' or 't_ms' says when".to_owned())),
    };
    let [input, output, class, tenant, count] =
        ["input_tokens", "output_tokens", "class", "tenant", "requests"].map(place);
    let mut requests: Vec<(Moment, Known)> = Vec::new();
    let mut steps: Vec<(f64, f64, Known)> = Vec::new();
    for (at, line) in lines.enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let number = |place: Option<usize>| -> Result<Option<f64>, InvalidScenario> {
            let text = place.and_then(|place| fields.get(place)).copied().filter(|text| !text.is_empty());
            let Some(text) = text else { return Ok(None) };
            let value = text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0);
            value.map(Some).ok_or_else(|| wrong(at + 2, format!("'{text}' is no number of 0 or more")))
        };
        let when = number(Some(time))?.ok_or_else(|| wrong(at + 2, "no time".to_owned()))? * unit;
        let (prompt, answer) = (number(input)?, number(output)?);
        let word = |place: Option<usize>| place.and_then(|place| fields.get(place)).copied();
        let class = word(class).map(class_named);
        let tenant = word(tenant).and_then(|name| numbered(names, name));
        let known = Known { class, tenant, prompt, output: answer, question: None };
        match count {
            None => requests.push((Moment::from_secs(when), known)),
            Some(_) => {
                let count = number(count)?.unwrap_or(0.0);
                // Sums over the step.
                let mean = |sum: Option<f64>| sum.map(|sum| sum / count.max(1.0));
                let known = Known { prompt: mean(prompt), output: mean(answer), ..known };
                steps.push((when, count, known));
            }
        }
    }
    if count.is_none() {
        requests.sort_by_key(|(at, _)| *at);
        return Ok(Source::Requests(requests));
    }
    if steps.len() < 2 || steps.windows(2).any(|pair| pair[1].0 <= pair[0].0) {
        return Err(wrong(2, "steps need at least two lines in the order of time".to_owned()));
    }
    let last = steps.len() - 1;
    let end = 2.0 * steps[last].0 - steps[last - 1].0;
    let ends: Vec<f64> = steps[1..].iter().map(|(begin, _, _)| *begin).chain([end]).collect();
    for ((begin, count, _), end) in steps.iter_mut().zip(ends) {
        *count /= end - *begin;
    }
    Ok(Source::Steps { steps, end })
}

fn numbered(names: &mut Vec<String>, name: &str) -> Option<u16> {
    let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
        if names.len() < MOST_TENANTS {
            names.push(name.to_owned());
        }
        names.len() - 1
    });
    u16::try_from(at).ok()
}

/// Lines of the common or combined log form: `host ident user [10/Oct/2000:13:55:36 -0700] "GET /path HTTP/1.0" 200 2326`.
fn log(file: &Path) -> Result<Source, InvalidScenario> {
    let text = text_of(file)?;
    let mut questions: BTreeMap<String, u32> = BTreeMap::new();
    let mut found: Vec<(i64, u32)> = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: &str| InvalidScenario::Line { file: file.to_owned(), line: at + 1, what: what.to_owned() };
        let (_, rest) = line.split_once('[').ok_or_else(|| wrong("no time in brackets"))?;
        let (time, rest) = rest.split_once(']').ok_or_else(|| wrong("no time in brackets"))?;
        let moment = jiff::fmt::strtime::parse("%d/%b/%Y:%H:%M:%S %z", time)
            .and_then(|parsed| parsed.to_timestamp())
            .map_err(|_| wrong("the time is not of the form 10/Oct/2000:13:55:36 -0700"))?;
        let path = rest.split('"').nth(1).and_then(|request| request.split(' ').nth(1));
        let path = path.ok_or_else(|| wrong("no request in quotes"))?;
        let number = u32::try_from(questions.len()).unwrap_or(u32::MAX);
        found.push((moment.as_second(), *questions.entry(path.to_owned()).or_insert(number)));
    }
    found.sort_unstable();
    let first = found.first().map_or(0, |(at, _)| *at);
    // A log says the second only: those of one second are spread over it.
    let mut requests = Vec::with_capacity(found.len());
    for same in found.chunk_by(|a, b| a.0 == b.0) {
        for (at, (second, question)) in same.iter().enumerate() {
            let within = at as f64 / same.len() as f64;
            let secs = Duration::from_secs((second - first).unsigned_abs()).as_secs_f64() + within;
            requests.push((Moment::from_secs(secs), Known { question: Some(*question), ..Known::default() }));
        }
    }
    Ok(Source::Requests(requests))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Load {
        Load::of(&Scenario::parse(text).unwrap()).unwrap()
    }

    #[test]
    fn a_surge_brings_as_many_as_its_rates_say_and_the_same_each_time() {
        let load = load(r#"{"load": {"shape": "surge 5 300 1m"}}"#);
        let count = |from: f64, to: f64| {
            load.arrivals().filter(|arrival| (from..to).contains(&arrival.at.secs())).count() as f64
        };
        assert!((count(0.0, 600.0) / 3000.0 - 1.0).abs() < 0.1);
        assert!((count(600.0, 660.0) / 18_000.0 - 1.0).abs() < 0.05);
        assert!(load.arrivals().eq(load.arrivals()));
        assert!(load.arrivals().is_sorted_by_key(|arrival| arrival.at));
    }

    #[test]
    fn the_same_question_is_the_same_work() {
        let load = load(r#"{"load": {"shape": "steady 50 1m"}, "repeats": {"share": 0.8, "questions": 10}}"#);
        let mut seen: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        for arrival in load.arrivals() {
            if let Some(question) = arrival.question {
                let work = (arrival.prompt, arrival.output);
                assert_eq!(*seen.entry(question).or_insert(work), work);
            }
        }
        assert_eq!(seen.len(), 10);
    }

    #[test]
    fn traces_and_logs_say_what_they_know() {
        let folder = std::env::temp_dir().join(format!("penstock-load-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let written = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let of = |kind: &str, path: &str| load(&format!(r#"{{"load": {{"{kind}": "{path}"}}}}"#));

        let path = written("a.csv", "t_ms,input_tokens,output_tokens,class,tenant\n0,10,20,p0,a\n1500,30,40,flex,b\n");
        let requests: Vec<Arrival> = of("trace", &path).arrivals().collect();
        assert_eq!((requests[1].at.secs(), requests[1].prompt, requests[1].output), (1.5, 30, 40));
        assert_eq!((requests[0].class, requests[1].class), (Class::P0, Class::P2));
        assert_ne!(requests[0].tenant, requests[1].tenant);

        let path = written("b.csv", "t_s,requests,input_tokens\n0,600,6000\n60,1200,24000\n");
        let steps = of("trace", &path);
        assert_eq!(steps.secs(), 120.0);
        let (first, second): (Vec<Arrival>, Vec<Arrival>) = steps.arrivals().partition(|at| at.at.secs() < 60.0);
        assert!((first.len() as f64 / 600.0 - 1.0).abs() < 0.15 && (second.len() as f64 / 1200.0 - 1.0).abs() < 0.1);
        assert!(first.iter().all(|arrival| arrival.prompt == 10) && second.iter().all(|arrival| arrival.prompt == 20));

        let path = written(
            "c.log",
            "h - - [10/Oct/2000:13:55:36 -0700] \"GET /a HTTP/1.0\" 200 1\n\
             h - - [10/Oct/2000:13:55:36 -0700] \"GET /b HTTP/1.0\" 200 1\n\
             h - - [10/Oct/2000:20:55:38 +0000] \"GET /a HTTP/1.0\" 200 1\n",
        );
        let logged: Vec<Arrival> = of("log", &path).arrivals().collect();
        assert_eq!(logged.iter().map(|arrival| arrival.at.secs()).collect::<Vec<_>>(), [0.0, 0.5, 2.0]);
        assert_eq!(logged[0].question, logged[2].question);

        let path = written("d.csv", "t_s,requests\n0,many\n60,1\n");
        let scenario = Scenario::parse(&format!(r#"{{"load": {{"trace": "{path}"}}}}"#)).unwrap();
        assert!(Load::of(&scenario).unwrap_err().to_string().contains("line 2: 'many'"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
