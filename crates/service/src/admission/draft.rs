//! A job before it is accepted: everything about it that is fixed from the beginning.
//!
//! Chance and the calendar are decided here (the seed, the date that templates print), so that every worker that ever
//! runs the job computes the same answer.

use bytes::Bytes;
use penstock_policy::admission::{self, Estimate, InputSize, Measure};
use penstock_policy::calendar::Day;
use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, Nonce};
use penstock_policy::tenant::Retention;
use penstock_policy::time::Timestamp;
use penstock_wire::chat::ChatRequest;
use penstock_wire::embeddings::Inputs;

use crate::Service;
use crate::admission::wanted::Wanted;
use crate::error::ApiError;
use crate::ports::{
    AttemptClaim, BlobKey, Embedding, Generation, INLINE_BYTES, JobSpec, Payload, Pool, Sampling, Tenant,
};
use crate::stored::story::Admitted;

/// A job that nobody has accepted yet.
#[derive(Clone)]
pub(crate) struct Draft {
    /// What is fixed about it.
    pub(crate) spec: JobSpec,
    /// The try it is remembered as, if it has no name of its own.
    pub(crate) attempt: Option<AttemptClaim>,
    /// The work it is estimated to be.
    pub(crate) estimate: Estimate,
    /// A digest of what is asked for, by which a return is recognised.
    pub(crate) fingerprint: u64,
    /// The client says that it has tried before.
    pub(crate) is_retry: bool,
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
    pub(crate) async fn draft(
        &self,
        tenant: &Tenant,
        wanted: Wanted<'_>,
        pool: &Pool,
        now: Timestamp,
    ) -> Result<Draft, ApiError> {
        let class = Class::granted(admission::class_of_tier(wanted.service_tier()), tenant.ceiling);
        let seen = self.seen_of(&tenant.id, &pool.id, now).await;
        let measure = Measure {
            tokens_per_byte: seen.tokens_per_byte(pool.tokens_per_byte),
            usual_output_tokens: seen.usual_output_tokens().unwrap_or(pool.usual_output_tokens),
            context_length: pool.context_length,
        };
        let (payload, prompt_bytes, estimate) = match wanted {
            Wanted::Chat(request) | Wanted::Response(request) => {
                let generation = self.generation(request, now);
                let bytes = generation.prompt_bytes(pool.tokens_per_byte);
                let estimated = admission::estimate(bytes, request.max_tokens, request.answers(), &measure);
                (serde_json::to_string(&generation), bytes, estimated)
            }
            Wanted::Embeddings(request) => {
                let sizes = sizes(&request.inputs);
                let embedding = Embedding::new(request.inputs.clone(), request.dimensions);
                let bytes = sizes.iter().map(InputSize::text_bytes).sum();
                (serde_json::to_string(&embedding), bytes, admission::estimate_inputs(&sizes, &measure))
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
            estimated_tokens: estimate.total(),
            reservations: Vec::new(),
            price: pool.price,
            retention: Retention { store: tenant.retention.store && wanted.may_be_stored(), ..tenant.retention },
            admitted: Admitted {
                tier: wanted.service_tier().map(str::to_owned),
                prompt_bytes: u64::try_from(prompt_bytes).unwrap_or(u64::MAX),
                ..Admitted::default()
            },
            keep: None,
        };
        let payload = payload.map_err(|_| ApiError::internal())?;
        Ok(Draft { spec, attempt: None, estimate, fingerprint: 0, is_retry: false, payload })
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
            date: Day::of(now).name(),
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

/// How large each input is.
fn sizes(inputs: &Inputs) -> Vec<InputSize> {
    match inputs {
        Inputs::Texts(texts) => texts.iter().map(|text| InputSize::Bytes(text.len())).collect(),
        Inputs::Tokens(lists) => lists.iter().map(|ids| InputSize::Tokens(ids.len())).collect(),
    }
}
