//! The database: schema, the writer with group commit, the readers, the checkpointer.
//!
//! In a file: write-ahead log; one thread writes, one moves the log into the database so that the other need not. A
//! call's answer is sent only after the commit it belongs to, so whoever has an answer reads it back. Readers read where
//! they are: a look-up by key takes some microseconds, waking another thread for it and being woken takes several times
//! that. Without
//! `--fsync` (`synchronous=NORMAL`) a commit survives the death of the process and the loss of at most the last
//! moments at a power cut; with it (`FULL`) it survives a power cut.
//!
//! In memory: no threads; each call is its own transaction.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use penstock_service::ports::{PortError, PortResult};
use rusqlite::Connection;
use tokio::sync::oneshot;

/// The schema, one step a version; `PRAGMA user_version` counts the steps taken. Steps are never edited, only added.
const MIGRATIONS: &[&str] = &[
    include_str!("schema.sql"),
    // What a chunk says beyond plain text, as JSON.
    "ALTER TABLE chunk ADD COLUMN more TEXT;",
    include_str!("schema_3.sql"),
    // What happened to a job, as JSON, penstock_service::stored::story.
    "ALTER TABLE job ADD COLUMN story TEXT;",
    include_str!("schema_holds.sql"),
    // What an owner knows a key by, and a tenant's keys together.
    "ALTER TABLE api_key ADD COLUMN label TEXT NOT NULL DEFAULT '';
     ALTER TABLE api_key ADD COLUMN created INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE api_key ADD COLUMN used INTEGER;
     CREATE INDEX api_key_tenant ON api_key (tenant);",
    include_str!("schema_kept.sql"),
    include_str!("schema_fair.sql"),
    // Whether a job's words are removed.
    "ALTER TABLE job ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;",
    include_str!("schema_parked.sql"),
    include_str!("schema_shelf.sql"),
    // Jobs that the reconciler looks at.
    "CREATE INDEX job_open ON job (id) WHERE state IN ('Q', 'R') OR unsettled = 1;",
];

/// The most calls committed together: bounds the delay of the first one.
const GROUP: usize = 256;

/// Commits between two checkpoints.
const COMMITS_PER_CHECKPOINT: u32 = 256;

/// Connections that read: more callers than these are seldom on a processor at once.
const READERS: usize = 4;

/// What a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process.
    Process,
    /// The loss of power.
    Power,
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite says no.
    #[error("the database {path} cannot be opened: {source}; is it on a full or read-only disk, or no database?")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Its words.
        #[source]
        source: rusqlite::Error,
    },
    /// Its folder cannot be written.
    #[error("the data folder of {path} cannot be written: {source}; name another with --data DIR")]
    Folder {
        /// The file.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("the data folder is in use: {path} is locked by another process; stop it, or name another with --data DIR")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It was written by a newer version.
    #[error("the database {path} has schema version {found}, this program knows up to {known}: use the newer program")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// Ours.
        known: usize,
    },
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
}

type Work = Box<dyn FnOnce(&Connection) -> Reply + Send>;
type Reply = Box<dyn FnOnce(&Connection, Result<(), String>) + Send>;

/// The database.
pub(crate) enum Store {
    File {
        writer: Lane,
        readers: Readers,
        /// Held as long as the database is open: a second process would not hear our bells.
        _lock: File,
    },
    Memory(Mutex<Connection>),
}

/// Connections that only read, each used by one caller at a time.
pub(crate) struct Readers {
    connections: Vec<Mutex<Connection>>,
    /// Where the next caller begins to look for a free one.
    turn: AtomicUsize,
}

