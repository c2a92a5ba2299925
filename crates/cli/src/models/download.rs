//! Files that arrive whole, checked, several at a time; what an interruption leaves is gone on with.
//!
//! A file grows as `NAME.part` and gets its name when its length and checksum are right. A connection that breaks is
//! made again from where it stopped, as long as each attempt gets further; a hub that asks for patience is given it.
//!
//! Edge cases: a server that cannot begin in the middle sends the file from its start; a checksum that is wrong after
//! parts of several attempts is tried once from the start before it is believed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::hub::{Hub, HubError};
use super::selection::{Checksum, Chosen};
use super::source::Repository;

/// Files on their way at the same time: enough to fill a line that one server's connection does not.
const TOGETHER: usize = 4;

/// Attempts in a row that get no further.
const ATTEMPTS: u32 = 5;

/// The pause before another attempt, doubled each time, and the longest that a hub may ask for.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why a file did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(
        "{path} broke off after {bytes} bytes: {cause}; what has arrived is kept, the same command goes on with it"
    )]
    BrokenOff { path: String, bytes: u64, cause: String },
    #[error("{path} has {found} bytes, but the hub lists {listed}: nothing of it is kept; tell the hub's operator")]
    Length { path: String, found: u64, listed: u64 },
    #[error(
        "{path} has the checksum {found}, but the hub lists {listed}: it was changed on its way or is damaged there; \
         nothing of it is kept, try again or tell the hub's operator"
    )]
    Checksum { path: String, found: String, listed: String },
    #[error("writing {} failed: {source}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// A commit of a repository on a hub.
pub(crate) struct Place<'h> {
    pub(crate) hub: &'h Hub,
    pub(crate) repository: &'h Repository,
    pub(crate) commit: &'h str,
}

impl Place<'_> {
    /// Fetches files into a folder; those that are there already are left as they are.
    ///
    /// # Errors
    /// [`DownloadError`] about the first file that does not arrive.
    pub(crate) async fn fetch(&self, files: &[Chosen], into: &Path) -> Result<(), DownloadError> {
        let bars = MultiProgress::new();
        let fetching = stream::iter(files).map(|chosen| {
            let bar = bars.add(bar(chosen));
            async move {
                let fetched = self.file(chosen, into, &bar).await;
                bar.finish();
                fetched
            }
        });
        fetching.buffer_unordered(TOGETHER).try_collect().await
    }

    async fn file(&self, chosen: &Chosen, into: &Path, bar: &ProgressBar) -> Result<(), DownloadError> {
        let target = into.join(&chosen.target);
        if target.is_file() {
            bar.set_position(chosen.file.bytes);
            return Ok(());
        }
        if let Some(folder) = target.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(write(folder))?;
        }
        let mut partial = Partial::open(&target, chosen).await?;
        let mut was_whole = partial.bytes == 0;
        let mut in_vain = 0;
        loop {
            let before = partial.bytes;
            bar.set_position(before);
            let error = match self.rest(&mut partial, chosen, bar).await {
                Ok(()) => match partial.finish(&target, chosen).await {
                    Err(DownloadError::Checksum { .. } | DownloadError::Length { .. }) if !was_whole => {
                        // Parts of several attempts: perhaps they do not belong together.
                        was_whole = true;
                        partial = Partial::open(&target, chosen).await?;
                        continue;
                    }
                    done => return done,
                },
                Err(error) => error,
            };
            in_vain = if partial.bytes > before { 1 } else { in_vain + 1 };
            let Some(asked) = may_pass(&error).filter(|_| in_vain < ATTEMPTS) else { return Err(error) };
            was_whole &= partial.bytes == 0;
            tokio::time::sleep(asked.unwrap_or(PAUSE * 2u32.pow(in_vain - 1)).min(LONGEST_PAUSE)).await;
        }
    }

    /// Appends what is missing, as far as it comes.
    async fn rest(&self, partial: &mut Partial, chosen: &Chosen, bar: &ProgressBar) -> Result<(), DownloadError> {
        let path = &chosen.file.path;
        if partial.bytes >= chosen.file.bytes {
            return Ok(());
        }
        let mut opened = match self.hub.open(self.repository, self.commit, path, partial.bytes).await {
            // The server's file is shorter than what is here: they do not belong together.
            Err(HubError::Answer { status: 416, .. }) => {
                partial.start_over().await?;
                self.hub.open(self.repository, self.commit, path, 0).await?
            }
            opened => opened?,
        };
        if opened.from != partial.bytes {
            partial.start_over().await?;
            bar.set_position(0);
        }
        loop {
            match opened.response.chunk().await {
                Ok(Some(piece)) => partial.append(&piece).await?,
                Ok(None) => return partial.flush().await,
                Err(error) => {
                    partial.flush().await?;
                    let cause = penstock_service::outward::client::cause(&error);
                    return Err(DownloadError::BrokenOff { path: path.clone(), bytes: partial.bytes, cause });
                }
            }
            bar.set_position(partial.bytes);
            if partial.bytes > chosen.file.bytes {
                return Ok(());
            }
        }
    }
}

