//! Uploads: files that come in parts, each by a request of its own, in any order and again if a request broke off.

use std::time::Duration;

use penstock_policy::id::{JobId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_wire::files::{Purpose, Upload, UploadCompletion, UploadPart, UploadRequest};
use serde::{Deserialize, Serialize};

use super::content::{self, Run};
use super::file::{NewFile, file_id, is_id};
use crate::Service;
use crate::agenda::{Errand, Kind, Then};
use crate::error::ApiError;
use crate::ports::{Order, PortError, PortResult, ShelfId};

/// How long an upload may take, as at OpenAI.
const COMPLETED_WITHIN: Duration = Duration::from_secs(3600);

/// Parts of one look.
const TOGETHER: usize = 100;

const VERSION: u32 = 1;

/// An upload as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredUpload {
    v: u32,
    name: String,
    purpose: String,
    bytes: u64,
    created_ms: i64,
    /// For how many seconds the file is kept.
    seconds: Option<u64>,
    state: UploadState,
}

/// How far an upload is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum UploadState {
    Pending,
    /// The file of these runs; with its id, which is fixed before the file is made.
    Completed {
        file: String,
        runs: Vec<Run>,
    },
    Cancelled,
    Expired,
}

impl StoredUpload {
    fn read(text: &str) -> PortResult<Self> {
        let corrupt = |cause: String| PortError::Corrupt { what: "upload", cause };
        let upload: Self = serde_json::from_str(text).map_err(|error| corrupt(error.to_string()))?;
        if upload.v == VERSION { Ok(upload) } else { Err(corrupt("a newer program wrote it".to_owned())) }
    }

    fn purpose(&self) -> Purpose {
        Purpose::of_client(&self.purpose).unwrap_or(Purpose::UserData)
    }

    fn expires(&self) -> Timestamp {
        Timestamp::from_millis(self.created_ms).after(COMPLETED_WITHIN)
    }

    fn shown(&self, id: &str) -> Upload {
        Upload {
            id: id.to_owned(),
            object: "upload".to_owned(),
            bytes: self.bytes,
            created_at: Timestamp::from_millis(self.created_ms).as_secs(),
            expires_at: self.expires().as_secs(),
            filename: self.name.clone(),
            purpose: self.purpose(),
            status: match &self.state {
                UploadState::Pending => "pending",
                UploadState::Completed { .. } => "completed",
                UploadState::Cancelled => "cancelled",
                UploadState::Expired => "expired",
            }
            .to_owned(),
            file: None,
        }
    }
}

fn uploads(tenant: &TenantId) -> ShelfId {
    ShelfId::of_tenant("uploads", tenant)
}

/// Parts stand together by upload: `<upload>-<part>`.
fn parts(tenant: &TenantId) -> ShelfId {
    ShelfId::of_tenant("parts", tenant)
}

fn part_name(upload: &str, part: &str) -> String {
    format!("{upload}-{part}")
}

impl Service {
    pub(super) async fn begin_upload(&self, tenant: &TenantId, ask: UploadRequest) -> Result<Upload, ApiError> {
        let now = self.ports.clock.now();
        let id = format!("upload_{}", JobId::new(now, self.ports.entropy.draw()));
        let upload = StoredUpload {
            v: VERSION,
            name: ask.filename,
            purpose: ask.purpose.name().to_owned(),
            bytes: ask.bytes,
            created_ms: now.as_millis(),
            seconds: ask.seconds,
            state: UploadState::Pending,
        };
        self.put_down(&Errand::new(Kind::Upload, tenant, &id), upload.expires()).await?;
        self.place(&uploads(tenant), &id, &upload, None, None).await?;
        Ok(upload.shown(&id))
    }

