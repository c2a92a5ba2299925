//! A pool's fleet, tick by tick: look, forecast, plan, carry out.
//!
//! The decision is one pure step (`penstock_policy::fleet::autoscaler`); here is what it needs of the world. What is kept
//! between ticks lies on the board: the autoscaler in a document of some 6 KB that every tick posts, the forecaster in one
//! of some 80 KB that changes only when a step of five minutes ends. So a loop that runs elsewhere next time goes on where
//! this one stopped, and if two should tick at once the slower one's posting is refused and both have given orders that
//! name what is to be there, not what is to be added.
//!
//! Under load it looks every ten seconds, else once a minute, and at once when something waits and nobody is there.
//!
//! Edge cases: what was kept cannot be read: the fleet is planned as of a new pool, which launches for what is seen and
//! drains nobody for a quarter of an hour; an order that is not carried out is given again with the next look, because the
//! plan is made from what is there, not from what was asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use penstock_policy::fleet::autoscaler::{Autoscaler, Sight, Tick};
use penstock_policy::fleet::demand::{Backlog, waiting};
use penstock_policy::fleet::offering::{Instance, Stage};
use penstock_policy::forecast::{Forecaster, Load, LocalTime, Step};
use penstock_policy::id::PoolId;
use penstock_policy::time::Timestamp;
use penstock_wire::fleet::{FleetLog, FleetTick};
use serde::{Deserialize, Serialize};

use crate::Service;
use crate::admission::offered::{KEPT, Offered, SLOT, begin_of, slot_of};
use crate::error::ApiError;
use crate::ports::{BoardKey, FleetExecutor, Pool, PortResult};
use crate::stored::flight::{FLIGHTS, recorded};

/// How often is looked while anything waits.
const UNDER_LOAD: Duration = Duration::from_secs(10);

/// What runs fleets from this process.
pub(crate) struct Fleet {
    executor: Arc<dyn FleetExecutor>,
    /// The users' local time, by which the forecast's days go.
    local: LocalTime,
    /// Forecasters as this process has posted them last, each with the version of the state that belongs to it.
    forecasters: Mutex<BTreeMap<PoolId, (u64, Forecaster)>>,
}

impl Fleet {
    pub(crate) fn new(executor: Arc<dyn FleetExecutor>, local: LocalTime) -> Self {
        Self { executor, local, forecasters: Mutex::default() }
    }

    fn forecasters(&self) -> std::sync::MutexGuard<'_, BTreeMap<PoolId, (u64, Forecaster)>> {
        self.forecasters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is kept of a pool's fleet between ticks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    v: u32,
    /// The autoscaler, `Autoscaler::encode`.
    state: String,
    /// When the first tick was: nothing before it is known.
    begun: i64,
    /// The last tick, and when to look again at the latest.
    at: i64,
    look_again: i64,
    /// Ticks so far.
    pub(crate) ticks: u64,
}

/// What waits in a pool, for whom the fleet is planned.
pub(crate) struct Waits {
    /// Messages that wait or run, by class.
    pub(crate) depths: [u64; 4],
    /// Estimated tokens of a job, by class.
    pub(crate) job_tokens: [f64; 4],
    /// Estimated tokens that wait beside the queues, by class.
    pub(crate) parked: [f64; 4],
}

impl Waits {
    fn anybody(&self) -> bool {
        self.depths.iter().any(|depth| *depth > 0) || self.parked.iter().any(|tokens| *tokens > 0.0)
    }
}

/// What a tick leaves behind.
struct After {
    autoscaler: Autoscaler,
    forecaster: Forecaster,
    /// The forecaster has changed.
    learned: bool,
    begun: Timestamp,
    /// Ticks before this one.
    ticks: u64,
    /// The version of what was kept before.
    version: Option<u64>,
    tick: Tick,
}

/// Where what is kept lies.
pub(crate) fn state_key(pool: &PoolId) -> BoardKey {
    BoardKey::new("fleet", pool.as_str())
}

fn forecast_key(pool: &PoolId) -> BoardKey {
    BoardKey::new("forecast", pool.as_str())
}

