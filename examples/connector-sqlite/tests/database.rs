//! What is special about a database: processes that share it, crashes, damage, a full disk, files that are something else.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use plakar_connector_sqlite::SqliteConnector;
use plakar_plugin_api::{Connector, ErrorKind, Host, PutMode, PutOptions, Result, Settings};
use tempfile::TempDir;

const BIG: usize = 32 << 20;

fn place() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

fn open(file: &Path) -> SqliteConnector {
    let location = format!("sqlite://{}", file.display());
    SqliteConnector::open(&location, &Settings::new(), Host::none()).unwrap()
}

fn created(folder: &TempDir) -> SqliteConnector {
    let storage = open(&folder.path().join("x.db"));
    storage.init().unwrap();
    storage
}

fn put(storage: &SqliteConnector, key: &str, bytes: &[u8]) -> Result<()> {
    storage.put(
        key,
        bytes,
        PutOptions {
            mode: PutMode::Create,
            durable: true,
            blake3: [0; 32],
        },
    )
}

fn read(storage: &SqliteConnector, key: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let filled = storage.get_into(key, offset, &mut buffer)?;
    buffer.truncate(filled);
    Ok(buffer)
}

/// Bytes that tell where they are.
fn content(length: usize) -> Vec<u8> {
    (0..=length / 4)
        .flat_map(|word| u32::try_from(word).unwrap().to_le_bytes())
        .take(length)
        .collect()
}

/// Runs the test `writer` of this program as a process of its own.
fn start_writer(file: &Path, name: &str, length: usize, count: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--ignored"])
        .envs([("WRITER_FILE", file.to_str().unwrap()), ("WRITER_NAME", name)])
        .envs([
            ("WRITER_LENGTH", length.to_string()),
            ("WRITER_COUNT", count.to_string()),
        ])
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "run by other tests, as a process"]
fn writer() {
    let variable = |name| std::env::var(name).unwrap();
    let storage = open(Path::new(&variable("WRITER_FILE")));
    let bytes = content(variable("WRITER_LENGTH").parse().unwrap());
    for number in 0..variable("WRITER_COUNT").parse().unwrap() {
        put(&storage, &format!("{}/{number}", variable("WRITER_NAME")), &bytes).unwrap();
    }
}

#[test]
fn processes_share_the_file() {
    let folder = place();
    let storage = created(&folder);
    let file = folder.path().join("x.db");
    let mut writers: Vec<Child> = ["a", "b", "c"]
        .map(|name| start_writer(&file, name, 700_000, 20))
        .into();
    while writers
        .iter_mut()
        .any(|writer| writer.try_wait().unwrap().is_none())
    {
        for object in storage.list("", "", 1000).unwrap().objects {
            assert_eq!(
                read(&storage, &object.key, 0, 800_000).unwrap().len(),
                700_000,
                "{}",
                object.key
            );
        }
    }
    assert!(writers.iter_mut().all(|writer| writer.wait().unwrap().success()));
    assert_eq!(storage.list("", "", 1000).unwrap().objects.len(), 60);
}

#[test]
fn a_killed_writer_leaves_whole_objects_and_the_next_one_goes_on() {
    let folder = place();
    let storage = created(&folder);
    let file = folder.path().join("x.db");
    let bytes = content(BIG);
    let mut interrupted = 0;
    for round in 0..8_u64 {
        let mut killed = start_writer(&file, &format!("killed{round}"), BIG, 1000);
        while !folder.path().join("x.db-journal").exists() {
            assert!(killed.try_wait().unwrap().is_none(), "the writer ended by itself");
        }
        std::thread::sleep(Duration::from_millis(round * 5));
        killed.kill().unwrap();
        killed.wait().unwrap();
        interrupted += usize::from(folder.path().join("x.db-journal").exists());
        for object in storage.list("", "", 1000).unwrap().objects {
            assert_eq!(
                object.size_bytes,
                if object.key.starts_with("alive") {
                    3
                } else {
                    BIG as u64
                }
            );
            let stored = read(&storage, &object.key, 0, BIG).unwrap();
            assert!(
                object.key.starts_with("alive") || stored == bytes,
                "{} is torn",
                object.key
            );
        }
        put(&storage, &format!("alive{round}"), b"yes").unwrap();
        for object in storage.list("killed", "", 1000).unwrap().objects {
            storage.delete(&object.key).unwrap();
        }
    }
    assert!(interrupted > 0, "no writer was killed within a transaction");
    let check = Command::new("sqlite3")
        .arg(&file)
        .arg("PRAGMA integrity_check")
        .output();
    if let Ok(check) = check {
        assert_eq!(String::from_utf8_lossy(&check.stdout).trim(), "ok");
    }
}

