//! Connections to one database file: opened when needed, kept, and patient with other writers.
//!
//! It knows the schema, and not what a call of the contract means.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use plakar_plugin_api::{Error, ErrorKind, Host, Result};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::error::{foreign, sqlite_error};

/// Marks a database as ours: `plkr`.
const APPLICATION_ID: i32 = 0x706c_6b72;
/// Bytes of an object are kept in pieces of this size: a range reads the pieces it touches, not all before it.
pub(crate) const PIECE_BYTES: usize = 256 << 10;

/// SQLite waits so long for a lock before we look whether the host wants to stop.
const BUSY_STEP: Duration = Duration::from_millis(250);
/// After so long the host is told, and decides.
const BUSY_LIMIT: Duration = Duration::from_mins(1);

/// Pages of 16 KiB: a piece is a chain of 16 of them.
const SCHEMA: &str = "
    CREATE TABLE objects (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, size INTEGER NOT NULL) STRICT;
    CREATE TABLE pieces (
        object INTEGER NOT NULL, number INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (object, number)
    ) STRICT;
    PRAGMA application_id = 0x706c6b72;
    PRAGMA user_version = 1;";

/// A database file, by its path. It need not exist yet.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    host: Host,
    idle: Mutex<Vec<Opened>>,
}

#[derive(Debug)]
struct Opened {
    connection: Connection,
    /// Device and inode: another file of the same name is another database.
    file: (u64, u64),
}

impl Database {
    pub(crate) fn new(path: PathBuf, host: Host) -> Self {
        Self {
            path,
            host,
            idle: Mutex::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn failed(&self, doing: &str, what: &str) -> impl Fn(rusqlite::Error) -> Error {
        move |error| sqlite_error(doing, what, &self.path, &error)
    }

    pub(crate) fn stop_if_cancelled(&self) -> Result<()> {
        if self.host.cancelled() {
            Err(Error::new(ErrorKind::Cancelled, "stopped as asked"))
        } else {
            Ok(())
        }
    }

    /// Runs `work` on a connection; again, while others hold the lock that it needs.
    pub(crate) fn read<T>(&self, mut work: impl FnMut(&Connection) -> Result<T>) -> Result<T> {
        let opened = self.connection()?;
        let outcome = self.patiently(|| work(&opened.connection));
        self.give_back(opened);
        outcome
    }

    /// Runs `work` as one transaction that alone writes. After an error nothing of it stays.
    ///
    /// The rollback journal is SQLite's default and ours: large objects are new pages, which it writes once and not twice, readers
    /// write nothing, one file is left. Its end is the removal of a file: `EXTRA` syncs the folder after that, so that a commit
    /// stays one. Without `durable` that one sync is saved; less than `FULL` could cost the whole database, not one object.
    pub(crate) fn write<T>(
        &self,
        durable: bool,
        work: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let opened = self.connection()?;
        let outcome = self.commit(&opened.connection, durable, work);
        self.give_back(opened);
        outcome
    }

    fn commit<T>(
        &self,
        connection: &Connection,
        durable: bool,
        work: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let failed = self.failed("write", "");
        let level = if durable { "EXTRA" } else { "FULL" };
        self.patiently(|| {
            connection
                .pragma_update(None, "synchronous", level)
                .map_err(&failed)
        })?;
        let begin =
            || Transaction::new_unchecked(connection, TransactionBehavior::Immediate).map_err(&failed);
        let transaction = self.patiently(begin)?;
        let result = work(&transaction)?;
        // Readers may be in the way of a commit: it can be tried again. Dropped without one, a transaction is rolled back.
        self.patiently(|| transaction.execute_batch("COMMIT").map_err(&failed))?;
        Ok(result)
    }

    fn patiently<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        loop {
            self.stop_if_cancelled()?;
            match attempt() {
                Err(error) if error.kind == ErrorKind::Transient && begun.elapsed() < BUSY_LIMIT => {}
                outcome => return outcome,
            }
        }
    }

    /// A connection to the file that has the path now. A missing file is `NotFound`, one of others `Config`.
    fn connection(&self) -> Result<Opened> {
        let file = self.identity()?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|opened| opened.file == file);
        let kept = idle.pop();
        drop(idle);
        kept.map_or_else(|| self.open(file), Ok)
    }

