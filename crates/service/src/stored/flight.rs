//! A recorded tick of a fleet, and flying it again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use penstock_policy::bytes::Undecodable;
use penstock_policy::fleet::Plan;
use penstock_policy::fleet::autoscaler::Tick;
use penstock_policy::fleet::flight::Flight;
use penstock_policy::fleet::offering::Stage;
use penstock_policy::id::PoolId;
use penstock_wire::fleet::FleetTick;

/// Ticks that are kept of each pool: an hour under load.
pub(crate) const FLIGHTS: u64 = 360;

/// The form that is written.
const VERSION: u32 = 1;

/// Records a tick.
pub(crate) fn recorded(pool: &PoolId, tick: &Tick) -> FleetTick {
    let Tick { flight, plan, .. } = tick;
    let stages = [Stage::Launching, Stage::Ready, Stage::Noticed, Stage::Draining, Stage::Drained];
    let workers = stages.map(|stage| {
        let there = flight.instances.iter().filter(|instance| instance.stage == stage).count();
        u32::try_from(there).unwrap_or(u32::MAX)
    });
    FleetTick {
        v: VERSION,
        pool: pool.to_string(),
        at_ms: flight.at.as_millis(),
        offered: flight.tokens_per_second,
        needed: plan.need.total(),
        target: plan.target,
        workers,
        steps: plan.steps.iter().map(ToString::to_string).collect(),
        input: STANDARD_NO_PAD.encode(flight.encode()),
        plan: STANDARD_NO_PAD.encode(plan.encode()),
    }
}

/// What came of flying a recorded tick again.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// The plan that this program makes.
    pub plan: Plan,
    /// Whether it is the recorded one, bit for bit.
    pub is_same: bool,
}

/// Makes the plan of a recorded tick again.
///
/// # Errors
/// [`Undecodable`]: another version recorded it, or it is damaged.
pub fn replay(tick: &FleetTick) -> Result<Replayed, Undecodable> {
    let bytes = STANDARD_NO_PAD.decode(&tick.input).map_err(|_| Undecodable::Malformed)?;
    let plan = Flight::decode(&bytes)?.plan();
    let is_same = STANDARD_NO_PAD.encode(plan.encode()) == tick.plan;
    Ok(Replayed { plan, is_same })
}
