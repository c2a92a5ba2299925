//! From the vectors of a job to what the stock clients read.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt;
use penstock_wire::embeddings::{EmbeddingList, Encoding, Vector};

use crate::Service;
use crate::door::answering::Write;
use crate::error::ApiError;
use crate::ports::{Chunk, Part, VectorPlace, Vectors};

impl Service {
    /// Writes an answer of vectors, as the request wants them.
    pub(crate) fn write_vectors(self: &Arc<Self>, model: String, encoding: Encoding) -> Write {
        let service = Arc::clone(self);
        Box::new(move |said, _| {
            let (service, model) = (Arc::clone(&service), model.clone());
            async move {
                let vectors = vectors_of(&said).ok_or_else(ApiError::internal)?;
                let list = service.embedding_list(&model, encoding, vectors).await?;
                serde_json::to_string(&list).map_err(|_| ApiError::internal())
            }
            .boxed()
        })
    }

    /// The answer that vectors make; reads them from their blob if that is where they are.
    ///
    /// # Errors
    /// 410 if they were so old that they have been removed; a store that does not answer.
    pub(crate) async fn embedding_list(
        &self,
        model: &str,
        encoding: Encoding,
        vectors: &Vectors,
    ) -> Result<EmbeddingList, ApiError> {
        let bytes = match &vectors.place {
            VectorPlace::Inline(bytes) => bytes.clone(),
            VectorPlace::Blob(key) => self.ports.blobs.get(key).await?.ok_or_else(ApiError::result_gone)?,
        };
        let written = written(&bytes, vectors.dimensions, encoding).ok_or_else(ApiError::internal)?;
        Ok(EmbeddingList::new(model, written, vectors.tokens))
    }
}

/// The vectors among what a job has said.
pub(crate) fn vectors_of(said: &[Chunk]) -> Option<&Vectors> {
    said.iter().flat_map(|chunk| &chunk.words.parts).find_map(|part| match part {
        Part::Vectors(vectors) => Some(vectors),
        Part::Content(_) | Part::Reasoning(_) | Part::Call { .. } => None,
    })
}

/// Each vector as the client wants it; `None` if the bytes are not whole vectors.
fn written(bytes: &Bytes, dimensions: u32, encoding: Encoding) -> Option<Vec<Vector>> {
    let size = usize::try_from(dimensions).ok()?.checked_mul(4).filter(|size| *size > 0)?;
    let vectors = bytes.chunks_exact(size);
    let whole = vectors.remainder().is_empty();
    let write = |vector: &[u8]| match encoding {
        Encoding::Base64 => Vector::Base64(STANDARD.encode(vector)),
        Encoding::Float => {
            let (numbers, _) = vector.as_chunks();
            Vector::Float(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
        }
    };
    whole.then(|| vectors.map(write).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_written_as_numbers_or_as_their_bytes() {
        let bytes: Bytes = [0.5f32, -1.0, 2.0, 0.25].iter().flat_map(|number| number.to_le_bytes()).collect();
        let float = written(&bytes, 2, Encoding::Float).unwrap();
        assert_eq!(float, [Vector::Float(vec![0.5, -1.0]), Vector::Float(vec![2.0, 0.25])]);
        let base64 = written(&bytes, 2, Encoding::Base64).unwrap();
        assert_eq!(base64[0], Vector::Base64(STANDARD.encode(&bytes[..8])));
        assert_eq!(written(&bytes, 3, Encoding::Float), None, "four numbers are no vectors of three");
        assert_eq!(written(&bytes, 0, Encoding::Float), None);
    }
}
