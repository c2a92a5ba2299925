//! Releasing parked work: each tick sends as much of it as the queues have drained, chosen by `penstock_policy::parking`.
//!
//! A release is a send and then a step; whoever dies in between sends once more at the next tick, and the claim that comes
//! second is refused. So nothing is lost here, and nothing has to be remembered but who was given how much.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use penstock_policy::classes::Class;
use penstock_policy::id::TenantId;
use penstock_policy::job::{Denied, Step};
use penstock_policy::parking::{self, FLEXIBLE, Given, Load, Parked};
use penstock_policy::rates::Rates;
use penstock_policy::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Service;
use crate::ports::{BoardKey, Pool, PortResult, QueueId, Stepped};

/// The most jobs of one class that a tick releases: some seconds' work on AWS, where each is three calls.
const MOST_RELEASED: usize = 1000;

/// The most tenants that a tick chooses among; the next tick goes on behind them.
const MOST_TENANTS: usize = 500;

/// Of each tenant so many jobs are looked at, at least.
const LOOKED_AT: usize = 16;

/// Releases that are under way at the same time.
const TOGETHER: usize = 16;

/// What the loop remembers of a pool's parked work, class by class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Park {
    #[serde(default)]
    v: u32,
    #[serde(default)]
    classes: BTreeMap<String, OfClass>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct OfClass {
    /// When it was counted, ms.
    at: i64,
    /// What is parked: as it was counted, less what was released since.
    jobs: u64,
    tokens: u64,
    /// Who was given how many tokens more than others.
    #[serde(default)]
    given: BTreeMap<String, u64>,
    /// The tenant behind which the next tick chooses.
    #[serde(default)]
    after: Option<String>,
}

impl Park {
    /// Tokens parked, class by class.
    pub(super) fn tokens(&self) -> [f64; 4] {
        Class::ALL.map(|class| self.classes.get(class.name()).map_or(0.0, |of| of.tokens as f64))
    }

    fn is_empty(&self) -> bool {
        self.classes.values().all(|of| of.jobs == 0 && of.given.is_empty())
    }
}

impl OfClass {
    fn given(&self) -> Given {
        let tenant = |(name, tokens): (&String, &u64)| TenantId::new(name).ok().map(|tenant| (tenant, *tokens));
        Given(self.given.iter().filter_map(tenant).collect())
    }

    fn remember(&mut self, given: &Given) {
        self.given = given.0.iter().map(|(tenant, tokens)| (tenant.to_string(), *tokens)).collect();
    }
}

fn key_of(pool: &Pool) -> BoardKey {
    BoardKey::new("parking", pool.id.as_str())
}

impl Service {
    /// What is parked for a pool, counted anew as often as its size allows.
    pub(super) async fn parked(&self, pool: &Pool, now: Timestamp) -> PortResult<(Park, Option<u64>)> {
        let found = self.ports.board.read(&key_of(pool)).await?;
        let version = found.as_ref().map(|posted| posted.version);
        let mut park: Park = found.and_then(|posted| serde_json::from_str(&posted.text).ok()).unwrap_or_default();
        park.v = 1;
        for class in FLEXIBLE {
            let of = park.classes.entry(class.name().to_owned()).or_default();
            if Timestamp::from_millis(of.at).after(parking::counted_for(of.jobs)) <= now {
                let queue = QueueId { pool: pool.id.clone(), class };
                let counted = self.ports.parking.backlog(&queue).await?;
                (of.at, of.jobs, of.tokens) = (now.as_millis(), counted.jobs, counted.tokens);
            }
        }
        Ok((park, version))
    }

