//! The golden repositories of format version 1: they stay readable for ever, with exactly the content that was put in.
//!
//! `cargo test -p plakar-testkit --test format_fixture -- --ignored` writes them anew, which is done once for each version of the format.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plakar_core::backup::{BackupOptions, Source, backup};
use plakar_core::check::{CheckOptions, Reading, check};
use plakar_core::crypto::Passphrase;
use plakar_core::environment::Environment;
use plakar_core::format::config::ChunkerSettings;
use plakar_core::format::tree::{Content, EntryKind};
use plakar_core::progress::{Cancel, Counters, Job, Silent};
use plakar_core::repository::{
    BlobReader, CreateOptions, Entry, EntryCursor, OpenError, OpenOptions, Repository, Snapshot,
};
use plakar_core::restore::{Overwrite, RestoreOptions, restore};
use plakar_core::storage::{
    Capabilities, ListPage, ObjectInfo, PutOptions, Space, Storage, StorageError, StorageErrorKind,
};

const PASSPHRASE: &str = "correct horse battery staple";
/// Where the saved folder was when the fixtures were made: on a file system that takes large attributes.
const SOURCE: &str = "/dev/shm/plakar-fixture";
/// The kinds of repository, as folders.
const KINDS: [&str; 2] = ["encrypted", "plain"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1")
}

/// A folder of objects. It writes only for the generator.
#[derive(Debug)]
struct Folder {
    root: PathBuf,
    writable: bool,
}

fn failed(operation: &'static str, key: &str, error: &std::io::Error) -> StorageError {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => StorageErrorKind::NotFound,
        _ => StorageErrorKind::Other,
    };
    StorageError::new(kind, operation, key, error.to_string())
}

impl Folder {
    fn gather(&self, folder: &Path, objects: &mut Vec<ObjectInfo>) -> std::io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.gather(&entry.path(), objects)?;
                continue;
            }
            let path = entry.path();
            let key = path
                .strip_prefix(&self.root)
                .expect("it lies below the root")
                .to_string_lossy()
                .into_owned();
            objects.push(ObjectInfo {
                key,
                size_bytes: entry.metadata()?.len(),
            });
        }
        Ok(())
    }

    fn refuse(&self, operation: &'static str) -> Result<(), StorageError> {
        if self.writable {
            return Ok(());
        }
        Err(StorageError::new(
            StorageErrorKind::Permission,
            operation,
            "a fixture",
            "fixtures are never changed",
        ))
    }
}

