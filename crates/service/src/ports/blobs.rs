//! Payloads too large for a queue message: S3, or a folder on the local disk.

use async_trait::async_trait;
use bytes::Bytes;

use super::PortResult;

/// The name of a blob: `/`-separated parts of `a-z A-Z 0-9 . _ -`, none of them empty, `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobKey(String);

impl BlobKey {
    /// Checks and makes a key; `None` if `text` breaks the rule above or is longer than 512 bytes.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let part_ok = |part: &str| {
            !matches!(part, "" | "." | "..") && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        (text.len() <= 512 && text.split('/').all(part_ok)).then(|| Self(text.to_owned()))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Stores blobs. A blob, once put, is durable and never changes: putting the same key again stores the same bytes.
#[async_trait]
pub trait Blobs: Send + Sync {
    /// Stores `bytes` under `key`.
    async fn put(&self, key: &BlobKey, bytes: Bytes) -> PortResult<()>;

    /// Reads a blob; `None` if there is none. Sees every finished `put`.
    async fn get(&self, key: &BlobKey) -> PortResult<Option<Bytes>>;

    /// Removes a blob; removing what is not there is no error.
    async fn remove(&self, key: &BlobKey) -> PortResult<()>;
}