    /// Releases what there is room for. `queued` are the tokens in each class's queue.
    pub(super) async fn release_parked(
        &self,
        pool: &Pool,
        rates: &Rates,
        mut queued: [f64; 4],
        (mut park, version): (Park, Option<u64>),
        now: Timestamp,
    ) -> PortResult<()> {
        let nothing = park.is_empty();
        for class in FLEXIBLE {
            let tokens = park.tokens();
            let at = class.index();
            let load = Load {
                class,
                tokens_per_second: rates.pace.tokens_per_second,
                ready_in: rates.pace.ready_in,
                queued: queued[at],
                better: queued[..at].iter().sum(),
                parked: tokens[..=at].iter().sum(),
            };
            let of = park.classes.entry(class.name().to_owned()).or_default();
            if of.jobs > 0 {
                queued[at] += self.release_some(&QueueId { pool: pool.id.clone(), class }, &load, of, now).await?;
            } else {
                *of = OfClass { at: of.at, ..OfClass::default() };
            }
        }
        if nothing {
            return Ok(());
        }
        let text = serde_json::to_string(&park).unwrap_or_default();
        // Whoever was quicker has released too: what was given is a little off, for this once.
        let _ = self.ports.board.post(&key_of(pool), &text, version, self.nonce()).await?;
        Ok(())
    }

    /// Releases jobs of one class; says how many tokens.
    async fn release_some(&self, queue: &QueueId, load: &Load, of: &mut OfClass, now: Timestamp) -> PortResult<f64> {
        let room = parking::room(load, now);
        if room.whole <= 0.0 {
            return Ok(0.0);
        }
        let parked = self.candidates(queue, of, now).await?;
        let mut given = of.given();
        let chosen = parking::choose(&room, &mut given, &parked, MOST_RELEASED, now);
        let (mut tokens, mut failure) = (0u64, None);
        for some in chosen.chunks(TOGETHER) {
            for result in join_all(some.iter().map(|job| self.release_one(queue, job, now))).await {
                match result {
                    Ok(released) => {
                        of.jobs = of.jobs.saturating_sub(1);
                        of.tokens = of.tokens.saturating_sub(released);
                        tokens = tokens.saturating_add(released);
                    }
                    Err(error) => failure = Some(error),
                }
            }
        }
        of.remember(&given);
        if let Some(error) = failure {
            tracing::warn!(%error, pool = %queue.pool, "some parked jobs are not released yet");
        }
        Ok(tokens as f64)
    }

    /// The parked jobs to choose among: of each tenant those due first.
    async fn candidates(&self, queue: &QueueId, of: &mut OfClass, now: Timestamp) -> PortResult<Vec<Parked>> {
        let after = of.after.take().and_then(|name| TenantId::new(&name).ok());
        let tenants = self.ports.parking.tenants(queue, after.as_ref(), MOST_TENANTS).await?;
        of.after = tenants.last().filter(|_| tenants.len() == MOST_TENANTS).map(ToString::to_string);
        let each = (MOST_RELEASED / tenants.len().max(1)).max(LOOKED_AT);
        // What is due now or before is not run any more: the reconciler ends it.
        let from = now.after(Duration::from_millis(1));
        let mut candidates = Vec::new();
        for some in tenants.chunks(TOGETHER) {
            let lists = some.iter().map(|tenant| self.ports.parking.parked(queue, tenant, from, each));
            candidates.extend(try_join_all(lists).await?.into_iter().flatten());
        }
        Ok(candidates)
    }

    /// Sends a parked job, and then notes that it is parked no more. Says how many tokens went.
    async fn release_one(&self, queue: &QueueId, job: &Parked, now: Timestamp) -> PortResult<u64> {
        let Some(message) = self.ports.parking.message(job.job).await? else { return Ok(0) };
        self.ports.queue.send(queue, &message, Duration::ZERO, now).await?;
        match self.ports.jobs.step(job.job, &Stepped::from(Step::Unpark), self.nonce(), now).await? {
            // Claimed from its message, or ended, meanwhile.
            Ok(_) | Err(Denied::Unparked | Denied::Ended(_)) => Ok(job.tokens),
            Err(
                denied @ (Denied::Absent
                | Denied::Present
                | Denied::Leased(_)
                | Denied::Fenced
                | Denied::Wanted
                | Denied::Unwanted
                | Denied::NotEnded
                | Denied::Settled),
            ) => {
                tracing::error!(job = %job.job, ?denied, "a parked job is not released as it should be");
                Ok(job.tokens)
            }
        }
    }
}
