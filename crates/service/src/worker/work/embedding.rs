//! Turning a job's texts into vectors: all of them, or none.
//!
//! There is nothing to continue from the middle: a worker that takes over begins anew, unless its predecessor died
//! between writing the vectors down and ending the job. What is small lies in the answer's chunk; what is large is a blob
//! that the chunk names, which costs less on S3 from about ten kilobytes on, and a chunk may hold no more than 400.

use futures_util::future::{Either, select};
use penstock_policy::classes::Class;

use super::{Pending, Run, Work, persist};
use crate::ports::{
    Answer, BlobKey, Chunk, Embedded, Embedding, EngineFault, ErrorVerdict, FinishReason, Part, PortResult, Texts,
    VectorPlace, Vectors,
};
use crate::stored::chunk::Words;
use crate::stored::story::WhyReleased;

/// The most bytes of vectors that lie in the answer's chunk. A DynamoDB write is paid by the kilobyte, and what is
/// written there is a third longer for being text; a blob costs as much as eight kilobytes, and 20 to 50 ms.
const MOST_INLINE: usize = 16 << 10;

impl Work {
    pub(super) async fn embed(&mut self, embedding: Embedding, class: Class) -> PortResult<()> {
        let inherited = self.inherit().await?;
        if let Some(tokens) = tokens_of(&inherited) {
            return self.finish(Ok(answer(tokens))).await;
        }
        let texts = Texts { job: self.spec.id, tenant: self.spec.tenant.clone(), class, embedding };
        let run = match self.until_embedded(texts).await? {
            Ok(embedded) => {
                let tokens = embedded.tokens;
                self.write_vectors(embedded).await?;
                Run::Ended(Ok(answer(tokens)))
            }
            Err(run) => run,
        };
        self.conclude(run).await
    }

    /// Waits for the engine, prolonging the claim as long as it advances.
    async fn until_embedded(&self, texts: Texts) -> PortResult<Result<Embedded, Run>> {
        let service = &self.place.service;
        let clock = &service.ports().clock;
        let engine = &self.place.engine;
        let heartbeat = service.timing().lease / 3;
        let mut embedding = engine.embed(texts);
        let mut steps = engine.steps();
        loop {
            let beat = clock.sleep_until(clock.now().after(heartbeat));
            embedding = match select(embedding, beat).await {
                Either::Left((embedded, _)) => return Ok(embedded.map_err(|fault| self.failed(fault))),
                Either::Right((_, still)) => still,
            };
            if !engine.is_alive() {
                return Ok(Err(Run::GiveBack(WhyReleased::EngineDead)));
            }
            if engine.steps() > steps
                && let Some(end) = self.renew(clock.now()).await?
            {
                return Ok(Err(end));
            }
            steps = engine.steps();
        }
    }

    fn failed(&self, fault: EngineFault) -> Run {
        match fault {
            EngineFault::BadRequest { code, param, message } => {
                Run::Ended(Err(ErrorVerdict { status: 400, code, param, message }))
            }
            EngineFault::Fault(cause) => {
                tracing::error!(job = %self.spec.id, %cause, "the engine failed on a job");
                Run::GiveBack(WhyReleased::EngineFault)
            }
            EngineFault::Stopping => Run::GiveBack(WhyReleased::Stopping),
            EngineFault::Preempted => Run::GiveBack(WhyReleased::Preempted),
        }
    }

    async fn write_vectors(&mut self, embedded: Embedded) -> PortResult<()> {
        let Embedded { tokens, dimensions, bytes } = embedded;
        let place = if bytes.len() <= MOST_INLINE {
            VectorPlace::Inline(bytes)
        } else {
            // Named by the epoch too, so that a worker that has lost the job never writes over another's.
            let name = format!("res/{}-{}", self.spec.id, self.epoch.0);
            let key = BlobKey::new(&name).ok_or_else(|| crate::ports::PortError::Refused {
                store: "blobs",
                cause: format!("'{name}' is no name of a blob"),
            })?;
            let workplace = std::sync::Arc::clone(&self.place);
            persist(&self.place, || workplace.service.ports().blobs.put(&key, bytes.clone())).await?;
            VectorPlace::Blob(key)
        };
        let parts = vec![Part::Vectors(Vectors { tokens, dimensions, place })];
        self.write_chunk(None, Pending { words: Words { parts, ..Words::default() }, ..Pending::default() }).await
    }
}

/// The tokens of the vectors that an earlier worker wrote down, if it did.
fn tokens_of(chunks: &[Chunk]) -> Option<u32> {
    chunks.iter().flat_map(|chunk| &chunk.words.parts).find_map(|part| match part {
        Part::Vectors(vectors) => Some(vectors.tokens),
        Part::Content(_) | Part::Reasoning(_) | Part::Call { .. } => None,
    })
}

fn answer(tokens: u32) -> Answer {
    Answer {
        reasons: vec![FinishReason::Stop],
        prompt_tokens: tokens,
        completion_tokens: 0,
        cached_tokens: 0,
        reasoning_tokens: 0,
    }
}