impl Storage for Folder {
    fn location(&self) -> &'static str {
        "the fixture"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_put: true,
            durable_put: false,
            strongly_consistent: true,
            exclusive_create: false,
            max_object_bytes: u64::MAX,
            preferred_pack_bytes: 64 << 10,
            concurrency: 1,
        }
    }

    fn init(&self) -> Result<(), StorageError> {
        self.refuse("initialise")
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage, StorageError> {
        let mut objects = Vec::new();
        self.gather(&self.root, &mut objects)
            .map_err(|error| failed("list", prefix, &error))?;
        objects.retain(|object| object.key.starts_with(prefix) && object.key.as_str() > start_after);
        objects.sort();
        let more = objects.len() > limit;
        objects.truncate(limit);
        Ok(ListPage { objects, more })
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        let metadata = fs::metadata(self.root.join(key)).map_err(|error| failed("stat", key, &error))?;
        Ok(ObjectInfo {
            key: key.to_owned(),
            size_bytes: metadata.len(),
        })
    }

    fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StorageError> {
        let read = || {
            let mut file = fs::File::open(self.root.join(key))?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(length).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(|error| failed("read", key, &error))
    }

    fn put(&self, key: &str, bytes: Arc<Vec<u8>>, _: PutOptions) -> Result<(), StorageError> {
        self.refuse("write")?;
        let path = self.root.join(key);
        let write = || {
            fs::create_dir_all(path.parent().expect("a key has a folder"))?;
            fs::write(&path, bytes.as_slice())
        };
        write().map_err(|error| failed("write", key, &error))
    }

    fn delete(&self, _: &str) -> Result<(), StorageError> {
        self.refuse("delete")
    }

    fn space(&self) -> Result<Option<Space>, StorageError> {
        Ok(None)
    }
}

fn open(kind: &str, secret: Option<&str>) -> Result<Repository, OpenError> {
    let storage = Arc::new(Folder {
        root: fixtures().join(kind),
        writable: false,
    });
    let passphrase = secret.map(|text| Passphrase::new(text.as_bytes().to_vec()));
    Repository::open(
        storage,
        passphrase.as_ref(),
        OpenOptions::default(),
        Environment::system(),
    )
}

fn opened(kind: &str) -> Repository {
    open(kind, (kind == "encrypted").then_some(PASSPHRASE)).expect("the fixture opens")
}

fn silently<T>(work: impl FnOnce(Job<'_>) -> T) -> T {
    work(Job {
        observer: &Silent,
        counters: &Counters::default(),
        cancel: &Cancel::default(),
    })
}

/// The snapshots of a fixture, oldest first: a stream that broke, one that did not, and twice the folder.
fn snapshots(repository: &Repository) -> [Snapshot; 4] {
    let (snapshots, unreadable) = repository.snapshots().expect("the fixture can be listed");
    assert!(unreadable.is_empty());
    snapshots.try_into().expect("there are four")
}

fn newest(repository: &Repository) -> Snapshot {
    let [_, _, _, newest] = snapshots(repository);
    newest
}

/// One line for each entry: what is promised to come back.
fn line(path: &[u8], kind: &str, mode: u32, modified: (i64, u32), extra: &str) -> String {
    let (seconds, nanoseconds) = modified;
    format!(
        "{kind} {mode:04o} {seconds}.{nanoseconds:09} {} {extra}",
        path.escape_ascii()
    )
    .trim_end()
    .to_owned()
}

fn xattr_words(xattrs: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> String {
    let words = xattrs.into_iter().filter(|(name, _)| name.starts_with(b"user."));
    words
        .map(|(name, value)| {
            format!(
                " {}={}",
                name.escape_ascii(),
                blake3::hash(&value).to_hex().get(..8).unwrap_or_default()
            )
        })
        .collect()
}

/// The lines of a snapshot's folder, through the library alone.
fn lines_of_snapshot(repository: &Repository, snapshot: &Snapshot) -> Vec<String> {
    let root = repository
        .entry_at(snapshot, SOURCE.as_bytes())
        .expect("it can be read")
        .expect("it is there");
    let mut reader = BlobReader::new(repository, 1 << 20);
    let mut lines = Vec::new();
    let mut groups = BTreeMap::new();
    let mut stack = vec![(
        EntryCursor::new(root.node.expect("it is a directory")),
        Vec::new(),
    )];
    while let Some((cursor, above)) = stack.last_mut() {
        let Some(entry) = cursor.next(&mut reader).expect("it can be read") else {
            stack.pop();
            continue;
        };
        let mut path = above.clone();
        path.extend_from_slice(if path.is_empty() { b"" } else { b"/" });
        path.extend_from_slice(&entry.name);
        let (kind, mut extra) = describe(repository, &entry);
        if let Some(link) = entry.hard_link {
            let first = groups
                .entry((link.device, entry.inode))
                .or_insert_with(|| path.clone());
            extra.push_str(&format!(" links={} first={}", link.links, first.escape_ascii()));
        }
        let xattrs = reader.xattrs(&entry).expect("they can be read");
        extra.push_str(&xattr_words(
            xattrs.into_iter().map(|xattr| (xattr.name, xattr.value)),
        ));
        let modified = (entry.modified.seconds, entry.modified.nanoseconds);
        lines.push(line(&path, kind, entry.mode, modified, extra.trim_start()));
        if let Some(node) = entry.node {
            stack.push((EntryCursor::new(node), path));
        }
    }
    lines.sort();
    lines
}

fn describe(repository: &Repository, entry: &Entry) -> (&'static str, String) {
    match entry.kind {
        EntryKind::File => {
            let mut bytes = Vec::new();
            repository.read_file(entry, &mut bytes).expect("it can be read");
            assert_eq!(bytes.len() as u64, entry.size_bytes);
            let holes = match &entry.content {
                Content::List { items, .. } => items.iter().any(|item| item.blob.is_none()),
                Content::Inline(_) => false,
            };
            (
                "file",
                format!(
                    "{} {}{}",
                    bytes.len(),
                    blake3::hash(&bytes),
                    if holes { " sparse" } else { "" }
                ),
            )
        }
        EntryKind::Directory => ("directory", String::new()),
        EntryKind::Symlink => ("symlink", entry.link_target.escape_ascii().to_string()),
        EntryKind::Fifo => ("fifo", String::new()),
        other => panic!("the fixture has no {other:?}"),
    }
}

/// The lines of a folder on disk, without the library. Extended attributes only where asked for: not every file system has them.
fn lines_of_folder(root: &Path, with_xattrs: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut groups = BTreeMap::new();
    let mut names = Vec::new();
    walk(root, root, &mut names);
    names.sort();
    for below in names {
        let path = root.join(std::ffi::OsString::from_vec(below.clone()));
        let metadata = path.symlink_metadata().expect("it is there");
        let (kind, mut extra) = if metadata.is_dir() {
            ("directory", String::new())
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).expect("it is a link");
            (
                "symlink",
                target.as_os_str().as_bytes().escape_ascii().to_string(),
            )
        } else if metadata.file_type().is_fifo() {
            ("fifo", String::new())
        } else {
            let bytes = fs::read(&path).expect("it can be read");
            let sparse = if metadata.blocks() * 512 < metadata.len() {
                " sparse"
            } else {
                ""
            };
            (
                "file",
                format!("{} {}{sparse}", bytes.len(), blake3::hash(&bytes)),
            )
        };
        if !metadata.is_dir() && metadata.nlink() > 1 {
            let first = groups
                .entry((metadata.dev(), metadata.ino()))
                .or_insert_with(|| below.clone());
            extra.push_str(&format!(
                " links={} first={}",
                metadata.nlink(),
                first.escape_ascii()
            ));
        }
        if with_xattrs {
            extra.push_str(&xattr_words(user_xattrs(&path)));
        }
        let nanoseconds = u32::try_from(metadata.mtime_nsec()).expect("less than a second");
        let modified = (metadata.mtime(), nanoseconds);
        lines.push(line(
            &below,
            kind,
            metadata.mode() & 0o7777,
            modified,
            extra.trim_start(),
        ));
    }
    lines.sort();
    lines
}

fn walk(root: &Path, folder: &Path, names: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("it can be listed") {
        let path = entry.expect("it can be read").path();
        names.push(
            path.strip_prefix(root)
                .expect("it lies below")
                .as_os_str()
                .as_bytes()
                .to_vec(),
        );
        if path.symlink_metadata().expect("it is there").is_dir() {
            walk(root, &path, names);
        }
    }
}

fn user_xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, list.as_mut_slice()).unwrap_or(0);
    let mut xattrs = Vec::new();
    for name in list
        .get(..length)
        .unwrap_or_default()
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).expect("it has a value");
        value.truncate(length);
        xattrs.push((name.to_vec(), value));
    }
    xattrs.sort();
    xattrs
}

