//! Large payloads on S3. S3 reads what was written last, at once and everywhere in the region.
//!
//! The caller's role needs `s3:ListBucket` on the bucket: without it S3 answers a missing object with 403, which is
//! an error and not `None`. A lifecycle rule collects what is left behind, after longer than any queue's retention.

use async_trait::async_trait;
use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use penstock_service::ports::{BlobKey, Blobs, PortError, PortResult};

use crate::Aws;
use crate::error::{S3, classify};

#[async_trait]
impl Blobs for Aws {
    async fn put(&self, key: &BlobKey, bytes: Bytes) -> PortResult<()> {
        self.s3
            .put_object()
            .bucket(&self.names.payload_bucket)
            .key(key.as_str())
            .body(ByteStream::from(bytes))
            .send()
            .await
            .map_err(|error| classify(S3, &error))?;
        Ok(())
    }

    async fn get(&self, key: &BlobKey) -> PortResult<Option<Bytes>> {
        let sent = self.s3.get_object().bucket(&self.names.payload_bucket).key(key.as_str()).send().await;
        let object = match sent {
            Ok(object) => object,
            Err(error) => {
                return match error.as_service_error() {
                    Some(GetObjectError::NoSuchKey(_)) => Ok(None),
                    _ => Err(classify(S3, &error)),
                };
            }
        };
        match object.body.collect().await {
            Ok(body) => Ok(Some(body.into_bytes())),
            Err(_) => Err(PortError::Unavailable { store: S3, cause: "the answer broke off".to_owned() }),
        }
    }

    async fn remove(&self, key: &BlobKey) -> PortResult<()> {
        self.s3
            .delete_object()
            .bucket(&self.names.payload_bucket)
            .key(key.as_str())
            .send()
            .await
            .map_err(|error| classify(S3, &error))?;
        Ok(())
    }
}