impl Service {
    /// Ticks a pool's fleet, if this process runs fleets and it is time to look.
    pub(crate) async fn tick_fleet(&self, pool: &Pool, waits: &Waits, now: Timestamp) -> PortResult<()> {
        let Some(fleet) = &self.fleet else { return Ok(()) };
        let posted = self.ports.board.read(&state_key(&pool.id)).await?;
        let version = posted.as_ref().map(|posted| posted.version);
        let kept: Option<Kept> = posted.and_then(|posted| serde_json::from_str(&posted.text).ok());
        let Some(sight) = fleet.executor.observe(&pool.id).await? else { return Ok(()) };
        if !is_due(kept.as_ref(), &sight.instances, waits, now) {
            return Ok(());
        }
        let mut forecaster = self.forecaster(fleet, &pool.id, version).await?;
        let mut autoscaler = kept.as_ref().and_then(|kept| scaler(&pool.id, kept)).unwrap_or_default();
        let begun = kept.as_ref().map_or(now, |kept| Timestamp::from_millis(kept.begun));
        let last = kept.as_ref().map_or(now, |kept| Timestamp::from_millis(kept.at));
        let ended = self.ended(&pool.id, &forecaster, begun, last, now).await?;
        let learned = !ended.is_empty();
        let running = sight.instances.iter().map(|instance| u64::from(instance.running)).sum();
        let jobs = waiting(waits.depths, running);
        let sight_of = Sight {
            ended,
            tokens_per_second: self.offered_a_second(&pool.id, begun, now).await?,
            backlog: std::array::from_fn(|class| Backlog {
                tokens: jobs[class] as f64 * waits.job_tokens[class] + waits.parked[class],
                due: None,
            }),
            instances: sight.instances,
            offerings: sight.offerings,
        };
        let tick = autoscaler.tick(&mut forecaster, sight_of, &sight.limits, &fleet.local, now);
        for step in &tick.plan.steps {
            tracing::info!(pool = %pool.id, "fleet: {step}");
        }
        if let Some(short) = tick.plan.short {
            tracing::warn!(pool = %pool.id, ?short, "fleet: not all that is needed can be had");
        }
        fleet.executor.apply(&pool.id, &tick.orders).await?;
        let ticks = kept.map_or(0, |kept| kept.ticks);
        let after = After { autoscaler, forecaster, learned, begun, ticks, version, tick };
        self.keep_fleet(fleet, &pool.id, after).await
    }