/// Bytes this process has asked the system for, so far.
fn bytes_read() -> u64 {
    let counters = fs::read_to_string("/proc/self/io").unwrap();
    counters
        .lines()
        .find_map(|line| line.strip_prefix("rchar: "))
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
#[ignore = "run by another test, as a process"]
fn reader_of_ranges() {
    let storage = open(Path::new(&std::env::var("READER_FILE").unwrap()));
    let bytes = content(BIG);
    let before = bytes_read();
    for offset in [0, 1, 262_143, 262_144, BIG / 2 - 500, BIG - 1000, BIG - 1] {
        let got = read(&storage, "big", offset as u64, 1000).unwrap();
        assert_eq!(got, bytes[offset..(offset + 1000).min(BIG)], "at {offset}");
    }
    let cost = bytes_read() - before;
    assert!(
        cost < 4 << 20,
        "seven ranges of 1000 bytes read {cost} bytes of the file"
    );
}

#[test]
fn a_range_reads_only_the_pieces_it_touches() {
    let folder = place();
    put(&created(&folder), "big", &content(BIG)).unwrap();
    let reader = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reader_of_ranges", "--ignored"])
        .env("READER_FILE", folder.path().join("x.db"))
        .output()
        .unwrap();
    assert!(
        reader.status.success(),
        "{}",
        String::from_utf8_lossy(&reader.stdout)
    );
}

#[test]
fn init_creates_folders_once_and_refuses_what_is_not_empty() {
    let folder = place();
    let storage = open(&folder.path().join("a/b/x.db"));
    assert_eq!(storage.probe().unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(storage.list("", "", 1).unwrap_err().kind, ErrorKind::NotFound);
    storage.init().unwrap();
    storage.init().expect("an interrupted creation may go on");
    put(&storage, "a", b"x").unwrap();
    assert_eq!(storage.init().unwrap_err().kind, ErrorKind::AlreadyExists);
    assert_eq!(
        read(&open(&folder.path().join("a/b/x.db")), "a", 0, 9).unwrap(),
        b"x"
    );
}

#[test]
fn several_may_create_the_same_file() {
    for _ in 0..100 {
        let folder = place();
        std::thread::scope(|scope| {
            let creators: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| open(&folder.path().join("x.db")).init()))
                .collect();
            for creator in creators {
                creator.join().unwrap().expect("another creator is no obstacle");
            }
        });
    }
}

#[test]
fn an_empty_file_is_a_place_not_yet_made() {
    let folder = place();
    let file = folder.path().join("x.db");
    fs::write(&file, "").unwrap();
    assert_eq!(open(&file).probe().unwrap_err().kind, ErrorKind::NotFound);
    open(&file).init().unwrap();
    open(&file).probe().unwrap();
}

#[test]
fn what_is_no_database_of_ours_is_a_config_error_and_stays_as_it_is() {
    let folder = place();
    let file = folder.path().join("x.db");
    let text = "no database, but longer than the header of one would be. ".repeat(40);
    fs::write(&file, &text).unwrap();
    let error = open(&file).probe().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Config, "{error}");
    assert!(
        error.message.contains("no SQLite database") && error.message.contains("x.db"),
        "{error}"
    );
    assert_eq!(open(&file).init().unwrap_err().kind, ErrorKind::Config);
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    assert_eq!(open(folder.path()).probe().unwrap_err().kind, ErrorKind::Config);

    let other = folder.path().join("other.db");
    let theirs = rusqlite::Connection::open(&other).unwrap();
    theirs
        .execute_batch("CREATE TABLE objects (id INTEGER); PRAGMA user_version = 1")
        .unwrap();
    for outcome in [
        open(&other).probe().map(drop),
        open(&other).init(),
        put(&open(&other), "a", b"x"),
    ] {
        let error = outcome.unwrap_err();
        assert!(
            error.kind == ErrorKind::Config && error.message.contains("another program"),
            "{error}"
        );
    }
}

