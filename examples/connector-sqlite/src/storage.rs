//! The connector: its promises, and how each is kept with transactions.

use plakar_plugin_api::{
    Capabilities, Connector, Error, ErrorKind, Host, Level, ListPage, ObjectInfo, PutMode, PutOptions,
    Result, Settings, Space, check_key, check_prefix,
};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction};

use crate::client::{Database, PIECE_BYTES};
use crate::config::file_path;

/// The size, and the pieces that a range touches, as one statement sees them; without pieces, one row without a number.
const RANGE: &str = "SELECT objects.size, pieces.number, pieces.bytes FROM objects
    LEFT JOIN pieces ON pieces.object = objects.id AND pieces.number BETWEEN ?2 AND ?3
    WHERE objects.key = ?1 ORDER BY pieces.number";

/// The characters of keys all sort before `~`: what starts with a prefix lies between it and the prefix with a `~`.
const PAGE: &str =
    "SELECT key, size FROM objects WHERE key > ?1 AND key >= ?2 AND key < ?2 || '~' ORDER BY key LIMIT ?3";

/// Objects in one SQLite file.
#[derive(Debug)]
pub struct SqliteConnector {
    database: Database,
}

impl Connector for SqliteConnector {
    fn open(location: &str, settings: &Settings, host: Host) -> Result<Self> {
        host.log(Level::Debug, "open", &format!("SQLite {}", rusqlite::version()));
        Ok(Self {
            database: Database::new(file_path(location, settings)?, host),
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_put: true,
            durable_put: true,
            strongly_consistent: true,
            exclusive_create: true,
            max_object_bytes: 1 << 40,
            preferred_pack_bytes: 16 << 20,
            // One writes at a time, the others read or wait.
            concurrency: 4,
        }
    }

    fn probe(&self) -> Result<Capabilities> {
        self.database.read(|connection| {
            let some = connection
                .query_row("SELECT 1 FROM objects LIMIT 1", (), |_| Ok(()))
                .optional();
            some.map_err(self.database.failed("read", "the tables"))?;
            Ok(self.capabilities())
        })
    }

    fn init(&self) -> Result<()> {
        self.database.create()
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        check_prefix(prefix)?;
        let rows = i64::try_from(limit).map_or(i64::MAX, |limit| limit.saturating_add(1));
        let mut objects = self.database.read(|connection| {
            let mut page = connection
                .prepare(PAGE)
                .map_err(self.database.failed("list", "objects"))?;
            page.query_map((start_after, prefix, rows), object_of)
                .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
                .map_err(self.database.failed("list", "objects"))
        })?;
        let more = objects.len() > limit;
        objects.truncate(limit);
        Ok(ListPage { objects, more })
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo> {
        check_key(key)?;
        let found = self.database.read(|connection| {
            let found =
                connection.query_row("SELECT key, size FROM objects WHERE key = ?1", [key], object_of);
            found.optional().map_err(self.database.failed("read", key))
        })?;
        found.ok_or_else(|| self.missing(key))
    }

    fn get_into(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        check_key(key)?;
        let filled = self
            .database
            .read(|connection| self.read_range(connection, key, offset, buffer))?;
        let filled = filled.ok_or_else(|| self.missing(key))?;
        self.database.host().progress(filled as u64);
        Ok(filled)
    }

    fn put(&self, key: &str, bytes: &[u8], options: PutOptions) -> Result<()> {
        check_key(key)?;
        self.database.write(options.durable, |transaction| {
            if options.mode == PutMode::Replace {
                self.remove(transaction, key)?;
            }
            let failed = self.database.failed("write", key);
            let size = number(bytes.len() as u64);
            transaction
                .execute("INSERT INTO objects (key, size) VALUES (?1, ?2)", (key, size))
                .map_err(&failed)?;
            let object = transaction.last_insert_rowid();
            let mut insert = transaction
                .prepare("INSERT INTO pieces VALUES (?1, ?2, ?3)")
                .map_err(&failed)?;
            for (place, piece) in (0_i64..).zip(bytes.chunks(PIECE_BYTES)) {
                self.database.stop_if_cancelled()?;
                insert.execute((object, place, piece)).map_err(&failed)?;
                self.database.host().progress(piece.len() as u64);
            }
            self.database.stop_if_cancelled()
        })
    }

    fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        self.database
            .write(false, |transaction| self.remove(transaction, key))
    }

    fn space(&self) -> Result<Option<Space>> {
        let found = rustix::fs::statvfs(self.database.path()).map_err(|errno| {
            let subject = format!(
                "cannot ask for the free space of {}",
                self.database.path().display()
            );
            Error::io(subject, &errno.into())
        })?;
        Ok(Some(Space {
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            available_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        }))
    }
}

impl SqliteConnector {
    fn missing(&self, key: &str) -> Error {
        Error::new(
            ErrorKind::NotFound,
            format!("no object {key} in {}", self.database.path().display()),
        )
    }

