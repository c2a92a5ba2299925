//! What happened to a job, written down as it happens, for whoever asks later why it went as it did.
//!
//! Nothing here costs a write of its own: what admission saw travels in the job's spec, and each event is appended by the
//! very write that makes it happen. The list is bounded ([`MOST_EVENTS`]); beyond it a job that is claimed again and
//! again keeps its first events, its last claim (a field of its record) and its end.
//!
//! An event is stored as one short text that begins with a letter for its form. A form never changes: another one gets
//! another letter, which older readers leave out, so that no version is needed.

use std::time::Duration;

use penstock_policy::cost::UsdMicros;
use penstock_policy::gcra;
use penstock_policy::id::{Epoch, WorkerId};
use penstock_policy::promise::Promise;
use penstock_policy::time::Timestamp;
use penstock_policy::trace::TraceContext;

use crate::admission::limits::Hold;
use crate::ports::{Levels, Take};

/// The most events of one job.
pub const MOST_EVENTS: usize = 24;

/// How much of a model's digest an event keeps: enough to tell two models apart.
const DIGEST_CHARS: usize = 12;

/// What admission saw and decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// The `service_tier` asked for, if any.
    pub tier: Option<String>,
    /// Bytes of the prompt, which the estimate is made of.
    pub prompt_bytes: u64,
    /// What each bucket gave, part by part, in the order of the job's reservations.
    pub drawn: Vec<Vec<Drawn>>,
    /// What was promised.
    pub promise: Option<Promise>,
    /// What the job holds of its tenant's until it is settled.
    pub holds: Vec<Hold>,
    /// The span of the request that it was accepted for.
    pub trace: Option<TraceContext>,
}

/// What one part of a bucket gave to a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawn {
    /// How much was taken.
    pub took: u64,
    /// How much was left after it; `left + took` was there before.
    pub left: u64,
    /// How much it holds when full.
    pub of: u64,
    /// How long until it is full again: for a virtual queue, the wait that was promised.
    pub refill: Duration,
}

/// What a granted take drew from a bucket whose state is now `levels`.
#[must_use]
pub fn drawn(take: &Take, levels: &Levels, now: Timestamp) -> Vec<Drawn> {
    let of = |(index, part): (usize, &crate::ports::TakePart)| {
        let bucket = levels.part(index);
        let left = gcra::available(bucket, &part.limit, now);
        Drawn { took: part.units, left, of: part.limit.burst(), refill: gcra::backlog(bucket, now) }
    };
    take.parts.iter().enumerate().map(of).collect()
}

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker took it. The n-th of these began epoch n.
    Claimed {
        /// When.
        at: Timestamp,
        /// Who.
        worker: WorkerId,
        /// The beginning of the digest of the model it runs.
        digest: String,
    },
    /// A worker gave it back.
    Released {
        /// When.
        at: Timestamp,
        /// The claim that ended.
        epoch: Epoch,
        /// Why.
        why: WhyReleased,
    },
    /// The consequences of its end were drawn.
    Settled {
        /// When.
        at: Timestamp,
        /// What it was charged.
        cost: UsdMicros,
    },
}

/// Why a worker gave a job back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyReleased {
    /// The worker stops: a drain, a notice, a shutdown.
    Stopping,
    /// It made way for more urgent work.
    Preempted,
    /// The engine failed on it.
    EngineFault,
    /// The engine ended without a word about it.
    EngineSilent,
    /// The engine hung or died.
    EngineDead,
}

impl WhyReleased {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::Stopping, Self::Preempted, Self::EngineFault, Self::EngineSilent, Self::EngineDead];

    /// Whether nothing speaks against the job: the claim does not count as a failed attempt.
    #[must_use]
    pub const fn is_blameless(self) -> bool {
        match self {
            Self::Stopping | Self::Preempted => true,
            Self::EngineFault | Self::EngineSilent | Self::EngineDead => false,
        }
    }

    /// The word that is stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopping => "stopping",
            Self::Preempted => "preempted",
            Self::EngineFault => "engine-fault",
            Self::EngineSilent => "engine-silent",
            Self::EngineDead => "engine-dead",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|why| why.name() == name)
    }
}

