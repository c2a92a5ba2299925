//! A file's document, and the use cases of files.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_wire::files::{File, FileDeleted, Page, Purpose};
use serde::{Deserialize, Serialize};

use super::content::{self, Run};
use crate::Service;
use crate::agenda::{Errand, Kind, Then};
use crate::error::ApiError;
use crate::ports::{Order, PortError, PortResult, ShelfId};

/// How long writing a file may take; what is no file by then never becomes one.
pub(crate) const WRITTEN_WITHIN: Duration = Duration::from_secs(2 * 3600);

/// How long removing one may take.
const REMOVED_WITHIN: Duration = Duration::from_secs(60);

const VERSION: u32 = 1;

/// A file as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredFile {
    v: u32,
    name: String,
    purpose: String,
    created_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_ms: Option<i64>,
    pub(crate) runs: Vec<Run>,
}

/// What a new file is to be.
#[derive(Clone)]
pub(crate) struct NewFile {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) purpose: Purpose,
    pub(crate) created: Timestamp,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) runs: Vec<Run>,
}

impl StoredFile {
    fn read(text: &str) -> PortResult<Self> {
        let corrupt = |cause: String| PortError::Corrupt { what: "file", cause };
        let file: Self = serde_json::from_str(text).map_err(|error| corrupt(error.to_string()))?;
        if file.v == VERSION { Ok(file) } else { Err(corrupt("a newer program wrote it".to_owned())) }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes).sum()
    }

    fn expires(&self) -> Option<Timestamp> {
        self.expires_ms.map(Timestamp::from_millis)
    }

    fn has_ended(&self, now: Timestamp) -> bool {
        self.expires().is_some_and(|expires| expires <= now)
    }

    pub(crate) fn purpose(&self) -> Purpose {
        match self.purpose.as_str() {
            "batch_output" => Purpose::BatchOutput,
            name => Purpose::of_client(name).unwrap_or(Purpose::UserData),
        }
    }

    pub(crate) fn shown(&self, id: &str) -> File {
        File {
            id: id.to_owned(),
            object: "file".to_owned(),
            bytes: self.bytes(),
            created_at: Timestamp::from_millis(self.created_ms).as_secs(),
            expires_at: self.expires().map(|moment| moment.as_secs()),
            filename: self.name.clone(),
            purpose: self.purpose(),
            status: "processed".to_owned(),
        }
    }
}

/// The id of a new file.
pub(crate) fn file_id(id: JobId) -> String {
    format!("file-{id}")
}

fn shelf(tenant: &TenantId) -> ShelfId {
    ShelfId::of_tenant("files", tenant)
}

/// Whether a text has the form of an id: what cannot be the name of a document is not looked for.
pub(crate) fn is_id(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| rest.parse::<JobId>().is_ok())
}

impl Service {
    /// Makes a file of what was written. Repeated, it makes the same file.
    pub(crate) async fn make_file(&self, tenant: &TenantId, new: NewFile) -> PortResult<StoredFile> {
        let file = StoredFile {
            v: VERSION,
            name: new.name,
            purpose: new.purpose.name().to_owned(),
            created_ms: new.created.as_millis(),
            expires_ms: new.expires.map(Timestamp::as_millis),
            runs: new.runs,
        };
        // Not left to the store to expire: its content would stay. One that is there is this one, placed before.
        self.place(&shelf(tenant), &new.id, &file, None, None).await?;
        if let Some(expires) = new.expires {
            self.put_down(&Errand::new(Kind::File, tenant, &new.id), expires).await?;
        }
        Ok(file)
    }

    /// Makes a file what it is to be now, if it was something else before: a batch's answers grow.
    pub(crate) async fn put_file(&self, tenant: &TenantId, new: NewFile) -> PortResult<()> {
        loop {
            let found = self.ports.shelf.find(&shelf(tenant), &new.id).await?;
            let Some(found) = found else {
                return self.make_file(tenant, new).await.map(|_| ());
            };
            let before = StoredFile::read(&found.text)?;
            if before.runs == new.runs || before.has_ended(self.ports.clock.now()) {
                return Ok(());
            }
            // The errand that looks after it finds that it ends later.
            let expires_ms = new.expires.map(Timestamp::as_millis);
            let grown = StoredFile { runs: new.runs.clone(), expires_ms, ..before };
            if self.place(&shelf(tenant), &new.id, &grown, Some(found.version), None).await? {
                return Ok(());
            }
        }
    }

