//! A job before it is accepted: everything about it that is fixed from the beginning.
//!
//! Chance and the calendar are decided here (the seed, the date that templates print), so that every worker that ever
//! runs the job computes the same answer.

use bytes::Bytes;
use penstock_policy::admission::{self, Measure};
use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, Nonce};
use penstock_policy::tenant::Retention;
use penstock_policy::time::Timestamp;
use penstock_wire::chat::ChatRequest;

use crate::Service;
use crate::error::ApiError;
use crate::ports::{AttemptClaim, BlobKey, Generation, INLINE_BYTES, JobSpec, Payload, Pool, Sampling, Tenant};
use crate::story::Admitted;
use crate::wanted::Wanted;

/// A job that nobody has accepted yet.
#[derive(Clone)]
pub(crate) struct Draft {
    /// What is fixed about it.
    pub(crate) spec: JobSpec,
    /// The try it is remembered as, if it has no name of its own.
    pub(crate) attempt: Option<AttemptClaim>,
    /// The request, as the worker will read it.
    payload: String,
}

impl Draft {
    /// Its class.
    pub(crate) fn class(&self) -> Class {
        self.spec.class
    }

    /// The same job under another id, whose acceptor died half-way.
    pub(crate) fn under(&self, id: JobId) -> Self {
        let mut draft = self.clone();
        draft.spec.id = id;
        draft
    }
}

impl Service {
    /// Everything about the job that is fixed before it is accepted.
    pub(crate) fn draft(
        &self,
        tenant: &Tenant,
        wanted: Wanted<'_>,
        pool: &Pool,
        now: Timestamp,
    ) -> Result<Draft, ApiError> {
        let class = Class::granted(admission::class_of_tier(wanted.service_tier()), tenant.ceiling);
        let measure = Measure {
            tokens_per_byte: pool.tokens_per_byte,
            usual_output_tokens: pool.usual_output_tokens,
            context_length: pool.context_length,
        };
        let (payload, prompt_bytes, estimated_tokens) = match wanted {
            Wanted::Chat(request) | Wanted::Response(request) => {
                let generation = self.generation(request, now);
                let bytes = generation.prompt_bytes(pool.tokens_per_byte);
                let estimated = admission::estimate(bytes, request.max_tokens, request.answers(), &measure).total();
                (serde_json::to_string(&generation), bytes, estimated)
            }
        };
        let id = JobId::new(now, self.ports.entropy.draw());
        let spec = JobSpec {
            id,
            route: wanted.route(),
            tenant: tenant.id.clone(),
            class,
            pool: pool.id.clone(),
            model: pool.model.clone(),
            created: now,
            due: now.after(class.patience()),
            streamed: wanted.is_streamed(),
            estimated_tokens,
            reservations: Vec::new(),
            price: pool.price,
            retention: Retention { store: tenant.retention.store && wanted.may_be_stored(), ..tenant.retention },
            admitted: Admitted {
                tier: wanted.service_tier().map(str::to_owned),
                prompt_bytes: u64::try_from(prompt_bytes).unwrap_or(u64::MAX),
                drawn: Vec::new(),
            },
            keep: None,
        };
        Ok(Draft { spec, attempt: None, payload: payload.map_err(|_| ApiError::internal())? })
    }

    /// Fixes what chance and the calendar decide, so that every worker computes the same answer.
    fn generation(&self, request: &ChatRequest, now: Timestamp) -> Generation {
        let seed = match request.seed {
            Some(seed) => seed.cast_unsigned(),
            None => (self.ports.entropy.draw() >> 64) as u64,
        };
        let generation = Generation {
            messages: request.messages.clone(),
            sampling: Sampling {
                temperature: request.temperature,
                top_p: request.top_p,
                seed,
                max_tokens: request.max_tokens,
                stop: request.stop.clone(),
                presence_penalty: request.presence_penalty,
                frequency_penalty: request.frequency_penalty,
                top_k: request.top_k,
                min_p: request.min_p,
                repetition_penalty: request.repetition_penalty,
                logit_bias: request.logit_bias.clone(),
            },
            date: date(now),
            prompts: request.prompts.clone(),
            echo: request.echo,
            choices: request.answers(),
            logprobs: request.logprobs,
            tools: request.tools.clone(),
            tool_choice: request.tool_choice.clone(),
            parallel_tool_calls: request.parallel_tool_calls,
            format: request.format.clone(),
            template_kwargs: request.template_kwargs.clone(),
            ..Generation::default()
        };
        generation.versioned()
    }

    /// Puts a request too large for a message where the worker will find it: under a key of this attempt's own, because
    /// an earlier one under the same job id may be in the queue.
    pub(crate) async fn payload(&self, draft: &Draft, attempt: Nonce) -> Result<Payload, ApiError> {
        if draft.payload.len() <= INLINE_BYTES {
            return Ok(Payload::Inline(draft.payload.clone()));
        }
        let key = BlobKey::new(&format!("req/{}-{:x}", draft.spec.id, attempt.0)).ok_or_else(ApiError::internal)?;
        self.ports.blobs.put(&key, Bytes::from(draft.payload.clone())).await?;
        Ok(Payload::Blob(key))
    }
}

/// The day of `now` in UTC, `YYYY-MM-DD` (days to civil date after Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms").
pub(crate) fn date(now: Timestamp) -> String {
    let days = now.as_secs().div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_named_as_the_calendar_names_them() {
        for (secs, day) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_709_164_800, "2024-02-29"),
            (1_735_689_599, "2024-12-31"),
            (1_795_219_200, "2026-11-21"),
        ] {
            assert_eq!(date(Timestamp::from_millis(secs * 1000)), day);
        }
    }
}
