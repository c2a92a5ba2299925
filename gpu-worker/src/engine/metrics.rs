//! What an engine does, in numbers for Prometheus.
//!
//! The memory it runs in is looked up when somebody asks, since it changes without a step.
//!
//! Steps are recorded by the engine's own thread with a few atomic additions each, which costs nothing beside a call of
//! the model. All names begin with `penstock_engine_`; every series carries the `model` and the `worker`.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::device::Device;
use super::memory;
use super::scheduler::Progress;

/// The media type of the text.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(String, String)>;
type Seconds = Family<Labels, Histogram, fn() -> Histogram>;

/// The numbers of all engines of a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    steps: Seconds,
    rows: Family<Labels, Histogram, fn() -> Histogram>,
    dwell: Seconds,
    read: Family<Labels, Counter>,
    reused: Family<Labels, Counter>,
    decoded: Family<Labels, Counter>,
    set_aside: Family<Labels, Counter>,
    preempted: Family<Labels, Counter>,
    slots: Family<Labels, Gauge>,
    queued: Family<Labels, Gauge>,
    tokens: Family<Labels, Gauge>,
    capacity: Family<Labels, Gauge>,
    load: Family<Labels, Gauge<f64, AtomicU64>>,
    memory_used: Family<Labels, Gauge>,
    memory_limit: Family<Labels, Gauge>,
    devices: Devices,
}

/// What each engine runs on.
type Devices = Arc<Mutex<BTreeMap<Labels, Device>>>;

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// No engines yet.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("penstock_engine");
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_25, 2.0, 18));
        let rows: fn() -> Histogram = || Histogram::new([1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0]);
        let steps = in_seconds(&mut registry, "step", "Time of a step, by its kind", seconds);
        let dwell = in_seconds(&mut registry, "dwell", "Time from arrival to the first computed token", seconds);
        let rows_family = Family::new_with_constructor(rows);
        registry.register("rows", "Sequences that a decoding step advanced", Family::clone(&rows_family));
        Self {
            steps,
            dwell,
            rows: rows_family,
            read: register(&mut registry, "prompt_tokens_computed", "Prompt tokens that were computed"),
            reused: register(&mut registry, "prompt_tokens_reused", "Prompt tokens that were in the cache already"),
            decoded: register(&mut registry, "tokens_decoded", "Tokens of answers"),
            set_aside: register(
                &mut registry,
                "set_aside",
                "Sequences that gave up their memory and were computed again",
            ),
            preempted: register(&mut registry, "preemptions", "Sequences that made way for more urgent ones"),
            slots: register(&mut registry, "slots_busy", "Slots that hold a sequence"),
            queued: register(&mut registry, "sequences_queued", "Sequences that wait for a slot"),
            tokens: register(&mut registry, "cache_tokens", "Tokens in the cache, those kept for reuse included"),
            capacity: register(&mut registry, "cache_capacity_tokens", "Tokens that the cache can hold"),
            load: register(&mut registry, "load_seconds", "Time from the start of loading to readiness"),
            memory_used: in_bytes(&mut registry, "memory_used", "Memory in use where the engine runs"),
            memory_limit: in_bytes(&mut registry, "memory_limit", "Memory that there is where the engine runs"),
            devices: Devices::default(),
            registry: Arc::new(registry),
        }
    }

    /// The part of one engine.
    #[must_use]
    pub fn recorder(&self, model: &str, worker: &str) -> Recorder {
        let labels: Labels = vec![("model".into(), model.into()), ("worker".into(), worker.into())];
        let of_kind = |kind: &str| {
            let labels = [labels.clone(), vec![("kind".into(), kind.into())]].concat();
            self.steps.get_or_create(&labels).clone()
        };
        Recorder {
            decode_seconds: of_kind("decode"),
            read_seconds: of_kind("read"),
            mixed_seconds: of_kind("mixed"),
            rows: self.rows.get_or_create(&labels).clone(),
            dwell: self.dwell.get_or_create(&labels).clone(),
            read: self.read.get_or_create(&labels).clone(),
            reused: self.reused.get_or_create(&labels).clone(),
            decoded: self.decoded.get_or_create(&labels).clone(),
            set_aside: self.set_aside.get_or_create(&labels).clone(),
            preempted: self.preempted.get_or_create(&labels).clone(),
            slots: self.slots.get_or_create(&labels).clone(),
            queued: self.queued.get_or_create(&labels).clone(),
            tokens: self.tokens.get_or_create(&labels).clone(),
            capacity: self.capacity.get_or_create(&labels).clone(),
            load: self.load.get_or_create(&labels).clone(),
            devices: Arc::clone(&self.devices),
            labels,
        }
    }

    /// All numbers as text, in the OpenMetrics format that Prometheus reads.
    #[must_use]
    pub fn text(&self) -> String {
        self.look_at_memory();
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// All numbers behind a text of others in the same format. Each text says where it ends; only the last may.
    #[must_use]
    pub fn text_behind(&self, others: &str) -> String {
        format!("{}{}", others.trim_end_matches("# EOF\n"), self.text())
    }

    fn look_at_memory(&self) {
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (labels, device) in devices {
            if let Some(memory::Usage { used, limit }) = memory::usage(&device) {
                self.memory_used.get_or_create(&labels).set(bytes(used));
                self.memory_limit.get_or_create(&labels).set(bytes(limit));
            }
        }
    }
}