/// Whether another attempt may help, and the pause that the hub asks for.
fn may_pass(error: &DownloadError) -> Option<Option<Duration>> {
    match error {
        DownloadError::Hub(error) => error.may_pass(),
        DownloadError::BrokenOff { .. } => Some(None),
        DownloadError::Length { .. } | DownloadError::Checksum { .. } | DownloadError::Write { .. } => None,
    }
}

fn bar(chosen: &Chosen) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{wide_msg} {bytes:>10} of {total_bytes} {binary_bytes_per_sec:>12} {eta:>4}");
    let bar = ProgressBar::new(chosen.file.bytes).with_message(chosen.target.clone());
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn write(path: &Path) -> impl FnOnce(std::io::Error) -> DownloadError {
    let path = path.to_owned();
    move |source| DownloadError::Write { path, source }
}

/// A file that has not arrived whole.
struct Partial {
    path: PathBuf,
    file: File,
    bytes: u64,
    sum: Sum,
    /// What the sum begins with.
    empty: Sum,
}

impl Partial {
    /// What an earlier attempt left, or nothing.
    async fn open(target: &Path, chosen: &Chosen) -> Result<Self, DownloadError> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let path = target.with_file_name(name);
        let file = OpenOptions::new().create(true).truncate(false).read(true).append(true).open(&path).await;
        let empty = Sum::new(chosen);
        let mut partial = Self { file: file.map_err(write(&path))?, path, bytes: 0, sum: empty.clone(), empty };
        let mut buffer = vec![0; 1 << 20];
        loop {
            match partial.file.read(&mut buffer).await.map_err(write(&partial.path))? {
                0 => return Ok(partial),
                read => {
                    partial.sum.update(&buffer[..read]);
                    partial.bytes += read as u64;
                }
            }
        }
    }

    async fn start_over(&mut self) -> Result<(), DownloadError> {
        self.file.set_len(0).await.map_err(write(&self.path))?;
        (self.bytes, self.sum) = (0, self.empty.clone());
        Ok(())
    }

    async fn append(&mut self, piece: &[u8]) -> Result<(), DownloadError> {
        self.file.write_all(piece).await.map_err(write(&self.path))?;
        self.sum.update(piece);
        self.bytes += piece.len() as u64;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), DownloadError> {
        self.file.flush().await.map_err(write(&self.path))
    }

    /// Gives the file its name if it is what the hub lists; else nothing of it is left.
    async fn finish(&mut self, target: &Path, chosen: &Chosen) -> Result<(), DownloadError> {
        let (path, listed) = (chosen.file.path.clone(), chosen.file.bytes);
        let wrong = match &chosen.file.checksum {
            _ if self.bytes != listed => Some(DownloadError::Length { path, found: self.bytes, listed }),
            Some(Checksum::Sha256(sum) | Checksum::GitBlob(sum)) => {
                let found = self.sum.clone().text();
                (found != *sum).then(|| DownloadError::Checksum { path, found, listed: sum.clone() })
            }
            None => None,
        };
        if let Some(wrong) = wrong {
            self.start_over().await?;
            tokio::fs::remove_file(&self.path).await.map_err(write(&self.path))?;
            return Err(wrong);
        }
        // On the disk before it has a name: a name stands for the whole file.
        self.file.sync_all().await.map_err(write(&self.path))?;
        tokio::fs::rename(&self.path, target).await.map_err(write(target))
    }
}

/// A checksum as it grows.
#[derive(Clone)]
enum Sum {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Sum {
    fn new(chosen: &Chosen) -> Self {
        match &chosen.file.checksum {
            Some(Checksum::GitBlob(_)) => Self::GitBlob(Sha1::new_with_prefix(format!("blob {}\0", chosen.file.bytes))),
            Some(Checksum::Sha256(_)) | None => Self::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(bytes),
            Self::GitBlob(sum) => sum.update(bytes),
        }
    }

    fn text(self) -> String {
        let bytes = match self {
            Self::Sha256(sum) => sum.finalize().to_vec(),
            Self::GitBlob(sum) => sum.finalize().to_vec(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::selection::Listed;

    #[test]
    fn a_small_file_s_checksum_is_the_name_git_has_for_it() {
        // `printf hello | git hash-object --stdin`
        let file = Listed { path: "x".into(), bytes: 5, checksum: Some(Checksum::GitBlob(String::new())) };
        let mut sum = Sum::new(&Chosen { file, target: "x".into() });
        sum.update(b"hel");
        sum.update(b"lo");
        assert_eq!(sum.text(), "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0");
    }
}
