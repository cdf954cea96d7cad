//! What goes wrong on the way and on the server: each fault is told as what it is, and leaves all of an object or nothing.

mod sftp_support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use plakar_core::storage::{Storage, StorageError, StorageErrorKind};
use plakar_testkit::proxy::{Proxy, Way};
use plakar_testkit::sshd::{Sshd, SshdOptions};
use plakar_testkit::{names_below, random, soon};
use sftp_support::{open, put, refused, replace, with};

const MIB: usize = 1 << 20;

/// A server behind a proxy, and a handle that goes through it.
fn behind_a_proxy(more: &[(&str, &str)]) -> (Sshd, Proxy, Arc<dyn Storage>) {
    let server = Sshd::start();
    let proxy = Proxy::to(server.port());
    let settings = with(&server.settings_at(proxy.port()), more);
    let storage = open(&server.url_at(proxy.port(), &server.data()), &settings);
    (server, proxy, storage)
}

fn may_be_retried(kind: StorageErrorKind) -> bool {
    matches!(kind, StorageErrorKind::Transient | StorageErrorKind::Timeout)
}

/// Calls as the host does: a connection that broke while nobody used it is found out by its next user, and replaced.
#[track_caller]
fn patiently<T>(mut call: impl FnMut() -> Result<T, StorageError>) -> T {
    for _ in 0..3 {
        match call() {
            Err(error) if may_be_retried(error.kind) => {}
            result => return result.unwrap(),
        }
    }
    call().unwrap()
}

#[test]
fn after_a_connection_broke_in_a_put_the_next_call_works() {
    let (server, proxy, storage) = behind_a_proxy(&[]);
    put(storage.as_ref(), "a/first", b"first").unwrap();
    let bytes = random::bytes(1, 16 * MIB);
    proxy.drop_after(5 << 20);
    let error = put(storage.as_ref(), "a/second", &bytes).unwrap_err();
    assert!(may_be_retried(error.kind), "{error}");
    assert_eq!(
        names_below(&server.data())
            .iter()
            .filter(|name| !name.contains(".tmp-"))
            .count(),
        1
    );
    assert_eq!(patiently(|| storage.list("", "", 10)).objects.len(), 1);
    patiently(|| put(storage.as_ref(), "a/second", &bytes));
    assert_eq!(storage.get("a/second", 0, 16 << 20).unwrap(), bytes);
    // The next put has removed what the broken one left.
    soon("nothing is left over", || {
        names_below(&server.data()) == ["a/first", "a/second"]
    });
}

#[test]
fn after_all_connections_broke_the_next_call_works() {
    let (_server, proxy, storage) = behind_a_proxy(&[]);
    for round in 0..5 {
        let key = format!("k/{round}");
        proxy.drop_all();
        let stored = (0..3).find_map(|_| match put(storage.as_ref(), &key, b"bytes") {
            Ok(()) => Some(()),
            Err(error) => {
                assert!(may_be_retried(error.kind), "{error}");
                None
            }
        });
        assert!(stored.is_some(), "round {round}");
    }
    assert_eq!(storage.list("k/", "", 10).unwrap().objects.len(), 5);
}

#[test]
fn puts_that_wait_for_a_full_window_end_with_their_connection() {
    let (server, proxy, storage) = behind_a_proxy(&[("connections", "1")]);
    let bytes = Arc::new(random::bytes(8, 64 * MIB));
    let (ended, ends) = std::sync::mpsc::channel();
    for number in 0..4 {
        let (storage, bytes, ended) = (Arc::clone(&storage), Arc::clone(&bytes), ended.clone());
        std::thread::spawn(move || ended.send(put(storage.as_ref(), &format!("many/{number}"), &bytes)));
    }
    soon("the objects are being written", || {
        names_below(&server.data())
            .iter()
            .any(|name| name.contains(".tmp-"))
    });
    // A server that takes nothing more: what it allowed to be under way is soon used up, and so is the queue for more.
    server.freeze();
    std::thread::sleep(Duration::from_millis(500));
    proxy.drop_all();
    for _ in 0..4 {
        let put = ends.recv_timeout(Duration::from_secs(20));
        let error = put.expect("the end of the connection is noticed").unwrap_err();
        assert!(may_be_retried(error.kind), "{error}");
    }
    server.thaw();
    put(storage.as_ref(), "last", b"last").unwrap();
}

