//! Parking a batch's lines: some together, then the place up to which they are parked is written down.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use penstock_policy::classes::Class;
use penstock_policy::id::TenantId;
use penstock_policy::time::Timestamp;
use penstock_wire::batches::Line;

use super::batch::{Place, StoredBatch};
use super::check::gone;
use super::lines::{Found, Lines, is_blank};
use super::request::LineRequest;
use crate::Service;
use crate::admission::parking::Stall;
use crate::ports::{Pool, PortError, PortResult, Tenant};

/// Lines that are parked together.
const TOGETHER: usize = 256;

impl StoredBatch {
    /// No request from this one on has a job: some beyond the place may be being parked at this moment.
    pub(super) fn parked_before(&self) -> u64 {
        let ahead = 2 * TOGETHER as u64;
        if self.split.requests == 0 && self.total == 0 { 0 } else { self.total.min(self.split.requests + ahead) }
    }
}

impl Service {
    /// Parks some lines; gives the batch as it is then, unless somebody else has written it meanwhile.
    pub(super) async fn split(
        &self,
        tenant: &TenantId,
        id: &str,
        mut batch: StoredBatch,
        version: u64,
        now: Timestamp,
    ) -> PortResult<(Option<StoredBatch>, u64)> {
        let Some(of) = self.ports.control.tenant(tenant).await? else { return Ok((None, version)) };
        let Some(input) = self.find_file(tenant, &batch.input).await? else {
            self.fail_batch(tenant, id, batch, version, vec![gone()], now).await?;
            return Ok((None, version));
        };
        let pools = self.pools(now).await?;
        let mut lines = Lines::new(self.ports.blobs.as_ref(), tenant, &input.runs, batch.split.bytes);
        let (mut some, mut place) = (Vec::new(), batch.split);
        while some.len() < TOGETHER
            && let Some(found) = lines.next().await?
        {
            if let Found::Line(line) = found
                && !is_blank(&line)
            {
                some.push((place.requests, line));
                place.requests += 1;
            }
            place.bytes = lines.at();
        }
        let mut parking: Vec<BoxFuture<'_, PortResult<()>>> = Vec::new();
        for (n, line) in &some {
            parking.push(self.park_line(&of, id, &batch, *n, line, &pools, now).boxed());
        }
        try_join_all(parking).await?;
        batch.split = if some.is_empty() { Place { requests: batch.total, ..place } } else { place };
        let written = self.write_batch(tenant, id, &batch, version, now).await?;
        Ok(written.map_or((None, version), |version| (Some(batch), version)))
    }

    /// Parks one line. What no pool can ever do is not parked: it is found again, and said, when answers are collected.
    #[expect(clippy::too_many_arguments, reason = "one line's particulars, read once for all lines")]
    async fn park_line(
        &self,
        tenant: &Tenant,
        id: &str,
        batch: &StoredBatch,
        n: u64,
        line: &[u8],
        pools: &[Pool],
        now: Timestamp,
    ) -> PortResult<()> {
        let Ok(line) = Line::parse(line, batch.endpoint) else { return Ok(()) };
        let Ok(request) = LineRequest::parse(line.body.as_bytes(), batch.endpoint) else { return Ok(()) };
        let wanted = request.wanted();
        let Ok(pool) = wanted.pool(pools) else { return Ok(()) };
        let stall = Stall { id: batch.job(id, n), class: Class::P3, due: batch.expires() };
        match self.park(tenant, wanted, pool, &stall, now).await {
            Ok(_) => Ok(()),
            Err(error) if error.status.is_client_error() => Ok(()),
            Err(error) => Err(PortError::Unavailable { store: "parking", cause: error.body.error.message }),
        }
    }
}
