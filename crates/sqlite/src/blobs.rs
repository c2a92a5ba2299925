//! Blobs as files in a folder.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use penstock_service::ports::{BlobKey, Blobs, PortError, PortResult};

/// A folder of blobs. A blob is written beside its place and moved there, so that it is there whole or not at all.
#[derive(Clone, Debug)]
pub struct DiskBlobs {
    folder: PathBuf,
}

impl DiskBlobs {
    /// Uses `folder`, which is created with the first blob.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn place(&self, key: &BlobKey) -> PathBuf {
        // A key has no empty, `.` or `..` part, so this stays inside the folder.
        self.folder.join(key.as_str())
    }

    fn write(&self, key: &BlobKey, bytes: &[u8]) -> std::io::Result<()> {
        let place = self.place(key);
        let folder = place.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(&place)?;
        Ok(())
    }
}

#[async_trait]
impl Blobs for DiskBlobs {
    async fn put(&self, key: &BlobKey, bytes: Bytes) -> PortResult<()> {
        self.write(key, &bytes).map_err(failure)
    }

    async fn get(&self, key: &BlobKey) -> PortResult<Option<Bytes>> {
        match std::fs::read(self.place(key)) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failure(error)),
        }
    }

    async fn remove(&self, key: &BlobKey) -> PortResult<()> {
        match std::fs::remove_file(self.place(key)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failure(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn failure(error: std::io::Error) -> PortError {
    PortError::Unavailable { store: "disk", cause: error.to_string() }
}