    /// A tenant's file; `None` if there is none, or it has ended.
    pub(crate) async fn find_file(&self, tenant: &TenantId, id: &str) -> PortResult<Option<StoredFile>> {
        if !is_id(id, "file-") {
            return Ok(None);
        }
        let now = self.ports.clock.now();
        let found = self.ports.shelf.find(&shelf(tenant), id).await?;
        let file = found.map(|found| StoredFile::read(&found.text)).transpose()?;
        Ok(file.filter(|file| !file.has_ended(now)))
    }

    pub(crate) async fn show_file(&self, tenant: &TenantId, id: &str) -> Result<File, ApiError> {
        let file = self.find_file(tenant, id).await?.ok_or_else(|| ApiError::no_such_file(id))?;
        Ok(file.shown(id))
    }

    /// A page of a tenant's files.
    pub(crate) async fn list_files(
        &self,
        tenant: &TenantId,
        order: Order,
        after: Option<&str>,
        most: usize,
        purpose: Option<Purpose>,
    ) -> Result<Page<File>, ApiError> {
        let now = self.ports.clock.now();
        let (mut data, mut after) = (Vec::new(), after.map(str::to_owned));
        // One more than is shown says whether there is another page.
        while data.len() <= most {
            let found = self.ports.shelf.walk(&shelf(tenant), order, after.as_deref(), most + 1).await?;
            let is_last = found.len() <= most;
            for one in found {
                let file = StoredFile::read(&one.document.text)?;
                if !file.has_ended(now) && purpose.is_none_or(|purpose| file.purpose() == purpose) {
                    data.push(file.shown(&one.name));
                }
                after = Some(one.name);
            }
            if is_last {
                break;
            }
        }
        let has_more = data.len() > most;
        data.truncate(most);
        Ok(Page::new(data, has_more, |file| &file.id))
    }

    /// The bytes of a tenant's file.
    pub(crate) fn file_bytes(
        self: &Arc<Self>,
        tenant: TenantId,
        file: StoredFile,
    ) -> BoxStream<'static, PortResult<bytes::Bytes>> {
        let service = Arc::clone(self);
        segments(service, tenant, file.runs)
    }

    /// Removes a tenant's file: from now on it has ended, so nobody begins to read what is being removed.
    pub(crate) async fn delete_file(&self, tenant: &TenantId, id: &str) -> Result<FileDeleted, ApiError> {
        let now = self.ports.clock.now();
        if self.find_file(tenant, id).await?.is_none() {
            return Err(ApiError::no_such_file(id));
        }
        // Should this process die half-way, the errand removes the rest.
        self.put_down(&Errand::new(Kind::File, tenant, id), now.after(REMOVED_WITHIN)).await?;
        while let Some(found) = self.ports.shelf.find(&shelf(tenant), id).await? {
            let ended = StoredFile { expires_ms: Some(now.as_millis()), ..StoredFile::read(&found.text)? };
            if self.place(&shelf(tenant), id, &ended, Some(found.version), None).await? {
                break;
            }
        }
        self.tidy_file(tenant, id, now).await?;
        Ok(FileDeleted { id: id.to_owned(), object: "file".to_owned(), deleted: true })
    }

    /// Removes a file that has ended, or what was written of one that never came about.
    pub(crate) async fn tidy_file(&self, tenant: &TenantId, id: &str, now: Timestamp) -> PortResult<Then> {
        let Some(found) = self.ports.shelf.find(&shelf(tenant), id).await? else {
            content::remove_unfinished(self.ports.blobs.as_ref(), tenant, id).await?;
            return Ok(Then::Nothing);
        };
        let file = StoredFile::read(&found.text)?;
        match file.expires() {
            Some(expires) if expires <= now => {
                content::remove(self.ports.blobs.as_ref(), tenant, &file.runs).await?;
                self.ports.shelf.take_away(&shelf(tenant), id).await?;
                Ok(Then::Nothing)
            }
            Some(expires) => Ok(Then::Again(expires)),
            None => Ok(Then::Nothing),
        }
    }
}

/// The segments of runs, one after another, for a reader that outlives the call.
fn segments(service: Arc<Service>, tenant: TenantId, runs: Vec<Run>) -> BoxStream<'static, PortResult<bytes::Bytes>> {
    let state = (service, tenant, runs, 0u64);
    futures_util::stream::try_unfold(state, |(service, tenant, runs, at)| async move {
        let next = content::read(service.ports.blobs.as_ref(), &tenant, &runs, at).next().await.transpose()?;
        Ok(next.map(|bytes| {
            let at = at + bytes.len() as u64;
            (bytes, (service, tenant, runs, at))
        }))
    })
    .boxed()
}
