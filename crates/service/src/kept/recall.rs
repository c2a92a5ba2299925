//! Kept answers: looking for one, giving it, and having it computed anew before it ends.
//!
//! The process's own memory first, then the store, which is asked once for the entry and the marker together. A look
//! never fails a request: if the store does not answer, what memory holds is given, however old it may be, and otherwise
//! the request goes the way of those that are not known.

use std::sync::Arc;
use std::time::Duration;

use penstock_policy::admission::class_of_tier;
use penstock_policy::cache::{self, Heat, Life, Use, Verdict, Wish};
use penstock_policy::classes::Class;
use penstock_policy::id::JobId;
use penstock_policy::marker::Marker;
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::admission::admit::{Admission, How};
use crate::admission::wanted::Wanted;
use crate::kept::answer::{Body, Kept};
use crate::kept::preload::{PREPARED_TTL, is_operator};
use crate::ports::{Entry, Keep, MarkerKey, PortResult, Replaced, Tenant};

/// In how many copies the answer to a hot request is kept: one item of DynamoDB serves a few thousand reads a second, and
/// each process reads it once in ten.
const HOT_COPIES: u8 = 4;

/// Where a kept answer was found, as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// In the memory of the process that answers.
    Memory,
    /// In the store.
    Store,
    /// Past its end.
    Stale,
}

impl Found {
    /// The word of `x-penstock-served-by`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "l1",
            Self::Store => "l2",
            Self::Stale => "stale",
        }
    }
}

/// A request as the caches know it.
pub(crate) struct Known<'r> {
    pub(crate) tenant: &'r Tenant,
    pub(crate) wanted: Wanted<'r>,
    /// The key of the tenant and the request's canonical form.
    pub(crate) key: MarkerKey,
    pub(crate) usage: Use,
    pub(crate) wish: Wish,
}

/// What a look brought.
#[derive(Default)]
pub(crate) struct Recalled {
    /// The answer to give, and whether it is to be computed anew beside it.
    pub(crate) given: Option<(Arc<Kept>, Found)>,
    pub(crate) refresh: bool,
    /// An answer for when nothing better can be had, or one that is to be replaced.
    pub(crate) older: Option<Arc<Kept>>,
    /// The marker, or that there is none, if the store was asked.
    pub(crate) marker: Option<Option<Marker>>,
}

impl Service {
    /// Looks for a kept answer.
    pub(crate) async fn recall(self: &Arc<Self>, known: &Known<'_>, now: Timestamp) -> Recalled {
        match known.usage {
            Use::None => return Recalled::default(),
            Use::Renew => {
                let older = self.memory.get(&known.key).map(|remembered| remembered.kept);
                return Recalled { older, ..Recalled::default() };
            }
            Use::Share => {}
        }
        self.memory.count(&known.key, now);
        self.tell_heat(now);
        let heat = self.heat(known);
        let remembered = self.memory.get(&known.key);
        if let Some(remembered) = remembered.as_ref().filter(|remembered| remembered.is_recent(now)) {
            let recalled = judged(Arc::clone(&remembered.kept), Found::Memory, heat, &known.wish, now);
            if recalled.given.is_some() {
                return recalled;
            }
        }
        match self.look(&known.key, heat).await {
            Ok((Some(kept), marker)) => {
                let kept = Arc::new(kept);
                self.memory.put(&known.key, Arc::clone(&kept), now);
                Recalled { marker: Some(marker), ..judged(kept, Found::Store, heat, &known.wish, now) }
            }
            Ok((None, marker)) => Recalled { marker: Some(marker), ..Recalled::default() },
            Err(error) => {
                tracing::warn!(%error, "the store of kept answers does not answer");
                let Some(remembered) = remembered else { return Recalled::default() };
                let recalled = judged(remembered.kept, Found::Memory, heat, &known.wish, now);
                // What is past its end is welcome now, but not what is older than the request takes.
                match recalled {
                    Recalled { given: None, older: Some(kept), .. } if known.wish.max_age.is_none() => {
                        Recalled { given: Some((kept, Found::Stale)), ..Recalled::default() }
                    }
                    recalled => Recalled { refresh: false, ..recalled },
                }
            }
        }
    }