impl Event {
    /// The event of a claim.
    #[must_use]
    pub fn claimed(at: Timestamp, worker: &WorkerId, digest: &str) -> Self {
        let digest = digest.chars().filter(char::is_ascii_alphanumeric).take(DIGEST_CHARS).collect();
        Self::Claimed { at, worker: worker.clone(), digest }
    }

    /// When it happened.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Claimed { at, .. } | Self::Released { at, .. } | Self::Settled { at, .. } => *at,
        }
    }

    /// As stored text.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Claimed { at, worker, digest } => format!("c {} {worker} {digest}", at.as_millis()),
            Self::Released { at, epoch, why } => format!("r {} {} {}", at.as_millis(), epoch.0, why.name()),
            Self::Settled { at, cost } => format!("s {} {}", at.as_millis(), cost.0),
        }
    }

    /// Back again; `None` if it is of a form this version does not know.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let form = words.next()?;
        let at = Timestamp::from_millis(words.next()?.parse().ok()?);
        match form {
            "c" => {
                let worker = words.next()?.parse().ok()?;
                Some(Self::Claimed { at, worker, digest: words.next()?.to_owned() })
            }
            "r" => {
                let epoch = Epoch(words.next()?.parse().ok()?);
                Some(Self::Released { at, epoch, why: WhyReleased::from_name(words.next()?)? })
            }
            "s" => Some(Self::Settled { at, cost: UsdMicros(words.next()?.parse().ok()?) }),
            _ => None,
        }
    }
}

/// Appends an event, unless the list is full.
pub fn append(story: &mut Vec<Event>, event: Option<Event>) {
    if let Some(event) = event.filter(|_| story.len() < MOST_EVENTS) {
        story.push(event);
    }
}

/// A list of events as stored text: a JSON array.
#[must_use]
pub fn story_text(story: &[Event]) -> String {
    let texts: Vec<String> = story.iter().map(Event::text).collect();
    serde_json::to_string(&texts).unwrap_or_default()
}

/// Back again, without events of a form this version does not know; `None` if the text is damaged.
#[must_use]
pub fn story_from(text: &str) -> Option<Vec<Event>> {
    let texts: Vec<String> = serde_json::from_str(text).ok()?;
    Some(texts.iter().filter_map(|text| Event::from_text(text)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Vec<Event> {
        let at = Timestamp::from_millis;
        let mut events = vec![Event::claimed(at(5), &WorkerId::new("i-1").unwrap(), "sha256:0123456789abcdef")];
        events.extend(WhyReleased::ALL.map(|why| Event::Released { at: at(6), epoch: Epoch(1), why }));
        events.push(Event::Settled { at: at(9), cost: UsdMicros(226) });
        events
    }

    #[test]
    fn a_story_reads_back_as_it_was_written() {
        assert_eq!(story_from(&story_text(&events())), Some(events()));
    }

    #[test]
    fn an_event_of_a_newer_form_is_left_out_and_the_rest_is_read() {
        let text = story_text(&events()).replacen("\"s 9", "\"z 9", 1);
        assert_eq!(story_from(&text).unwrap().len(), events().len() - 1);
    }

    #[test]
    fn a_list_that_is_full_stays_as_it_is() {
        let mut story = Vec::new();
        for n in 0..100u32 {
            let event = Event::Released {
                at: Timestamp::from_millis(i64::from(n)),
                epoch: Epoch(n),
                why: WhyReleased::Preempted,
            };
            append(&mut story, Some(event));
        }
        assert_eq!((story.len(), story[0].at()), (MOST_EVENTS, Timestamp::EPOCH));
    }
}