#[test]
fn a_server_killed_in_a_put_shows_no_part_of_the_object() {
    let mut server = Sshd::start();
    let proxy = Proxy::to(server.port());
    let settings = server.settings_at(proxy.port());
    let storage = open(&server.url_at(proxy.port(), &server.data()), &settings);
    put(storage.as_ref(), "kept", b"kept").unwrap();
    let bytes = random::bytes(2, 64 * MIB);
    std::thread::scope(|scope| {
        let putting = scope.spawn(|| put(storage.as_ref(), "a/large", &bytes));
        let part_is_there = || {
            names_below(&server.data())
                .iter()
                .any(|name| name.starts_with("a/.tmp-"))
        };
        soon("the object is being written", part_is_there);
        server.kill();
        let error = putting.join().unwrap().unwrap_err();
        assert!(may_be_retried(error.kind), "{error}");
    });
    assert!(may_be_retried(storage.stat("kept").unwrap_err().kind));
    server.restart();
    let proxy = Proxy::to(server.port());
    let storage = open(
        &server.url_at(proxy.port(), &server.data()),
        &server.settings_at(proxy.port()),
    );
    let listed = storage.list("", "", 10).unwrap().objects;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(
        storage.stat("a/large").unwrap_err().kind,
        StorageErrorKind::NotFound
    );
    put(storage.as_ref(), "a/large", &bytes).unwrap();
    assert_eq!(storage.get("a/large", 0, 64 << 20).unwrap(), bytes);
}

#[test]
fn a_frozen_server_is_waited_for_and_a_silent_one_is_not() {
    let (server, proxy, storage) = behind_a_proxy(&[("connections", "1")]);
    std::thread::scope(|scope| {
        server.freeze();
        let putting = scope.spawn(|| put(storage.as_ref(), "patient", b"bytes"));
        std::thread::sleep(Duration::from_millis(300));
        server.thaw();
        putting.join().unwrap().unwrap();
    });
    proxy.way(Way::Nowhere);
    let settings = with(
        &server.settings_at(proxy.port()),
        &[("connect_timeout_seconds", "1")],
    );
    let (kind, message) = refused(&server.url_at(proxy.port(), &server.data()), &settings);
    assert!(
        kind == StorageErrorKind::Timeout && message.contains(&proxy.port().to_string()),
        "{message}"
    );
}

/// A server that is asked every second whether it is there, and a handle to it over one connection. No proxy: it would take bytes in
/// place of the server.
fn asked_every_second() -> (Sshd, Arc<dyn Storage>) {
    let server = Sshd::start();
    let config = server.path("ssh_config");
    fs::write(&config, "ServerAliveInterval 1\n").unwrap();
    let settings = with(
        &server.settings(),
        &[("connections", "1"), ("ssh_config", config.to_str().unwrap())],
    );
    let storage = open(&server.url(&server.data()), &settings);
    (server, storage)
}

/// A call that is under way, and what it ends with, which must be soon and worth another try.
fn begun<T: Send + 'static>(
    storage: &Arc<dyn Storage>,
    call: impl FnOnce(&dyn Storage) -> Result<T, StorageError> + Send + 'static,
) -> impl FnOnce() {
    let (ended, ends) = std::sync::mpsc::channel();
    let storage = Arc::clone(storage);
    std::thread::spawn(move || ended.send(call(storage.as_ref()).err()));
    move || {
        let error = ends.recv_timeout(Duration::from_secs(20)).expect("the call ends");
        let error = error.expect("the call fails");
        assert!(may_be_retried(error.kind), "{error}");
    }
}

#[test]
fn a_server_that_takes_no_more_bytes_is_left_in_the_middle_of_a_put() {
    let (server, storage) = asked_every_second();
    let bytes = random::bytes(10, 64 * MIB);
    let fails_soon = begun(&storage, move |storage| put(storage, "a/large", &bytes));
    soon("the object is being written", || {
        names_below(&server.data())
            .iter()
            .any(|name| name.contains(".tmp-"))
    });
    server.freeze();
    fails_soon();
    server.thaw();
    assert_eq!(storage.list("", "", 10).unwrap().objects.len(), 0);
}