    /// The forecaster: this process's own if nobody else has ticked since, else what lies on the board.
    async fn forecaster(&self, fleet: &Fleet, pool: &PoolId, version: Option<u64>) -> PortResult<Forecaster> {
        if let Some((of, forecaster)) = fleet.forecasters().remove(pool)
            && Some(of) == version
        {
            return Ok(forecaster);
        }
        let posted = self.ports.board.read(&forecast_key(pool)).await?;
        let Some(posted) = posted else { return Ok(Forecaster::new(Step::FIVE_MINUTES)) };
        let bytes = STANDARD_NO_PAD.decode(posted.text).unwrap_or_default();
        Ok(Forecaster::decode(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%pool, %error, "the forecast begins anew");
            Forecaster::new(Step::FIVE_MINUTES)
        }))
    }

    /// What was offered in the steps that have ended since. A step in which nobody was counted is a silent one if the
    /// loop was there, and an unknown one if it was not: the door may have been down as well.
    async fn ended(
        &self,
        pool: &PoolId,
        forecaster: &Forecaster,
        begun: Timestamp,
        last: Timestamp,
        now: Timestamp,
    ) -> PortResult<Vec<(Timestamp, Load)>> {
        let step = forecaster.step();
        let length = step.duration();
        let oldest = forecaster.known_until().max(begun).max(now.before(KEPT));
        // The first whole step, and only those that everybody has added their counts to.
        let mut begin = step.begin(step.index(oldest));
        if begin < oldest {
            begin = begin.after(length);
        }
        let settled = now.before(crate::gather::SETTLED_AFTER);
        let mut ended = Vec::new();
        while begin.after(length) <= settled {
            let end = begin.after(length);
            let slots = slot_of(begin)..slot_of(end);
            let offered = self.offered(pool, slots).await?;
            let tokens: f64 = offered.iter().map(|slot| slot.tokens).sum();
            let requests: f64 = offered.iter().map(|slot| slot.requests).sum();
            let was_there = last >= begin;
            ended.push((begin, if requests > 0.0 || was_there { Load::Offered(tokens) } else { Load::Missing }));
            begin = end;
        }
        Ok(ended)
    }

    /// Tokens offered a second in this slot and the one before.
    async fn offered_a_second(&self, pool: &PoolId, begun: Timestamp, now: Timestamp) -> PortResult<f64> {
        let newest = slot_of(now);
        let offered = self.offered(pool, [newest - 1, newest]).await?;
        let tokens: f64 = offered.iter().map(|Offered { tokens, .. }| tokens).sum();
        // A pool that has just begun has seen less than that.
        let since = begin_of(newest - 1).max(begun);
        Ok(tokens / now.since(since).as_secs_f64().max(SLOT.as_secs_f64() / 2.0))
    }

    async fn keep_fleet(&self, fleet: &Fleet, pool: &PoolId, after: After) -> PortResult<()> {
        let After { autoscaler, forecaster, learned, begun, ticks, version, tick } = after;
        let kept = Kept {
            v: 1,
            state: STANDARD_NO_PAD.encode(autoscaler.encode()),
            begun: begun.as_millis(),
            at: tick.flight.at.as_millis(),
            look_again: tick.plan.look_again.as_millis(),
            ticks: ticks + 1,
        };
        let record = serde_json::to_string(&recorded(pool, &tick)).unwrap_or_default();
        let place = BoardKey::new("flight", &format!("{pool}-{}", ticks % FLIGHTS));
        self.replace(&place, &record).await?;
        if learned {
            self.replace(&forecast_key(pool), &STANDARD_NO_PAD.encode(forecaster.encode())).await?;
        }
        let text = serde_json::to_string(&kept).unwrap_or_default();
        // If another was quicker, what it has kept stands, and is read at the next tick.
        if let Ok(version) = self.ports.board.post(&state_key(pool), &text, version, self.nonce()).await? {
            fleet.forecasters().insert(pool.clone(), (version, forecaster));
        }
        Ok(())
    }

    /// Posts a document whatever stands there; of two who do so at once one is enough.
    async fn replace(&self, key: &BoardKey, text: &str) -> PortResult<()> {
        let version = self.ports.board.read(key).await?.map(|posted| posted.version);
        let _ = self.ports.board.post(key, text, version, self.nonce()).await?;
        Ok(())
    }

    /// The ticks that are remembered of a pool's fleet.
    ///
    /// # Errors
    /// 404 without such a pool; a store that does not answer.
    pub async fn fleet_log(&self, pool: &str) -> Result<FleetLog, ApiError> {
        let pool = &self.pool_named(pool, self.ports.clock.now()).await?.id;
        let posted = self.ports.board.read(&state_key(pool)).await?;
        let kept: Option<Kept> = posted.and_then(|posted| serde_json::from_str(&posted.text).ok());
        let ticks = kept.map_or(0, |kept| kept.ticks);
        let mut log = FleetLog::default();
        for tick in ticks.saturating_sub(FLIGHTS)..ticks {
            let place = BoardKey::new("flight", &format!("{pool}-{}", tick % FLIGHTS));
            let posted = self.ports.board.read(&place).await?;
            log.data.extend(posted.and_then(|posted| serde_json::from_str::<FleetTick>(&posted.text).ok()));
        }
        Ok(log)
    }
}

fn scaler(pool: &PoolId, kept: &Kept) -> Option<Autoscaler> {
    let bytes = STANDARD_NO_PAD.decode(&kept.state).ok();
    match bytes.map(|bytes| Autoscaler::decode(&bytes)) {
        Some(Ok(autoscaler)) => Some(autoscaler),
        Some(Err(error)) => {
            tracing::warn!(%pool, %error, "the fleet is planned as of a new pool");
            None
        }
        None => None,
    }
}

/// Whether to look now: when it was said, and before that when something waits and nobody is there or coming, or the
/// market takes somebody.
fn is_due(kept: Option<&Kept>, instances: &[Instance], waits: &Waits, now: Timestamp) -> bool {
    let Some(kept) = kept else { return true };
    let deserted = waits.anybody() && !instances.iter().any(|one| one.stage.counts());
    let noticed = instances.iter().any(|one| one.stage == Stage::Noticed);
    let running = instances.iter().map(|instance| u64::from(instance.running)).sum();
    let queued = waiting(waits.depths, running).iter().any(|jobs| *jobs > 0);
    let a_while_ago = now.since(Timestamp::from_millis(kept.at)) >= UNDER_LOAD;
    deserted || (queued && a_while_ago) || noticed || now.as_millis() >= kept.look_again || now.as_millis() < kept.at
}