    /// A tenant's upload, and the version it was found in.
    async fn find_upload(&self, tenant: &TenantId, id: &str) -> Result<(StoredUpload, u64), ApiError> {
        if !is_id(id, "upload_") {
            return Err(ApiError::no_such_upload(id));
        }
        let found = self.ports.shelf.find(&uploads(tenant), id).await?;
        let found = found.ok_or_else(|| ApiError::no_such_upload(id))?;
        Ok((StoredUpload::read(&found.text)?, found.version))
    }

    /// A tenant's upload that still takes parts.
    pub(super) async fn open_upload(&self, tenant: &TenantId, id: &str) -> Result<(), ApiError> {
        let now = self.ports.clock.now();
        let (upload, _) = self.find_upload(tenant, id).await?;
        if upload.state != UploadState::Pending || upload.expires() <= now {
            return Err(ApiError::upload_closed(&upload.shown(id).status));
        }
        Ok(())
    }

    /// Notes that a part has come.
    pub(super) async fn note_part(
        &self,
        tenant: &TenantId,
        upload: &str,
        part: String,
        run: &Run,
        now: Timestamp,
    ) -> Result<UploadPart, ApiError> {
        self.place(&parts(tenant), &part_name(upload, &part), run, None, None).await?;
        Ok(UploadPart {
            id: part,
            object: "upload.part".to_owned(),
            created_at: now.as_secs(),
            upload_id: upload.to_owned(),
        })
    }

    /// Makes the file of an upload's parts. Repeated, it gives the same file.
    pub(super) async fn complete_upload(
        &self,
        tenant: &TenantId,
        id: &str,
        ask: &UploadCompletion,
    ) -> Result<Upload, ApiError> {
        let now = self.ports.clock.now();
        let (mut upload, version) = self.find_upload(tenant, id).await?;
        match &upload.state {
            UploadState::Completed { .. } => {}
            UploadState::Pending if upload.expires() > now => {
                let runs = self.runs_of(tenant, id, &upload, ask).await?;
                let file = file_id(JobId::new(now, self.ports.entropy.draw()));
                upload.state = UploadState::Completed { file, runs };
                if !self.place(&uploads(tenant), id, &upload, Some(version), None).await? {
                    // Somebody else has just completed or cancelled it.
                    upload = self.find_upload(tenant, id).await?.0;
                }
            }
            UploadState::Pending | UploadState::Cancelled | UploadState::Expired => {}
        }
        let UploadState::Completed { file, runs } = &upload.state else {
            return Err(ApiError::upload_closed(&upload.shown(id).status));
        };
        let created = Timestamp::from_millis(upload.created_ms);
        let new = NewFile {
            id: file.clone(),
            name: upload.name.clone(),
            purpose: upload.purpose(),
            created,
            expires: upload.seconds.map(|seconds| created.after(Duration::from_secs(seconds))),
            runs: runs.clone(),
        };
        let made = self.make_file(tenant, new).await?;
        Ok(Upload { file: Some(made.shown(file)), ..upload.shown(id) })
    }

    async fn runs_of(
        &self,
        tenant: &TenantId,
        id: &str,
        upload: &StoredUpload,
        ask: &UploadCompletion,
    ) -> Result<Vec<Run>, ApiError> {
        let mut runs = Vec::new();
        for part in &ask.part_ids {
            let name = part_name(id, part);
            let found = if is_id(part, "part_") { self.ports.shelf.find(&parts(tenant), &name).await? } else { None };
            let found = found.ok_or_else(|| {
                let message = format!("'part_ids' names '{part}', which is no part of this upload");
                ApiError::invalid("part_ids", "invalid_value", message)
            })?;
            runs.push(read_run(&found.text)?);
        }
        let bytes: u64 = runs.iter().map(|run| run.bytes).sum();
        if bytes != upload.bytes {
            let message = format!("the parts have {bytes} bytes together; {} were announced", upload.bytes);
            return Err(ApiError::invalid("part_ids", "invalid_value", message));
        }
        if let Some(expected) = &ask.md5 {
            let found = content::md5(self.ports.blobs.as_ref(), tenant, &runs).await?;
            if found != *expected {
                let message = format!("the parts have the MD5 {found}: a part is missing, twice there, or damaged");
                return Err(ApiError::invalid("md5", "invalid_value", message));
            }
        }
        Ok(runs)
    }