#[test]
fn a_server_that_answers_no_more_is_left_in_the_middle_of_a_read() {
    let (server, storage) = asked_every_second();
    let bytes = random::bytes(11, 8 * MIB);
    put(storage.as_ref(), "large", &bytes).unwrap();
    server.freeze();
    let fails_soon = begun(&storage, |storage| storage.get("large", 0, 8 << 20));
    fails_soon();
    server.thaw();
    assert!(storage.get("large", 0, 8 << 20).unwrap() == bytes);
}

#[test]
fn a_server_that_lets_in_and_says_nothing_is_left() {
    for (command, kind, words) in [
        ("sleep 30", StorageErrorKind::Timeout, "within 1 s"),
        (
            "echo welcome",
            StorageErrorKind::Transient,
            "shell print something",
        ),
        ("true", StorageErrorKind::Transient, "may this user use it"),
    ] {
        let server = Sshd::with(SshdOptions {
            lines: vec![format!("ForceCommand {command}")],
            ..SshdOptions::default()
        });
        let settings = with(&server.settings(), &[("connect_timeout_seconds", "1")]);
        let (told, message) = refused(&server.url(&server.data()), &settings);
        assert!(told == kind && message.contains(words), "{message}");
    }
}

#[test]
fn hosts_that_are_not_there_are_told_apart() {
    let (server, proxy, storage) = behind_a_proxy(&[]);
    proxy.way(Way::Closed);
    let (kind, message) = refused(
        &server.url_at(proxy.port(), &server.data()),
        &server.settings_at(proxy.port()),
    );
    assert!(kind == StorageErrorKind::Transient, "{message}");
    assert!(
        message.contains(&format!("127.0.0.1:{}", proxy.port())),
        "{message}"
    );
    proxy.drop_all();
    soon("the break is noticed", || {
        storage.stat("x").is_err_and(|error| may_be_retried(error.kind))
    });
    proxy.way(Way::Open);
    assert_eq!(storage.stat("x").unwrap_err().kind, StorageErrorKind::NotFound);
    let (kind, message) = refused("sftp://host.invalid/x", &server.settings());
    assert!(
        kind == StorageErrorKind::Config && message.contains("host.invalid"),
        "{message}"
    );
}

#[test]
fn a_server_that_allows_one_login_is_used_with_one() {
    let server = Sshd::with(SshdOptions {
        lines: vec!["MaxStartups 1:100:1".into()],
        ..SshdOptions::default()
    });
    let storage = open(
        &server.url(&server.data()),
        &with(&server.settings(), &[("connections", "8")]),
    );
    let bytes = random::bytes(3, MIB);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (storage, bytes) = (&storage, &bytes);
            scope.spawn(move || put(storage.as_ref(), &format!("many/{number}"), bytes).unwrap());
        }
    });
    assert_eq!(storage.list("many/", "", 10).unwrap().objects.len(), 8);
}

/// A file system of a few mebibytes. Only root can mount one.
struct Small(tempfile::TempDir);

impl Small {
    fn new(options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(folder.path())
            .status();
        assert!(
            mounted.unwrap().success(),
            "cannot mount a small file system: this test needs root"
        );
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(gone.unwrap().success() || std::thread::panicking());
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let small = Small::new("size=8m");
    let server = Sshd::start();
    let storage = open(&server.url(small.0.path()), &server.settings());
    put(storage.as_ref(), "a/fits", &random::bytes(4, 4 * MIB)).unwrap();
    let error = put(storage.as_ref(), "a/large", &random::bytes(5, 8 * MIB)).unwrap_err();
    assert!(
        error.kind == StorageErrorKind::NoSpace && error.message.contains("full"),
        "{error}"
    );
    soon("the part is removed", || {
        names_below(small.0.path()) == ["a/fits"]
    });
    put(storage.as_ref(), "a/fits-too", &random::bytes(6, 2 * MIB)).unwrap();
}

#[test]
fn a_disk_that_many_fill_at_once_is_full_for_each() {
    let small = Small::new("size=40m");
    let server = Sshd::start();
    let storage = open(&server.url(small.0.path()), &server.settings());
    let bytes = random::bytes(9, 16 * MIB);
    for round in 0..5 {
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (storage, bytes) = (&storage, &bytes);
                scope.spawn(move || {
                    if let Err(error) = put(storage.as_ref(), &format!("{round}/{number}"), bytes) {
                        assert!(error.kind == StorageErrorKind::NoSpace, "{error}");
                    }
                });
            }
        });
        for object in storage.list("", "", 100).unwrap().objects {
            storage.delete(&object.key).unwrap();
        }
    }
}