#[test]
fn a_file_from_the_future_is_refused() {
    let folder = place();
    drop(created(&folder));
    let file = folder.path().join("x.db");
    rusqlite::Connection::open(&file)
        .unwrap()
        .pragma_update(None, "user_version", 2)
        .unwrap();
    let error = open(&file).probe().unwrap_err();
    assert!(
        error.kind == ErrorKind::Config && error.message.contains("version 2"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_removed_or_replaced_is_noticed() {
    let folder = place();
    let storage = created(&folder);
    put(&storage, "old", b"x").unwrap();
    let file = folder.path().join("x.db");
    fs::rename(&file, folder.path().join("y.db")).unwrap();
    assert_eq!(storage.stat("old").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(put(&storage, "new", b"x").unwrap_err().kind, ErrorKind::NotFound);
    storage.init().unwrap();
    put(&storage, "new", b"x").unwrap();
    assert_eq!(storage.list("", "", 9).unwrap().objects.len(), 1);
    assert_eq!(
        open(&folder.path().join("y.db"))
            .list("", "", 9)
            .unwrap()
            .objects
            .len(),
        1
    );
}

#[test]
fn missing_pieces_and_broken_pages_are_damage() {
    let folder = place();
    let storage = created(&folder);
    put(&storage, "a", &content(1_000_000)).unwrap();
    let file = folder.path().join("x.db");
    let shorten = |sql: &str| {
        rusqlite::Connection::open(&file)
            .unwrap()
            .execute(sql, ())
            .unwrap()
    };
    shorten("UPDATE pieces SET bytes = x'00' WHERE number = 3");
    assert_eq!(
        read(&storage, "a", 0, 1_000_000).unwrap_err().kind,
        ErrorKind::Corrupt
    );
    assert_eq!(read(&storage, "a", 0, 1000).unwrap(), content(1000));
    for number in [3, 1] {
        shorten(&format!("DELETE FROM pieces WHERE number = {number}"));
        assert_eq!(
            read(&storage, "a", 0, 1_000_000).unwrap_err().kind,
            ErrorKind::Corrupt,
            "{number}"
        );
    }
    let whole = fs::File::options().write(true).open(&file).unwrap();
    for page in 1..whole.metadata().unwrap().len() / 16384 {
        whole.write_all_at(&[0xff; 64], page * 16384).unwrap();
    }
    let error = open(&file).list("", "", 9).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
}

#[test]
fn a_busy_database_is_waited_for_until_the_call_is_cancelled() {
    let folder = place();
    drop(created(&folder));
    let target = plakar_plugin_api::conformance::ConnectorTarget::<SqliteConnector>::open(
        &format!("sqlite://{}/x.db", folder.path().display()),
        &Settings::new(),
    );
    let target = target.unwrap();
    let lock = rusqlite::Connection::open(folder.path().join("x.db")).unwrap();
    lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| put(target.connector(), "a", b"x"));
        std::thread::sleep(Duration::from_millis(600));
        assert!(!waiting.is_finished());
        lock.execute_batch("COMMIT").unwrap();
        waiting.join().unwrap().unwrap();
        lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let waiting = scope.spawn(|| put(target.connector(), "b", b"x"));
        std::thread::sleep(Duration::from_millis(300));
        plakar_plugin_api::conformance::Target::cancel(&target);
        assert_eq!(waiting.join().unwrap().unwrap_err().kind, ErrorKind::Cancelled);
    });
}

/// A file system of 4 MiB, unmounted again.
struct Small(TempDir);

impl Small {
    fn mount(flags: rustix::mount::MountFlags) -> Self {
        let folder = tempfile::tempdir().unwrap();
        rustix::mount::mount("none", folder.path(), "tmpfs", flags, Some(c"size=4m"))
            .expect("mounting takes root: skip `needs_root` without it");
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_full_file_system_is_no_space_and_what_was_stored_stays_needs_root() {
    let small = Small::mount(rustix::mount::MountFlags::empty());
    let storage = created(&small.0);
    put(&storage, "first", &content(1_000_000)).unwrap();
    for _ in 0..3 {
        let error = put(&storage, "second", &content(8 << 20)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoSpace, "{error}");
        assert!(error.message.contains("full"), "{error}");
    }
    assert_eq!(read(&storage, "first", 0, 1_000_000).unwrap(), content(1_000_000));
    assert_eq!(storage.list("", "", 9).unwrap().objects.len(), 1);
    put(&storage, "third", &content(100_000)).unwrap();
}

#[test]
fn a_read_only_file_system_can_be_read_and_refuses_the_rest_needs_root() {
    let small = Small::mount(rustix::mount::MountFlags::empty());
    let storage = created(&small.0);
    put(&storage, "a", b"x").unwrap();
    drop(storage);
    rustix::mount::mount_remount(small.0.path(), rustix::mount::MountFlags::RDONLY, "").unwrap();
    let storage = open(&small.0.path().join("x.db"));
    assert_eq!(read(&storage, "a", 0, 9).unwrap(), b"x");
    let error = put(&storage, "b", b"x").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Permission, "{error}");
    assert_eq!(
        open(&small.0.path().join("new.db")).init().unwrap_err().kind,
        ErrorKind::Permission
    );
}