fn in_bytes(registry: &mut Registry, name: &str, help: &str) -> Family<Labels, Gauge> {
    let family = Family::<Labels, Gauge>::default();
    registry.register_with_unit(name, help, Unit::Bytes, family.clone());
    family
}

fn in_seconds(registry: &mut Registry, name: &str, help: &str, make: fn() -> Histogram) -> Seconds {
    let family = Family::new_with_constructor(make);
    registry.register_with_unit(name, help, Unit::Seconds, Family::clone(&family));
    family
}

fn register<M>(registry: &mut Registry, name: &str, help: &str) -> Family<Labels, M>
where
    Family<Labels, M>: prometheus_client::registry::Metric + Default,
    fn() -> M: MetricConstructor<M>,
{
    let family = Family::<Labels, M>::default();
    registry.register(name, help, family.clone());
    family
}

/// How full an engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Slots that hold a sequence.
    pub busy: usize,
    /// Sequences that wait for one.
    pub queued: usize,
    /// Tokens in the cache.
    pub tokens: usize,
}

/// Records what one engine does. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    decode_seconds: Histogram,
    read_seconds: Histogram,
    mixed_seconds: Histogram,
    rows: Histogram,
    dwell: Histogram,
    read: Counter,
    reused: Counter,
    decoded: Counter,
    preempted: Counter,
    set_aside: Counter,
    slots: Gauge,
    queued: Gauge,
    tokens: Gauge,
    capacity: Gauge,
    load: Gauge<f64, AtomicU64>,
    devices: Devices,
    labels: Labels,
}

impl Recorder {
    /// The engine runs there: from now on its memory is told.
    pub fn runs_on(&self, device: &Device) {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.insert(self.labels.clone(), device.clone());
    }

    /// A step took so long.
    pub fn step(&self, progress: Progress, took: Duration) {
        match progress {
            Progress::Decoded { rows } => {
                self.decode_seconds.observe(took.as_secs_f64());
                self.rows.observe(f64::from(rows));
                self.decoded.inc_by(rows.into());
            }
            Progress::Read { tokens, reused } => {
                self.read_seconds.observe(took.as_secs_f64());
                self.read.inc_by(tokens.into());
                self.reused.inc_by(reused.into());
            }
            Progress::Mixed { rows, tokens, reused } => {
                self.mixed_seconds.observe(took.as_secs_f64());
                self.rows.observe(f64::from(rows));
                self.decoded.inc_by(rows.into());
                self.read.inc_by(tokens.into());
                self.reused.inc_by(reused.into());
            }
            Progress::Preempted => drop(self.preempted.inc()),
            Progress::SetAside => drop(self.set_aside.inc()),
            Progress::Idle => {}
        }
    }