#[test]
fn a_read_only_file_system_is_told() {
    let small = Small::new("size=8m");
    let server = Sshd::start();
    let storage = open(&server.url(small.0.path()), &server.settings());
    put(storage.as_ref(), "kept", b"kept").unwrap();
    let remount = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(small.0.path())
        .status();
    assert!(remount.unwrap().success());
    // The server sees the mount in its own namespace; a new login is not needed.
    let error = put(storage.as_ref(), "new", b"new").unwrap_err();
    assert!(
        error.kind == StorageErrorKind::Permission && error.message.contains("read-only"),
        "{error}"
    );
    assert_eq!(
        storage.delete("kept").unwrap_err().kind,
        StorageErrorKind::Permission
    );
    assert_eq!(storage.get("kept", 0, 9).unwrap(), b"kept");
}

#[test]
fn a_forbidden_folder_is_told() {
    // Root may do everything, so the server refuses by itself.
    let without = Some("mkdir,remove");
    let server = Sshd::with(SshdOptions {
        without,
        ..SshdOptions::default()
    });
    let storage = open(&server.url(&server.data()), &server.settings());
    let error = put(storage.as_ref(), "a/new", b"new").unwrap_err();
    assert!(
        error.kind == StorageErrorKind::Permission && error.message.contains("data/a"),
        "{error}"
    );
    fs::write(server.path("data/kept"), b"kept").unwrap();
    assert_eq!(
        storage.delete("kept").unwrap_err().kind,
        StorageErrorKind::Permission
    );
}

#[test]
fn places_are_told_apart() {
    let server = Sshd::start();
    let missing = server.path("data/not/yet");
    let storage = open(&server.url(&missing), &server.settings());
    assert_eq!(
        storage.list("", "", 1).unwrap_err().kind,
        StorageErrorKind::NotFound
    );
    assert_eq!(
        storage.list("packs/", "", 1).unwrap_err().kind,
        StorageErrorKind::NotFound
    );
    assert_eq!(
        put(storage.as_ref(), "a/b", b"x").unwrap_err().kind,
        StorageErrorKind::NotFound
    );
    assert!(!missing.exists());
    storage.init().unwrap();
    storage.init().unwrap();
    assert_eq!(missing.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert!(storage.list("", "", 1).unwrap().objects.is_empty());
    put(storage.as_ref(), "a/b", b"x").unwrap();
    assert_eq!(
        fs::metadata(missing.join("a/b")).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(storage.init().unwrap_err().kind, StorageErrorKind::AlreadyExists);
    let file = open(&server.url(&missing.join("a/b")), &server.settings());
    assert_eq!(file.init().unwrap_err().kind, StorageErrorKind::Config);
    let error = storage.get("a", 0, 1).unwrap_err();
    assert!(
        error.kind == StorageErrorKind::Other && error.message.contains("folder"),
        "{error}"
    );
    assert_eq!(
        storage.get("a/b/c", 0, 1).unwrap_err().kind,
        StorageErrorKind::NotFound
    );
}

#[test]
fn where_no_folder_can_be_made_the_search_for_a_parent_ends() {
    // There the system says "no such file" of a folder whose parent is there.
    let server = Sshd::start();
    let storage = open(
        &server.url(Path::new("/proc/plakar/repository")),
        &server.settings(),
    );
    let error = storage.init().unwrap_err();
    assert!(
        error.kind == StorageErrorKind::NotFound && error.message.contains("/proc/plakar"),
        "{error}"
    );
    let storage = open(&server.url(Path::new("/")), &server.settings());
    let error = put(storage.as_ref(), "proc/plakar/object", b"x").unwrap_err();
    assert!(error.kind == StorageErrorKind::NotFound, "{error}");
}

#[test]
fn a_killed_creation_may_be_followed_by_another() {
    let server = Sshd::start();
    fs::create_dir_all(server.path("data/keys")).unwrap();
    fs::create_dir_all(server.path("data/lost+found")).unwrap();
    fs::write(server.path("data/keys/.tmp-0123456789abcdef"), b"cut").unwrap();
    let storage = open(&server.url(&server.data()), &server.settings());
    storage.init().unwrap();
    fs::write(server.path("data/keys/whole"), b"whole").unwrap();
    assert_eq!(storage.init().unwrap_err().kind, StorageErrorKind::AlreadyExists);
}

fn age(path: &Path, hours: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600))
        .unwrap();
}

