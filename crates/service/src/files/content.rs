//! The bytes of files: runs of segments of one size, each segment a blob, so that neither writing nor reading a file holds
//! more of it than a segment, on a disk as on S3, and several runs make one file without being copied.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use md5::{Digest, Md5};
use penstock_policy::id::TenantId;
use serde::{Deserialize, Serialize};

use crate::ports::{BlobKey, Blobs, PortError, PortResult};

/// The bytes of a segment; the last one of a run may have fewer.
pub(crate) const SEGMENT: usize = 4 << 20;

/// The most segments of a run: of the largest file, and some.
const MOST_SEGMENTS: u64 = 256;

/// Bytes that were written in one go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// What its segments are called.
    pub(crate) of: String,
    /// How many bytes it has.
    pub(crate) bytes: u64,
}

impl Run {
    fn segments(&self) -> u64 {
        self.bytes.div_ceil(SEGMENT as u64)
    }
}

/// What the names of all contents of a tenant begin with.
#[must_use]
pub fn contents_of(tenant: &TenantId) -> String {
    format!("file/{}/", URL_SAFE_NO_PAD.encode(tenant.to_string()))
}

fn key(tenant: &TenantId, of: &str, segment: u64) -> PortResult<BlobKey> {
    let name = format!("{}{of}-{segment}", contents_of(tenant));
    BlobKey::new(&name).ok_or_else(|| PortError::Corrupt { what: "file", cause: "its name is malformed".to_owned() })
}

/// Writes a run.
pub(crate) struct Writer<'b> {
    blobs: &'b dyn Blobs,
    tenant: &'b TenantId,
    of: String,
    held: BytesMut,
    segments: u64,
    bytes: u64,
}

impl<'b> Writer<'b> {
    /// Begins a run that is called `of`: letters, digits, `-`, `_`.
    pub(crate) fn new(blobs: &'b dyn Blobs, tenant: &'b TenantId, of: &str) -> Self {
        Self { blobs, tenant, of: of.to_owned(), held: BytesMut::new(), segments: 0, bytes: 0 }
    }

    /// How many bytes were written.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> PortResult<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(SEGMENT - self.held.len()));
            self.held.extend_from_slice(now);
            self.bytes += now.len() as u64;
            rest = later;
            if self.held.len() == SEGMENT {
                self.put().await?;
            }
        }
        Ok(())
    }

    async fn put(&mut self) -> PortResult<()> {
        let segment = std::mem::take(&mut self.held).freeze();
        self.blobs.put(&key(self.tenant, &self.of, self.segments)?, segment).await?;
        self.segments += 1;
        Ok(())
    }

    /// Ends the run. Durable when this returns.
    pub(crate) async fn finish(mut self) -> PortResult<Run> {
        if !self.held.is_empty() {
            self.put().await?;
        }
        Ok(Run { of: self.of, bytes: self.bytes })
    }
}

/// Reads runs from the byte `from` on, a segment at a time.
pub(crate) fn read<'b>(
    blobs: &'b dyn Blobs,
    tenant: &'b TenantId,
    runs: &'b [Run],
    from: u64,
) -> BoxStream<'b, PortResult<Bytes>> {
    let mut places = Vec::new();
    let mut skipped = from;
    for run in runs {
        if skipped >= run.bytes {
            skipped -= run.bytes;
            continue;
        }
        let (first, within) = (skipped / SEGMENT as u64, skipped % SEGMENT as u64);
        skipped = 0;
        places.extend((first..run.segments()).map(|segment| (run, segment, if segment == first { within } else { 0 })));
    }
    let get = move |(run, segment, within): (&'b Run, u64, u64)| async move {
        let gone = || PortError::Corrupt { what: "file", cause: format!("segment {segment} of {} is gone", run.of) };
        let bytes = blobs.get(&key(tenant, &run.of, segment)?).await?.ok_or_else(gone)?;
        let within = usize::try_from(within).unwrap_or(usize::MAX);
        if within > bytes.len() { Err(gone()) } else { Ok(bytes.slice(within..)) }
    };
    stream::iter(places).then(get).boxed()
}

/// The MD5 of runs, as one, in lower-case hexadecimal: what clients compare uploads by. It protects from accidents alone.
pub(crate) async fn md5(blobs: &dyn Blobs, tenant: &TenantId, runs: &[Run]) -> PortResult<String> {
    let mut digest = Md5::new();
    let mut bytes = read(blobs, tenant, runs, 0);
    while let Some(piece) = bytes.next().await {
        digest.update(&piece?);
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Removes runs.
pub(crate) async fn remove(blobs: &dyn Blobs, tenant: &TenantId, runs: &[Run]) -> PortResult<()> {
    for run in runs {
        for segment in 0..run.segments() {
            blobs.remove(&key(tenant, &run.of, segment)?).await?;
        }
    }
    Ok(())
}

/// Removes a run that was perhaps never finished, so that nobody knows how long it is.
pub(crate) async fn remove_unfinished(blobs: &dyn Blobs, tenant: &TenantId, of: &str) -> PortResult<()> {
    for segment in 0..MOST_SEGMENTS {
        let key = key(tenant, of, segment)?;
        if blobs.get(&key).await?.is_none() {
            break;
        }
        blobs.remove(&key).await?;
    }
    Ok(())
}