/// A thread with a connection, and the way to it.
pub(crate) struct Lane {
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    pub(crate) fn open(path: &Path, durability: Durability) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Sqlite { path: path.to_owned(), source };
        let lock = lock(path)?;
        let writing = Connection::open(path).map_err(failed)?;
        let synchronous = match durability {
            Durability::Process => "NORMAL",
            Durability::Power => "FULL",
        };
        configure(&writing, synchronous).map_err(failed)?;
        migrate(&writing, path)?;
        let readers = Readers::open(path, synchronous).map_err(failed)?;
        let checkpointing = Connection::open(path).map_err(failed)?;
        configure(&checkpointing, synchronous).map_err(failed)?;
        let (ring, rung) = mpsc::sync_channel::<()>(1);
        start("sqlite-checkpoint", move || {
            while rung.recv().is_ok() {
                if let Err(error) = checkpointing.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
                    tracing::warn!(%error, "checkpoint failed");
                }
            }
        })?;
        let mut commits = 0u32;
        let after_commit = move || {
            commits += 1;
            if commits >= COMMITS_PER_CHECKPOINT {
                commits = 0;
                // A full channel means that one is under way.
                let _ = ring.try_send(());
            }
        };
        Ok(Self::File { writer: Lane::start("sqlite-writer", writing, after_commit)?, readers, _lock: lock })
    }

    pub(crate) fn in_memory() -> Result<Self, OpenError> {
        let path = Path::new(":memory:");
        let connection =
            Connection::open_in_memory().map_err(|source| OpenError::Sqlite { path: path.to_owned(), source })?;
        migrate(&connection, path)?;
        Ok(Self::Memory(Mutex::new(connection)))
    }

    /// Runs `work` in a transaction; returns after its commit. An error of `work` undoes all it did.
    pub(crate) async fn write<R, F>(&self, work: F) -> PortResult<R>
    where
        R: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<R> + Send + 'static,
    {
        match self {
            Self::File { writer, .. } => writer.run(work).await,
            Self::Memory(connection) => {
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                in_transaction(&connection, "BEGIN IMMEDIATE", "COMMIT", "ROLLBACK", work).map_err(failure)
            }
        }
    }

    /// Runs `work`, which only reads, and not much: the caller's thread does nothing else meanwhile. Sees every write that
    /// was answered before.
    pub(crate) async fn read<R, F>(&self, work: F) -> PortResult<R>
    where
        R: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<R> + Send + 'static,
    {
        match self {
            Self::File { readers, .. } => readers.read(work),
            Self::Memory(connection) => {
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                work(&connection).map_err(failure)
            }
        }
    }
}

impl Readers {
    fn open(path: &Path, synchronous: &str) -> rusqlite::Result<Self> {
        let open = || -> rusqlite::Result<Mutex<Connection>> {
            let connection = Connection::open(path)?;
            configure(&connection, synchronous)?;
            connection.pragma_update(None, "query_only", true)?;
            Ok(Mutex::new(connection))
        };
        let connections = (0..READERS).map(|_| open()).collect::<rusqlite::Result<_>>()?;
        Ok(Self { connections, turn: AtomicUsize::new(0) })
    }

    fn read<R>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<R>) -> PortResult<R> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let at = |offset: usize| &self.connections[first.wrapping_add(offset) % self.connections.len()];
        let free = (0..READERS).find_map(|offset| at(offset).try_lock().ok());
        let connection = free.unwrap_or_else(|| at(0).lock().unwrap_or_else(PoisonError::into_inner));
        // One transaction a call: its first read fixes what all of it sees.
        in_transaction(&connection, "BEGIN", "COMMIT", "ROLLBACK", work).map_err(failure)
    }
}

impl Lane {
    fn start(
        name: &str,
        connection: Connection,
        mut after_commit: impl FnMut() + Send + 'static,
    ) -> Result<Self, OpenError> {
        let (sender, inbox) = mpsc::channel::<Work>();
        let thread = start(name, move || {
            while let Ok(first) = inbox.recv() {
                let group = std::iter::once(first).chain(inbox.try_iter().take(GROUP - 1));
                commit_group(&connection, group);
                after_commit();
            }
        })?;
        Ok(Self { work: Some(sender), thread: Some(thread) })
    }