    pub(super) async fn cancel_upload(&self, tenant: &TenantId, id: &str) -> Result<Upload, ApiError> {
        let (upload, version) = self.find_upload(tenant, id).await?;
        let cancelled = match upload.state {
            UploadState::Cancelled => return Ok(upload.shown(id)),
            UploadState::Pending => StoredUpload { state: UploadState::Cancelled, ..upload },
            UploadState::Completed { .. } | UploadState::Expired => {
                return Err(ApiError::upload_closed(&upload.shown(id).status));
            }
        };
        if !self.place(&uploads(tenant), id, &cancelled, Some(version), None).await? {
            let (upload, _) = self.find_upload(tenant, id).await?;
            return Err(ApiError::upload_closed(&upload.shown(id).status));
        }
        self.put_down(&Errand::new(Kind::Upload, tenant, id), self.ports.clock.now()).await?;
        Ok(cancelled.shown(id))
    }

    /// Removes what was written of a part that never came about. By then its upload is over: a part that did come about is
    /// the upload's, or has gone with it.
    pub(crate) async fn tidy_part(&self, tenant: &TenantId, name: &str) -> PortResult<Then> {
        let Some((upload, part)) = name.split_once('-') else { return Ok(Then::Nothing) };
        let found = self.ports.shelf.find(&uploads(tenant), upload).await?;
        let upload = found.map(|found| StoredUpload::read(&found.text)).transpose()?;
        if let Some(StoredUpload { state: UploadState::Completed { runs, .. }, .. }) = upload
            && runs.iter().any(|run| run.of == part)
        {
            return Ok(Then::Nothing);
        }
        content::remove_unfinished(self.ports.blobs.as_ref(), tenant, part).await?;
        Ok(Then::Nothing)
    }

    /// Ends an upload whose time is over, and removes the parts that became no file.
    pub(crate) async fn tidy_upload(&self, tenant: &TenantId, id: &str, now: Timestamp) -> PortResult<Then> {
        let found = self.ports.shelf.find(&uploads(tenant), id).await?;
        let upload = found.as_ref().map(|found| StoredUpload::read(&found.text)).transpose()?;
        let kept = match (upload, found.map(|found| found.version)) {
            (Some(upload), version) if upload.state == UploadState::Pending => {
                if upload.expires() > now {
                    return Ok(Then::Again(upload.expires()));
                }
                let expired = StoredUpload { state: UploadState::Expired, ..upload };
                if !self.place(&uploads(tenant), id, &expired, version, None).await? {
                    return Ok(Then::Again(now));
                }
                Vec::new()
            }
            (Some(StoredUpload { state: UploadState::Completed { runs, .. }, .. }), _) => runs,
            (Some(_) | None, _) => Vec::new(),
        };
        let mut after = format!("{id}-");
        loop {
            let found = self.ports.shelf.walk(&parts(tenant), Order::Rising, Some(&after), TOGETHER).await?;
            let is_last = found.len() < TOGETHER;
            for part in found {
                if !part.name.starts_with(&format!("{id}-")) {
                    return Ok(Then::Nothing);
                }
                let run = read_run(&part.document.text)?;
                if !kept.contains(&run) {
                    content::remove(self.ports.blobs.as_ref(), tenant, &[run]).await?;
                }
                self.ports.shelf.take_away(&parts(tenant), &part.name).await?;
                after = part.name;
            }
            if is_last {
                return Ok(Then::Nothing);
            }
        }
    }
}

fn read_run(text: &str) -> PortResult<Run> {
    serde_json::from_str(text).map_err(|error| PortError::Corrupt { what: "part", cause: error.to_string() })
}