#[test]
fn what_killed_writers_left_goes_after_a_day_and_readers_remove_nothing() {
    let server = Sshd::start();
    let (old, young, foreign) = ("data/a/.tmp-old", "data/a/.tmp-young", "data/a/.foreign");
    fs::create_dir_all(server.path("data/a")).unwrap();
    for (name, hours) in [(old, 25), (young, 23), (foreign, 99)] {
        fs::write(server.path(name), b"cut").unwrap();
        age(&server.path(name), hours);
    }
    for listed_before in [true, false] {
        let storage = open(&server.url(&server.data()), &server.settings());
        if listed_before {
            assert!(storage.list("", "", 10).unwrap().objects.is_empty());
            put(storage.as_ref(), "b/elsewhere", b"x").unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
        assert!(server.path(old).exists());
        replace(storage.as_ref(), "a/object", b"x").unwrap();
        soon("the old one is removed", || !server.path(old).exists());
        assert!(server.path(young).exists() && server.path(foreign).exists());
        fs::write(server.path(old), b"cut").unwrap();
        age(&server.path(old), 25);
    }
}

#[test]
fn a_long_listing_is_whole_in_pages_of_any_size() {
    let server = Sshd::start();
    let mut wanted = Vec::new();
    for folder in 0..64 {
        let path = server.path(&format!("data/packs/{folder:02x}"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..40 {
            fs::write(path.join(format!("{file:03}")), b"xy").unwrap();
            wanted.push(format!("packs/{folder:02x}/{file:03}"));
        }
    }
    fs::create_dir_all(server.path("data/flat")).unwrap();
    for file in 0..3000 {
        fs::write(server.path(&format!("data/flat/{file:05}")), b"").unwrap();
        wanted.push(format!("flat/{file:05}"));
    }
    wanted.sort();
    let storage = open(&server.url(&server.data()), &server.settings());
    for limit in [100, 1000, 4096, 10_000] {
        let mut keys: Vec<String> = Vec::new();
        loop {
            let after = keys.last().cloned().unwrap_or_default();
            let page = storage.list("", &after, limit).unwrap();
            keys.extend(page.objects.iter().map(|object| object.key.clone()));
            if !page.more {
                break;
            }
        }
        assert_eq!(keys, wanted, "pages of {limit}");
    }
    // What this process stores between two pages is on the second.
    let first = storage.list("flat/", "", 100).unwrap();
    put(storage.as_ref(), "flat/02000-new", b"x").unwrap();
    let rest = storage.list("flat/", &first.objects[99].key, 10_000).unwrap();
    assert!(rest.objects.iter().any(|object| object.key == "flat/02000-new"));
    assert_eq!(rest.objects.len(), 2901);
}

#[test]
fn distance_costs_few_round_trips() {
    let (server, proxy, storage) = behind_a_proxy(&[]);
    for folder in 0..256 {
        let path = server.path(&format!("data/packs/{folder:02x}"));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("object"), b"xy").unwrap();
    }
    proxy.delay(Duration::from_millis(25));
    let listing = Instant::now();
    assert_eq!(storage.list("packs/", "", 4096).unwrap().objects.len(), 256);
    // One folder after the other would take 256 times two round trips of 50 ms.
    let took = listing.elapsed();
    assert!(took < Duration::from_secs(10), "the listing took {took:?}");
}