    fn give_back(&self, opened: Opened) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(opened);
    }

    fn identity(&self) -> Result<(u64, u64)> {
        let found = fs::metadata(&self.path)
            .map_err(|error| Error::io(format_args!("cannot open {}", self.path.display()), &error))?;
        if found.is_file() {
            Ok((found.dev(), found.ino()))
        } else {
            Err(foreign(&self.path, "is not a file"))
        }
    }

    fn open(&self, file: (u64, u64)) -> Result<Opened> {
        let connection = self.connect()?;
        let (id, version, tables) = self.patiently(|| self.marks(&connection))?;
        match (id, tables) {
            (APPLICATION_ID, _) => {}
            (0, 0) => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("{} is empty", self.path.display()),
                ));
            }
            _ => return Err(foreign(&self.path, "is a database of another program")),
        }
        if version == 1 {
            Ok(Opened { connection, file })
        } else {
            Err(foreign(
                &self.path,
                &format!("has version {version}, this connector knows 1: use a newer one"),
            ))
        }
    }

    /// Application, version and number of tables, all of one moment: another process may be making them.
    fn marks(&self, connection: &Connection) -> Result<(i32, i32, i64)> {
        let one_state = Transaction::new_unchecked(connection, TransactionBehavior::Deferred)
            .map_err(self.failed("read", "the tables"))?;
        Ok((
            self.pragma(&one_state, "application_id")?,
            self.pragma(&one_state, "user_version")?,
            self.count_tables(&one_state)?,
        ))
    }

    fn connect(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(&self.path, flags).map_err(self.failed("open", "the tables"))?;
        let set = || {
            connection.busy_timeout(BUSY_STEP)?;
            connection.pragma_update(None, "cell_size_check", true)?;
            connection.pragma_update(None, "trusted_schema", false)?;
            connection.pragma_update(None, "cache_size", -4096)
        };
        self.patiently(|| set().map_err(self.failed("open", "the tables")))?;
        Ok(connection)
    }

    fn pragma(&self, connection: &Connection, name: &str) -> Result<i32> {
        connection
            .pragma_query_value(None, name, |row| row.get(0))
            .map_err(self.failed("read", name))
    }

    fn count_tables(&self, connection: &Connection) -> Result<i64> {
        connection
            .query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))
            .map_err(self.failed("read", "the tables"))
    }

    /// Makes the file and its tables. A database with objects is `AlreadyExists`, one of others `Config`.
    pub(crate) fn create(&self) -> Result<()> {
        let failed = |error| Error::io(format_args!("cannot create {}", self.path.display()), &error);
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(failed)?;
        if !self.path.exists() {
            let made = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&self.path);
            made.map(drop).or_else(|error| {
                if self.path.is_file() {
                    Ok(())
                } else {
                    Err(failed(error))
                }
            })?;
        }
        match self.connection() {
            Err(Error {
                kind: ErrorKind::NotFound,
                ..
            }) => self.create_tables()?,
            opened => self.give_back(opened?),
        }
        folder
            .ancestors()
            .try_for_each(|above| File::open(above)?.sync_all())
            .map_err(failed)?;
        self.read(|connection| {
            let one = connection.query_row(
                "SELECT count(*) FROM (SELECT 1 FROM objects LIMIT 1)",
                (),
                |row| row.get(0),
            );
            match one.map_err(self.failed("read", "the tables"))? {
                0 => Ok(()),
                1.. => Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("{} is not empty", self.path.display()),
                )),
                i64::MIN..0 => Err(Error::new(ErrorKind::Corrupt, "a count below zero")),
            }
        })
    }

    fn create_tables(&self) -> Result<()> {
        let connection = self.connect()?;
        self.patiently(|| {
            connection
                .pragma_update(None, "page_size", 16384)
                .map_err(self.failed("create", "the tables"))
        })?;
        self.commit(&connection, true, |transaction| {
            if self.count_tables(transaction)? > 0 {
                return Ok(()); // another process was faster
            }
            transaction
                .execute_batch(SCHEMA)
                .map_err(self.failed("create", "the tables"))
        })
    }
}
