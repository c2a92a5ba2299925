//! The agenda: what is to be done at a moment to come, though nobody asks for it then: files that end, messages to be
//! delivered, batches to be carried on.
//!
//! Errands stand on one shelf under names that begin with the moment, so that what is due is its beginning. An errand is
//! done, then put down again for a later moment if there is more to it, then taken off: whoever dies in between leaves
//! it there twice at worst, and every errand may be done twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use penstock_policy::id::TenantId;
use penstock_policy::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Service;
use crate::ports::{Order, PortError, PortResult, ShelfId, Shelved};

/// How many errands are looked at, and done, together.
const TOGETHER: usize = 32;

/// When an errand that failed is tried again: long enough for a store to recover.
const AGAIN: Duration = Duration::from_secs(15);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Errand {
    v: u32,
    pub(crate) kind: Kind,
    /// Whose it is.
    tenant: String,
    /// What it is about: an id.
    pub(crate) subject: String,
}

/// Kinds of errands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Look whether a file has ended, or never came about.
    File,
    /// Look whether an upload was left unfinished.
    Upload,
    /// Look whether a part of an upload came about.
    Part,
    /// Try to deliver a message.
    Deliver,
    /// Look whether a background response that waits for another request's job has ended.
    Response,
    /// Carry a batch on.
    Batch,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Upload => "upload",
            Self::Part => "part",
            Self::Deliver => "deliver",
            Self::Response => "response",
            Self::Batch => "batch",
        }
    }

    /// Who does it.
    const fn lane(self) -> Lane {
        match self {
            Self::File | Self::Upload | Self::Part | Self::Deliver | Self::Response => Lane::Short,
            Self::Batch => Lane::Long,
        }
    }
}

/// Errands that are done beside one another, so that none waits behind one that takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// What takes a moment: a message, a file that has ended.
    Short,
    /// What takes many: the lines of a batch.
    Long,
}

impl Lane {
    fn shelf(self) -> ShelfId {
        ShelfId::of_all(match self {
            Self::Short => "agenda",
            Self::Long => "batching",
        })
    }
}

const VERSION: u32 = 1;

impl Errand {
    pub(crate) fn new(kind: Kind, tenant: &TenantId, subject: &str) -> Self {
        Self { v: VERSION, kind, tenant: tenant.to_string(), subject: subject.to_owned() }
    }

    fn read(found: &Shelved) -> PortResult<(Self, TenantId)> {
        let corrupt = |cause: String| PortError::Corrupt { what: "errand", cause };
        let errand: Self = serde_json::from_str(&found.document.text).map_err(|error| corrupt(error.to_string()))?;
        if errand.v != VERSION {
            return Err(corrupt("a newer program wrote it".to_owned()));
        }
        let tenant = TenantId::new(&errand.tenant).map_err(|error| corrupt(error.to_string()))?;
        Ok((errand, tenant))
    }

    fn name(&self, due: Timestamp) -> String {
        format!("{:013}-{}-{}", due.as_millis().max(0), self.kind.name(), self.subject)
    }
}

/// What becomes of an errand that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing is left to do.
    Nothing,
    /// It is to be done again then.
    Again(Timestamp),
}

/// What doing errands came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Errands {
    /// How many were done.
    pub done: usize,
    /// How many failed, and stay to be done.
    pub failed: usize,
    /// When the next one is due.
    pub next: Option<Timestamp>,
}

fn due(name: &str) -> Timestamp {
    Timestamp::from_millis(name.split('-').next().and_then(|moment| moment.parse().ok()).unwrap_or(0))
}

impl Service {
    /// Puts an errand down for `due`. Putting it down twice for the same moment is putting it down once.
    pub(crate) async fn put_down(&self, errand: &Errand, due: Timestamp) -> PortResult<()> {
        // A document of that name is this very errand.
        self.place(&errand.kind.lane().shelf(), &errand.name(due), errand, None, None).await?;
        Ok(())
    }

    /// Does what is due of a lane, until nothing is or it is `until`.
    ///
    /// # Errors
    /// If the store does not answer. An errand that fails alone holds up no other.
    pub async fn do_errands(self: &Arc<Self>, lane: Lane, until: Timestamp) -> PortResult<Errands> {
        let (mut all, shelf) = (Errands::default(), lane.shelf());
        loop {
            let now = self.ports.clock.now();
            let found = self.ports.shelf.walk(&shelf, Order::Rising, None, TOGETHER).await?;
            let (due, later): (Vec<_>, Vec<_>) = found.into_iter().partition(|found| due(&found.name) <= now);
            all.next = later.first().map(|first| self::due(&first.name));
            if due.is_empty() || now >= until {
                return Ok(all);
            }
            let mut seen = BTreeSet::new();
            let is_first = |found: &Shelved| seen.insert(found.document.text.clone());
            let (once, twice): (Vec<_>, Vec<_>) = due.into_iter().partition(is_first);
            for found in twice {
                self.ports.shelf.take_away(&shelf, &found.name).await?;
            }
            let work: Vec<BoxFuture<'_, PortResult<()>>> =
                once.into_iter().map(|found| self.do_errand(&shelf, found, now, until).boxed()).collect();
            let results = join_all(work).await;
            for result in results {
                match result {
                    Ok(()) => all.done += 1,
                    Err(error) => {
                        all.failed += 1;
                        tracing::warn!(%error, "an errand failed and stays to be done");
                    }
                }
            }
        }
    }

    async fn do_errand(
        self: &Arc<Self>,
        shelf: &ShelfId,
        found: Shelved,
        now: Timestamp,
        until: Timestamp,
    ) -> PortResult<()> {
        let (errand, tenant) = match Errand::read(&found) {
            Ok(read) => read,
            Err(error) => {
                // Nobody will ever understand it; it is not to be looked at every second.
                self.ports.shelf.take_away(shelf, &found.name).await?;
                return Err(error);
            }
        };
        let done = match errand.kind {
            Kind::File => self.tidy_file(&tenant, &errand.subject, now).await,
            Kind::Upload => self.tidy_upload(&tenant, &errand.subject, now).await,
            Kind::Part => self.tidy_part(&tenant, &errand.subject).await,
            Kind::Deliver => self.deliver(&tenant, &errand.subject, now).await,
            Kind::Response => self.look_at_response(&tenant, &errand.subject, now).await,
            Kind::Batch => self.carry_on(&tenant, &errand.subject, until).await,
        };
        let (then, failure) = match done {
            Ok(then) => (then, None),
            Err(error) => (Then::Again(now.after(AGAIN)), Some(error)),
        };
        if let Then::Again(at) = then {
            self.put_down(&errand, at).await?;
        }
        // Put down again for its own moment it is the same errand, and stays.
        if then != Then::Again(due(&found.name)) {
            self.ports.shelf.take_away(shelf, &found.name).await?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Does a lane's errands for ever, looking every `every`.
    pub async fn errand_loop(self: Arc<Self>, lane: Lane, every: Duration) {
        let clock = Arc::clone(&self.ports.clock);
        loop {
            let now = clock.now();
            if let Err(error) = self.do_errands(lane, now.after(every)).await {
                tracing::warn!(%error, "errands were not done");
            }
            clock.sleep_until(now.after(every)).await;
        }
    }
}