    /// The kept answer to a request whose own pool cannot answer it, if there is one that is not too old for the request.
    pub(crate) fn in_need(&self, known: &Known<'_>, recalled: &Recalled, now: Timestamp) -> Option<Admission> {
        let kept = recalled.older.as_ref().filter(|kept| now < kept.life.forgotten())?;
        let (asked, young) = (known.wish.max_age, kept.life.age(now));
        let welcome = known.usage == Use::Share && asked.is_none_or(|most| young <= most);
        welcome.then(|| self.given(known, Arc::clone(kept), Found::Stale, now))
    }

    /// The admission of a request that is given a kept answer.
    pub(crate) fn given(&self, known: &Known<'_>, kept: Arc<Kept>, found: Found, now: Timestamp) -> Admission {
        let age = kept.life.age(now);
        Admission {
            job: kept.job,
            shown: JobId::new(now, self.ports.entropy.draw()),
            how: How::Kept { found, age },
            class: Class::granted(class_of_tier(known.wanted.service_tier()), known.tenant.ceiling),
            levels: None,
            created: now,
            kept: Some(kept),
            hold: None,
            promise: None,
        }
    }

    /// What a run of this request is to keep of its answer.
    pub(crate) fn keep_of(&self, known: &Known<'_>, older: Option<&Kept>) -> Option<Keep> {
        if known.usage == Use::None {
            return None;
        }
        let (heat, hits) = (self.heat(known), self.memory.heat(&known.key).1);
        let prepared = is_operator(&known.tenant.id);
        Some(Keep {
            digest: known.key.digest.clone(),
            copies: match heat {
                Heat::Cool => 1,
                Heat::Hot => HOT_COPIES,
            },
            at_least: if prepared { PREPARED_TTL } else { Duration::ZERO },
            replaces: older.map(|kept| Replaced { answer: kept.digest(), ttl: kept.ttl, hits }),
        })
    }

    /// Prepared answers are cared for like hot ones, so that they are never without.
    fn heat(&self, known: &Known<'_>) -> Heat {
        if is_operator(&known.tenant.id) { Heat::Hot } else { self.memory.heat(&known.key).0 }
    }

    async fn look(&self, key: &MarkerKey, heat: Heat) -> PortResult<(Option<Kept>, Option<Marker>)> {
        let copy = match heat {
            Heat::Cool => 0,
            // Spread over the copies by chance; a copy that is missing is not missed.
            Heat::Hot => u8::try_from(self.ports.entropy.draw() % u128::from(HOT_COPIES)).unwrap_or(0),
        };
        let mut looked = self.ports.answers.look(key, copy).await?;
        if looked.entry.is_none() && copy != 0 {
            looked = self.ports.answers.look(key, 0).await?;
        }
        let kept = match looked.entry {
            Some(entry) => self.read(entry).await?,
            None => None,
        };
        Ok((kept, looked.marker))
    }

    /// Reads an entry. One that cannot be read is none: the answer is computed anew and replaces it.
    async fn read(&self, entry: Entry) -> PortResult<Option<Kept>> {
        Ok(match Body::of(entry.body) {
            Some(Body::Here(bytes)) => Kept::read(&bytes),
            Some(Body::Blob(key)) => self.ports.blobs.get(&key).await?.and_then(|bytes| Kept::read(&bytes)),
            None => None,
        })
    }
}

fn judged(kept: Arc<Kept>, found: Found, heat: Heat, wish: &Wish, now: Timestamp) -> Recalled {
    let given = |kept, found| Recalled { given: Some((kept, found)), ..Recalled::default() };
    match cache::verdict(&kept.life, heat, wish, now) {
        Verdict::Fresh => given(kept, found),
        Verdict::FreshRefresh => Recalled { refresh: true, ..given(kept, found) },
        Verdict::WelcomeStale => given(kept, Found::Stale),
        Verdict::InNeed => Recalled { older: Some(kept), ..Recalled::default() },
        Verdict::Useless => Recalled::default(),
    }
}

/// The life of an answer that has just been made, by what it replaces.
pub(crate) fn life_of(keep: &Keep, said: u64, for_good: bool, draw: f64, now: Timestamp) -> (Life, Duration) {
    if for_good {
        return (Life::of(cache::NEGATIVE, draw, now), cache::BASE);
    }
    let ttl = match keep.replaces {
        None => cache::ttl(cache::Change::First, 0, cache::BASE),
        Some(Replaced { answer, ttl, hits }) if answer == said => cache::ttl(cache::Change::Same, hits, ttl),
        Some(Replaced { ttl, hits, .. }) => cache::ttl(cache::Change::Changed, hits, ttl),
    };
    let ttl = ttl.max(keep.at_least);
    (Life::of(ttl, draw, now), ttl)
}