    async fn run<R, F>(&self, work: F) -> PortResult<R>
    where
        R: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<R> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let boxed: Work = Box::new(move |connection| {
            let result =
                in_transaction(connection, "SAVEPOINT call", "RELEASE call", "ROLLBACK TO call; RELEASE call", work);
            Box::new(move |_, committed| {
                let result = match committed {
                    Ok(()) => result.map_err(failure),
                    Err(cause) => Err(PortError::Unavailable { store: "sqlite", cause }),
                };
                // The caller may have gone.
                let _ = answer.send(result);
            })
        });
        let gone = || PortError::Unavailable { store: "sqlite", cause: "its thread has ended".to_owned() };
        self.work.as_ref().ok_or_else(gone)?.send(boxed).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Store {
    /// Rewrites the database without the bytes of what was deleted, and empties the log. Calls that come meanwhile wait
    /// for it, a second or so for each gigabyte.
    pub(crate) async fn compact(&self) -> PortResult<()> {
        match self {
            Self::File { writer, .. } => writer.after_commit(compact).await,
            Self::Memory(connection) => {
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                connection.execute_batch("VACUUM").map_err(failure)
            }
        }
    }
}

impl Lane {
    /// Runs `work` outside any transaction, before the next one begins.
    async fn after_commit(&self, work: fn(&Connection) -> rusqlite::Result<()>) -> PortResult<()> {
        let (answer, answered) = oneshot::channel();
        let boxed: Work = Box::new(move |_| {
            Box::new(move |connection, _| {
                // The caller may have gone.
                let _ = answer.send(work(connection).map_err(failure));
            })
        });
        let gone = || PortError::Unavailable { store: "sqlite", cause: "its thread has ended".to_owned() };
        self.work.as_ref().ok_or_else(gone)?.send(boxed).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            // What was sent before is committed before the thread ends.
            let _ = thread.join();
        }
    }
}

fn compact(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("VACUUM")?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let unopened = |error| OpenError::Folder { path: path.to_owned(), source: error };
    let file = File::options().create(true).append(true).open(path.with_extension("lock")).map_err(unopened)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(unopened(error)),
    }
}

fn start(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(OpenError::Thread)
}

fn commit_group(connection: &Connection, group: impl Iterator<Item = Work>) {
    let begun = run(connection, "BEGIN IMMEDIATE");
    let replies: Vec<Reply> = group.map(|work| work(connection)).collect();
    let committed = begun.and_then(|()| run(connection, "COMMIT")).map_err(|error| {
        // Leaves the connection fit for the next group; there may be nothing to undo.
        let _ = connection.execute_batch("ROLLBACK");
        error.to_string()
    });
    for reply in replies {
        reply(connection, committed.clone());
    }
}

/// Runs a statement that stays prepared: parsing it takes longer than carrying it out.
fn run(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute([]).map(|_| ())
}

fn in_transaction<R>(
    connection: &Connection,
    begin: &str,
    commit: &str,
    undo: &str,
    work: impl FnOnce(&Connection) -> rusqlite::Result<R>,
) -> rusqlite::Result<R> {
    run(connection, begin)?;
    match work(connection) {
        Ok(result) => run(connection, commit).map(|()| result),
        Err(error) => {
            connection.execute_batch(undo)?;
            Err(error)
        }
    }
}

fn configure(connection: &Connection, synchronous: &str) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn migrate(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let found = found as usize;
    if found > MIGRATIONS.len() {
        return Err(OpenError::Newer { path: path.to_owned(), found, known: MIGRATIONS.len() });
    }
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(found) {
        let step = format!("BEGIN IMMEDIATE; {sql}; PRAGMA user_version = {}; COMMIT", index + 1);
        connection.execute_batch(&step).map_err(failed)?;
    }
    Ok(())
}