    /// A sequence waited so long until something was computed for it.
    pub fn dwell(&self, waited: Duration) {
        self.dwell.observe(waited.as_secs_f64());
    }

    /// How full the engine is now.
    pub fn occupancy(&self, now: &Occupancy) {
        self.slots.set(number(now.busy));
        self.queued.set(number(now.queued));
        self.tokens.set(number(now.tokens));
    }

    /// The engine is ready: how long that took, and how much it holds.
    pub fn loaded(&self, took: Duration, capacity_tokens: usize) {
        self.load.set(took.as_secs_f64());
        self.capacity.set(number(capacity_tokens));
    }
}

fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_printed_for_its_engine() {
        let metrics = Metrics::new();
        let one = metrics.recorder("m", "w-1");
        let other = metrics.recorder("m", "w-2");
        one.step(Progress::Decoded { rows: 5 }, Duration::from_millis(3));
        one.step(Progress::Read { tokens: 40, reused: 160 }, Duration::from_millis(9));
        other.step(Progress::Mixed { rows: 3, tokens: 20, reused: 7 }, Duration::from_millis(5));
        other.step(Progress::SetAside, Duration::ZERO);
        other.step(Progress::Preempted, Duration::ZERO);
        other.dwell(Duration::from_millis(20));
        one.occupancy(&Occupancy { busy: 3, queued: 1, tokens: 900 });
        one.loaded(Duration::from_millis(1500), 4096);
        let text = metrics.text();
        for line in [
            "penstock_engine_tokens_decoded_total{model=\"m\",worker=\"w-1\"} 5",
            "penstock_engine_prompt_tokens_computed_total{model=\"m\",worker=\"w-1\"} 40",
            "penstock_engine_prompt_tokens_reused_total{model=\"m\",worker=\"w-1\"} 160",
            "penstock_engine_tokens_decoded_total{model=\"m\",worker=\"w-2\"} 3",
            "penstock_engine_prompt_tokens_reused_total{model=\"m\",worker=\"w-2\"} 7",
            "penstock_engine_step_seconds_count{model=\"m\",worker=\"w-2\",kind=\"mixed\"} 1",
            "penstock_engine_set_aside_total{model=\"m\",worker=\"w-2\"} 1",
            "penstock_engine_preemptions_total{model=\"m\",worker=\"w-2\"} 1",
            "penstock_engine_step_seconds_count{model=\"m\",worker=\"w-1\",kind=\"decode\"} 1",
            "penstock_engine_dwell_seconds_count{model=\"m\",worker=\"w-2\"} 1",
            "penstock_engine_slots_busy{model=\"m\",worker=\"w-1\"} 3",
            "penstock_engine_load_seconds{model=\"m\",worker=\"w-1\"} 1.5",
        ] {
            assert!(text.lines().any(|printed| printed == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("# TYPE penstock_engine_tokens_decoded ").count(), 1);
        let both = metrics.text_behind("# TYPE x counter\nx_total 1\n# EOF\n");
        assert!(both.starts_with("# TYPE x counter\nx_total 1\n# HELP") && both.ends_with("# EOF\n"), "{both}");
        assert_eq!(both.matches("# EOF").count(), 1);
    }

    #[test]
    fn memory_is_told_of_engines_that_run_somewhere_and_is_less_than_there_is() {
        let metrics = Metrics::new();
        let recorder = metrics.recorder("m", "w");
        assert!(!metrics.text().contains("memory_used_bytes{"));
        recorder.runs_on(&Device::Cpu);
        let text = metrics.text();
        let told = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.rsplit(' ').next()?.parse::<u64>().ok()
        };
        if let Some(memory::Usage { limit, .. }) = memory::usage(&Device::Cpu) {
            let used = told("penstock_engine_memory_used_bytes{").unwrap();
            assert!((1..=limit).contains(&used), "{text}");
            assert_eq!(told("penstock_engine_memory_limit_bytes{"), Some(limit));
        }
    }
}