fn expected() -> Vec<String> {
    let text = fs::read_to_string(fixtures().join("expected.txt")).expect("it is there");
    text.lines().map(str::to_owned).collect()
}

fn without_xattrs(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .map(|line| line.split(" user.").next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn both_repositories_open_and_are_whole() {
    for kind in KINDS {
        let repository = opened(kind);
        assert!(repository.index_problems().is_empty(), "{kind}");
        let options = CheckOptions {
            reading: Reading::All,
            targets: Vec::new(),
            workers: 1,
        };
        let report = silently(|job| check(&repository, options, job)).expect("it can be checked");
        assert!(!report.is_damaged(), "{kind}: {:?}", report.damage);
        assert_eq!(report.unindexed_packs, 0);
        // Some segments are replaced by others.
        let listed = repository
            .storage()
            .list("index/", "", 100)
            .expect("it can be listed")
            .objects
            .len();
        assert!(listed > repository.index().counts().1, "{kind}");
        assert_eq!(report.results.len(), 4);
    }
}

#[test]
fn a_wrong_passphrase_and_none_are_refused() {
    assert!(matches!(
        open("encrypted", Some("wrong")),
        Err(OpenError::WrongPassphrase { .. })
    ));
    assert!(matches!(
        open("encrypted", None),
        Err(OpenError::PassphraseNeeded { .. })
    ));
}

#[test]
fn the_entries_are_those_that_were_saved() {
    for kind in KINDS {
        let repository = opened(kind);
        assert_eq!(
            lines_of_snapshot(&repository, &newest(&repository)),
            expected(),
            "{kind}"
        );
    }
}

#[test]
fn headers_streams_and_problems_are_read() {
    for kind in KINDS {
        let repository = opened(kind);
        let [broken, stream, first, newest] = snapshots(&repository);
        assert_eq!(newest.name, "golden");
        assert_eq!(newest.tags, ["one", "zwei"]);
        assert_eq!(
            (newest.hostname.as_str(), newest.username.as_str()),
            ("fixture-host", "fixture-user")
        );
        assert_eq!(newest.roots, [SOURCE.as_bytes()]);
        assert_eq!(newest.parent, Some(first.id));
        assert_eq!(newest.summary.problems, 0);
        assert_eq!(broken.summary.problems, 1);
        let problems = repository.problems(&broken).expect("they can be read");
        let [problem] = problems.as_slice() else {
            panic!("one stream broke")
        };
        assert_eq!(problem.path, b"/broken");
        let entry = repository
            .entry_at(&stream, b"/made up/stream")
            .expect("it can be read");
        let mut bytes = Vec::new();
        repository
            .read_file(&entry.expect("it is there"), &mut bytes)
            .expect("it can be read");
        assert_eq!(bytes, b"from a stream");
    }
}

#[test]
fn the_folder_is_restored_as_it_was() {
    for kind in KINDS {
        let repository = opened(kind);
        let target = tempfile::tempdir().expect("there is room");
        let restored = target.path().join("restored");
        let options = RestoreOptions {
            path: Some(SOURCE.as_bytes().to_vec()),
            target: restored.clone(),
            overwrite: Overwrite::Error,
            dry_run: false,
            permissions: true,
            select: None,
            workers: 1,
        };
        let snapshot = newest(&repository);
        let report =
            silently(|job| restore(&repository, &snapshot, options, job)).expect("it can be restored");
        assert_eq!(report.damage_count, 0);
        assert_eq!(
            lines_of_folder(&restored, false),
            without_xattrs(&expected()),
            "{kind}"
        );
    }
}

// The generator.

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn make_source(root: &Path) {
    use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, XattrFlags, mkfifoat, setxattr, utimensat};
    let write = |name: &str, bytes: &[u8]| fs::write(root.join(name), bytes).expect("it can be written");
    for folder in ["empty folder", "folder/inside", "many"] {
        fs::create_dir_all(root.join(folder)).expect("it can be made");
    }
    write("empty", b"");
    write("inline", b"a few bytes");
    write("folder/chunk", &noise(5000));
    write("folder/inside/chunks", &noise(200_000));
    write(
        "folder/text",
        "the same line again and again\n".repeat(2000).as_bytes(),
    );
    fs::write(
        root.join(std::ffi::OsStr::from_bytes(b"not \xff UTF-8")),
        "x".repeat(2000),
    )
    .expect("it can be written");
    write("linked", &noise(3000));
    fs::hard_link(root.join("linked"), root.join("folder/another name")).expect("it can be linked");
    symlink("folder/inside/chunks", root.join("link")).expect("it can be made");
    symlink("/nowhere/at all", root.join("dangling")).expect("it can be made");
    mkfifoat(CWD, root.join("fifo"), Mode::RUSR | Mode::WUSR).expect("it can be made");
    let mut sparse = fs::File::create(root.join("sparse")).expect("it can be made");
    sparse.seek(SeekFrom::Start(1 << 20)).expect("it can seek");
    sparse.write_all(&noise(10_000)).expect("it can be written");
    sparse.set_len(3 << 20).expect("it can grow");
    drop(sparse);
    for number in 0..600 {
        write(
            &format!("many/file-{number:03}"),
            format!("file {number}").as_bytes(),
        );
    }
    let set = |name: &str, attribute: &str, value: &[u8]| {
        setxattr(root.join(name), attribute, value, XattrFlags::empty())
            .expect("the file system has attributes");
    };
    set("inline", "user.small", b"value");
    set("inline", "user.empty", b"");
    set("folder", "user.of-a-folder", b"\0\xff");
    set("folder/chunk", "user.large", &vec![7; 20_000]);
    for (name, mode) in [
        ("inline", 0o640),
        ("folder/text", 0o4755),
        ("folder/chunk", 0o400),
        ("folder", 0o1777),
    ] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).expect("it is ours");
    }
    let mut names = Vec::new();
    walk(root, root, &mut names);
    names.sort();
    names.reverse();
    for (number, name) in (0_i64..).zip(&names) {
        let time = Timespec {
            tv_sec: 1_000_000_000 + number * 86_400,
            tv_nsec: (123_456_789 * (number + 1)) % 1_000_000_000,
        };
        let path = root.join(std::ffi::OsStr::from_bytes(name));
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("it is ours");
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::from_raw_os_error(5))
    }
}