fn failure(error: rusqlite::Error) -> PortError {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull, SystemIoFailure};
    let cause = error.to_string();
    match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked | DiskFull | SystemIoFailure) => {
            PortError::Unavailable { store: "sqlite", cause }
        }
        Some(_) => PortError::Refused { store: "sqlite", cause },
        // No code of SQLite's own: a value that cannot be read as what it should be.
        None => PortError::Corrupt { what: "row", cause },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn a_failed_call_is_undone_and_its_neighbours_in_the_group_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("db"), Durability::Process).unwrap();
        block(async {
            store.write(|c| c.execute_batch("CREATE TABLE t (x)")).await.unwrap();
            let good = store.write(|c| c.execute("INSERT INTO t VALUES (1)", []));
            let bad = store.write(|c| c.execute_batch("INSERT INTO t VALUES (2); INSERT INTO nowhere VALUES (3)"));
            let (good, bad) = futures_util::future::join(good, bad).await;
            assert!(good.is_ok() && bad.is_err());
            let count: i64 = store.read(|c| c.query_row("SELECT count(*) FROM t", [], |row| row.get(0))).await.unwrap();
            assert_eq!(count, 1);
        });
    }

    #[test]
    fn a_read_sees_every_write_that_was_answered_before_it_was_asked() {
        let folder = tempfile::tempdir().unwrap();
        let store = std::sync::Arc::new(Store::open(&folder.path().join("db"), Durability::Process).unwrap());
        block(store.write(|c| c.execute_batch("CREATE TABLE t (hand, n)"))).unwrap();
        let hands: Vec<_> = (0..8i64)
            .map(|hand| {
                let store = std::sync::Arc::clone(&store);
                std::thread::spawn(move || {
                    for n in 1..=200i64 {
                        block(store.write(move |c| c.execute("INSERT INTO t VALUES (?, ?)", [hand, n]))).unwrap();
                        let seen = block(store.read(move |c| {
                            c.query_row("SELECT max(n) FROM t WHERE hand = ?", [hand], |row| row.get::<_, i64>(0))
                        }));
                        assert_eq!(seen.unwrap(), n);
                    }
                })
            })
            .collect();
        hands.into_iter().for_each(|hand| hand.join().unwrap());
    }

    #[test]
    fn what_was_answered_is_there_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let store = Store::open(&path, Durability::Process).unwrap();
        block(store.write(|c| c.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)"))).unwrap();
        drop(store);
        let store = Store::open(&path, Durability::Power).unwrap();
        let count: i64 = block(store.read(|c| c.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))).unwrap();
        assert_eq!(count, 1);
    }

    #[test]
    fn a_second_process_is_kept_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let _first = Store::open(&path, Durability::Process).unwrap();
        assert!(matches!(Store::open(&path, Durability::Process), Err(OpenError::InUse { .. })));
    }

    #[test]
    fn a_database_of_a_newer_program_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Store::open(&path, Durability::Process), Err(OpenError::Newer { found: 99, .. })));
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        std::fs::write(&path, vec![b'x'; 4096]).unwrap();
        let error = Store::open(&path, Durability::Process).err().unwrap();
        assert!(error.to_string().contains("db"), "{error}");
    }

    #[test]
    fn tenants_and_pools_of_the_second_schema_become_documents() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(MIGRATIONS[0]).unwrap();
        connection.execute_batch(MIGRATIONS[1]).unwrap();
        connection.pragma_update(None, "user_version", 2).unwrap();
        connection
            .execute_batch(
                "INSERT INTO tenant VALUES ('acme', 'p1', 1000, 60, 10, 600);
                 INSERT INTO pool VALUES ('main', 'say \"m\"', 4096, 0.25, 99, 5)",
            )
            .unwrap();
        migrate(&connection, Path::new("memory")).unwrap();
        let record = |table: &str| -> String {
            connection.query_row(&format!("SELECT record FROM {table}"), [], |row| row.get(0)).unwrap()
        };
        let tenant = penstock_policy::id::TenantId::new("acme").unwrap();
        let tenant = penstock_service::stored::control::tenant_from(&tenant, &record("tenant")).unwrap();
        assert_eq!((tenant.limits.requests.period_ns(), tenant.limits.tokens.burst()), (1000, 600));
        let pool = penstock_policy::id::PoolId::new("main").unwrap();
        let pool = penstock_service::stored::control::pool_from(&pool, &record("pool")).unwrap();
        assert_eq!((pool.model.as_str(), pool.usual_output_tokens, pool.tokens_per_byte), ("say \"m\"", 99, 0.25));
    }

    #[test]
    fn a_database_of_the_first_schema_gets_the_next_and_keeps_what_it_held() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(MIGRATIONS[0]).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        connection
            .execute("INSERT INTO chunk (job, epoch, seq, ids, text) VALUES ('j', 1, 0, x'07000000', 'said')", [])
            .unwrap();
        migrate(&connection, Path::new("memory")).unwrap();
        let (text, more): (String, Option<String>) =
            connection.query_row("SELECT text, more FROM chunk", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!((text.as_str(), more), ("said", None));
    }
}
