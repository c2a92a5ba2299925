//! A quote: what would become of a request, with nothing done and nothing taken (`x-penstock-dry-run: 1`).

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue};
use penstock_policy::admission::tier_of_class;
use penstock_policy::decision::Decision;
use penstock_policy::time::Timestamp;
use penstock_wire::quote::Quote;

use crate::Service;
use crate::admission::limits::refused;
use crate::admission::wanted::Wanted;
use crate::door::answering::json;
use crate::door::told::{limit_state, promised};
use crate::error::ApiError;
use crate::ports::Tenant;

impl Service {
    /// Says what would become of a request now: the promise, or the very refusal it would meet.
    ///
    /// # Errors
    /// What is wrong with the request, or a store that does not answer.
    pub(crate) async fn answer_dry(
        &self,
        tenant: &Tenant,
        wanted: Wanted<'_>,
        now: Timestamp,
    ) -> Result<Response, ApiError> {
        let pools = self.pools(now).await?;
        let pool = wanted.pool(&pools)?;
        let draft = self.draft(tenant, wanted, pool, now).await?;
        let (decision, levels) = self.quote(tenant, &draft, now).await?;
        let mut quote = Quote::new(&pool.model, tier_of_class(draft.class()));
        let mut headers = limit_state(&levels, &tenant.limits, now);
        match decision {
            Decision::Accept { promise, .. } => {
                let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
                quote.eta_ms_50 = Some(ms(promise.eta_50));
                quote.eta_ms_95 = Some(ms(promise.eta_95));
                quote.position = Some(promise.position);
                quote.cost_usd = Some(promise.price.to_string());
                headers.extend(promised(&promise));
            }
            Decision::Refuse(refusal) => {
                let told = refused(tenant, &refusal, draft.spec.estimated_tokens, now);
                quote.retry_after_ms = told.retry_after.and_then(|wait| u64::try_from(wait.as_millis()).ok());
                quote.refusal = Some(told.body.error);
            }
            // A request of which nothing is known, at a pool that computes it, is accepted or refused.
            Decision::Serve(_) | Decision::Join(_) | Decision::Degrade(_) => return Err(ApiError::internal()),
        }
        let mut response = json(&quote).into_response();
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        Ok(response)
    }
}