fn save(repository: &Repository, source: Source) -> Snapshot {
    let options = BackupOptions {
        sources: vec![source],
        name: "golden".to_owned(),
        tags: vec!["one".to_owned(), "zwei".to_owned()],
        hostname: "fixture-host".to_owned(),
        username: "fixture-user".to_owned(),
        workers: 1,
        ..BackupOptions::default()
    };
    let report = silently(|job| backup(repository, options, job)).expect("it can be saved");
    report.snapshot.expect("it was no dry run")
}

fn stream(name: &[u8], reader: Box<dyn Read + Send>) -> Source {
    Source::Stream {
        name: name.to_vec(),
        reader,
    }
}

#[test]
#[ignore = "writes the fixtures anew: done once for each version of the format"]
fn write_the_fixtures() {
    let source = Path::new(SOURCE);
    fs::create_dir(source).expect("it was not there before");
    make_source(source);
    for kind in KINDS {
        let root = fixtures().join(kind);
        fs::create_dir_all(&root).expect("it can be made");
        let options = CreateOptions {
            passphrase: (kind == "encrypted").then(|| Passphrase::new(PASSPHRASE.as_bytes().to_vec())),
            slot_label: "fixture".to_owned(),
            chunker: ChunkerSettings {
                min_bytes: 1 << 10,
                average_bytes: 4 << 10,
                max_bytes: 16 << 10,
            },
            ..CreateOptions::default()
        };
        let storage: Arc<dyn Storage> = Arc::new(Folder { root, writable: true });
        let repository =
            Repository::create(storage, options, Environment::system()).expect("the folder is empty");
        let text = source.join("folder/text");
        let after = fs::read(&text).expect("it is there");
        let mode = fs::metadata(&text).expect("it is there").permissions();
        let modified = fs::metadata(&text)
            .expect("it is there")
            .modified()
            .expect("it has a time");
        fs::write(&text, b"as it was before").expect("it can be written");
        save(&repository, stream(b"broken", Box::new(Broken)));
        save(
            &repository,
            stream(b"made up/stream", Box::new(&b"from a stream"[..])),
        );
        save(&repository, Source::Path(source.to_owned()));
        // The second snapshot takes most from the first, and its segment replaces the first one's.
        fs::write(&text, after).expect("it can be written");
        fs::set_permissions(&text, mode).expect("it is ours");
        fs::File::options()
            .append(true)
            .open(&text)
            .and_then(|file| file.set_modified(modified))
            .expect("it is ours");
        let second = save(&repository, Source::Path(source.to_owned()));
        assert!(second.parent.is_some());
    }
    let lines = lines_of_folder(source, true);
    fs::write(fixtures().join("expected.txt"), lines.join("\n") + "\n").expect("it can be written");
    fs::remove_dir_all(source).expect("it is ours");
}