    fn remove(&self, transaction: &Transaction<'_>, key: &str) -> Result<()> {
        let pieces = "DELETE FROM pieces WHERE object = (SELECT id FROM objects WHERE key = ?1)";
        let removed = transaction
            .execute(pieces, [key])
            .and_then(|_| transaction.execute("DELETE FROM objects WHERE key = ?1", [key]));
        removed.map(drop).map_err(self.database.failed("delete", key))
    }

    /// Fills the buffer from `offset` on; `None` when there is no such object.
    fn read_range(
        &self,
        connection: &Connection,
        key: &str,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<Option<usize>> {
        let failed = self.database.failed("read", key);
        let last = offset.saturating_add(buffer.len() as u64) / PIECE_BYTES as u64;
        let mut statement = connection.prepare(RANGE).map_err(&failed)?;
        let mut rows = statement
            .query((key, number(offset / PIECE_BYTES as u64), number(last)))
            .map_err(&failed)?;
        let (mut size, mut filled) = (None, 0);
        while let Some(row) = rows.next().map_err(&failed)? {
            size = Some(row.get::<_, i64>(0).map_err(&failed)?.cast_unsigned());
            filled += self.copy_piece(
                key,
                row,
                offset.saturating_add(filled as u64),
                &mut buffer[filled..],
            )?;
        }
        let Some(size) = size else { return Ok(None) };
        if filled as u64 == size.saturating_sub(offset).min(buffer.len() as u64) {
            Ok(Some(filled))
        } else {
            Err(damaged(key))
        }
    }

    /// Copies what the piece in `row` has from `offset` (of the object) on. A piece that is missing or short is damage.
    fn copy_piece(&self, key: &str, row: &Row<'_>, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let failed = self.database.failed("read", key);
        let size = row.get::<_, i64>(0).map_err(&failed)?.cast_unsigned();
        if buffer.is_empty() || offset >= size {
            return Ok(0);
        }
        let (place, within) = (offset / PIECE_BYTES as u64, offset % PIECE_BYTES as u64);
        let wanted = (size - place * PIECE_BYTES as u64).min(PIECE_BYTES as u64);
        let piece = row.get_ref(2).map_err(&failed)?.as_blob_or_null();
        let piece = piece
            .ok()
            .flatten()
            .filter(|piece| piece.len() as u64 == wanted)
            .ok_or_else(|| damaged(key))?;
        if row.get::<_, i64>(1).map_err(&failed)? != number(place) {
            return Err(damaged(key));
        }
        let from = usize::try_from(within)
            .ok()
            .and_then(|within| piece.get(within..))
            .ok_or_else(|| damaged(key))?;
        let length = from.len().min(buffer.len());
        buffer[..length].copy_from_slice(&from[..length]);
        Ok(length)
    }
}

fn damaged(key: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("a piece of {key} is missing or has another size"),
    )
}

fn object_of(row: &Row<'_>) -> rusqlite::Result<ObjectInfo> {
    Ok(ObjectInfo {
        key: row.get(0)?,
        size_bytes: row.get::<_, i64>(1)?.cast_unsigned(),
    })
}

/// SQLite's integers have a sign; no offset or size that exists is beyond them.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
