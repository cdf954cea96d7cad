//! How many connections and sessions of a server are used, for what, and that what goes through two at once is whole.

mod sftp_support;

use std::sync::Arc;
use std::time::Duration;

use plakar_core::storage::{Storage, StorageErrorKind};
use plakar_testkit::proxy::Proxy;
use plakar_testkit::sshd::{Sshd, SshdOptions};
use plakar_testkit::{names_below, random, soon};
use sftp_support::{open, put, with};

const MIB: usize = 1 << 20;
/// Half of a round trip that is worth more connections and sessions.
const FAR: Duration = Duration::from_millis(10);

/// A handle to a server that is behind a long line.
fn far_from(server: &Sshd, more: &[(&str, &str)]) -> (Proxy, Arc<dyn Storage>) {
    let proxy = Proxy::to(server.port());
    proxy.delay(FAR);
    let settings = with(&server.settings_at(proxy.port()), more);
    let storage = open(&server.url_at(proxy.port(), &server.data()), &settings);
    (proxy, storage)
}

/// Stores large objects, all at the same time.
fn put_at_once(storage: &Arc<dyn Storage>, folder: &str, number: u64, bytes: usize) {
    std::thread::scope(|scope| {
        for number in 0..number {
            let key = format!("{folder}/{number}");
            scope.spawn(move || put(storage.as_ref(), &key, &random::bytes(number, bytes)).unwrap());
        }
    });
}

#[test]
fn a_large_object_is_written_through_two_sessions_of_a_connection() {
    let server = Sshd::with(SshdOptions {
        logs_files: true,
        ..SshdOptions::default()
    });
    let (_proxy, storage) = far_from(&server, &[("connections", "1")]);
    put(storage.as_ref(), "first", &random::bytes(0, MIB)).unwrap();
    soon("a second session is begun", || server.sessions() == 2);
    // Its greeting takes a round trip more.
    std::thread::sleep(20 * FAR);
    for (number, bytes) in [
        (1, 16 * MIB),
        (2, 16 * MIB + 1),
        (3, 9 * MIB + 12_345),
        (4, 8 * MIB - 1),
    ] {
        let before = server.written().len();
        let (key, content) = (format!("large/{number}"), random::bytes(number, bytes));
        put(storage.as_ref(), &key, &content).unwrap();
        assert!(
            storage.get(&key, 0, content.len() as u64 + 1).unwrap() == content,
            "{key}"
        );
        soon("both have closed the file", || {
            server.written().len() == before + 2
        });
        let parts = server.written().split_off(before);
        assert_eq!(parts.iter().sum::<u64>(), bytes as u64, "{parts:?}");
        assert!(parts.iter().all(|&part| part > 0), "{parts:?}");
    }
    assert_eq!((server.logins(), server.sessions()), (1, 2));
    soon("nothing but the objects is left", || {
        names_below(&server.data()).len() == 5
    });
}

#[test]
fn sessions_and_connections_that_come_while_large_objects_are_written_take_part() {
    let server = Sshd::with(SshdOptions {
        logs_files: true,
        ..SshdOptions::default()
    });
    let (proxy, storage) = far_from(&server, &[("connections", "2")]);
    // So far that all are there long before the end.
    proxy.delay(4 * FAR);
    put_at_once(&storage, "large", 2, 48 * MIB);
    // Two sessions of the first connection for both, and of the connection that was opened for the second object one, for either.
    soon("all have closed their files", || server.written().len() == 5);
    let parts = server.written();
    assert_eq!(parts.iter().sum::<u64>(), 96 << 20, "{parts:?}");
    assert!(parts.iter().all(|&part| part > 0), "{parts:?}");
    for number in 0..2 {
        let content = random::bytes(number, 48 * MIB);
        assert!(storage.get(&format!("large/{number}"), 0, 49 << 20).unwrap() == content);
    }
    soon("nothing but the objects is left", || {
        names_below(&server.data()).len() == 2
    });
}

#[test]
fn what_is_cut_off_between_two_sessions_is_no_object() {
    let server = Sshd::start();
    let (proxy, storage) = far_from(&server, &[("connections", "1")]);
    put(storage.as_ref(), "first", &random::bytes(0, MIB)).unwrap();
    soon("a second session is begun", || server.sessions() == 2);
    std::thread::sleep(20 * FAR);
    for round in 0..3 {
        proxy.drop_after((3 + 5 * round) << 20);
        let bytes = random::bytes(1, 16 * MIB);
        let error = put(storage.as_ref(), "large", &bytes).unwrap_err();
        assert!(
            matches!(
                error.kind,
                StorageErrorKind::Transient | StorageErrorKind::Timeout
            ),
            "{error}"
        );
        // A new connection has one session at first, which is enough to see that nothing of the name is there.
        let listed = (0..3)
            .find_map(|_| storage.list("", "", 10).ok())
            .expect("a listing");
        assert_eq!(listed.objects.len(), 1);
    }
}

#[test]
fn a_server_that_allows_one_session_is_used_with_one() {
    let server = Sshd::with(SshdOptions {
        lines: vec!["MaxSessions 1".into()],
        ..SshdOptions::default()
    });
    let (_proxy, storage) = far_from(&server, &[("connections", "1")]);
    let bytes = random::bytes(1, 12 * MIB);
    for key in ["a", "b", "c"] {
        put(storage.as_ref(), key, &bytes).unwrap();
        assert!(storage.get(key, 0, 12 << 20).unwrap() == bytes, "{key}");
    }
    assert_eq!(server.logged("no more sessions"), 1);
    assert_eq!((server.logins(), server.sessions()), (1, 1));
}

#[test]
fn a_server_whose_files_may_be_none_is_used_with_one_session() {
    let server = Sshd::with(SshdOptions {
        without: Some("fsync"),
        ..SshdOptions::default()
    });
    let (_proxy, storage) = far_from(&server, &[("connections", "1")]);
    let bytes = random::bytes(1, 12 * MIB);
    for key in ["a", "b", "c"] {
        put(storage.as_ref(), key, &bytes).unwrap();
        assert!(storage.get(key, 0, 12 << 20).unwrap() == bytes, "{key}");
    }
    assert_eq!(server.sessions(), 1);
}

#[test]
fn a_server_that_is_far_gets_four_connections() {
    let server = Sshd::start();
    let (_proxy, storage) = far_from(&server, &[]);
    put_at_once(&storage, "first", 12, 8 * MIB);
    soon("four connections are open", || server.logins() == 4);
    put_at_once(&storage, "then", 12, 8 * MIB);
    assert_eq!(server.logins(), 4);
    soon("nothing but the objects is left", || {
        names_below(&server.data()).len() == 24
    });
}

#[test]
fn what_is_stored_is_synced_with_its_folders_also_when_it_is_there_already() {
    let server = Sshd::with(SshdOptions {
        logs_files: true,
        ..SshdOptions::default()
    });
    let storage = open(&server.url(&server.data()), &server.settings());
    let synced = |from: usize| {
        let files = server.files();
        let lines = files.get(from..).unwrap_or_default().lines();
        let names = lines.filter(|line| line.contains("fsync \""));
        let names = names.filter_map(|line| line.split('"').nth(1)).map(|path| {
            let below = path.strip_prefix(server.data().to_str().unwrap()).unwrap_or(path);
            below.split(".tmp-").next().unwrap_or_default().to_owned()
        });
        names.collect::<Vec<_>>()
    };
    put(storage.as_ref(), "a/b/first", b"bytes").unwrap();
    assert_eq!(synced(0), ["/a/b/", "/a/b", "/a", ""]);
    // The answer to a first try may have been lost before the folders were synced.
    let from = server.files().len();
    let error = put(storage.as_ref(), "a/b/first", b"bytes").unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::AlreadyExists);
    assert_eq!(synced(from), ["/a/b/", "/a/b"]);
}

#[test]
fn gcm_is_agreed_on_and_the_server_may_send_16_mib_ahead() {
    let server = Sshd::with(SshdOptions {
        first_lines: vec!["LogLevel DEBUG2".into()],
        ..SshdOptions::default()
    });
    let storage = open(&server.url(&server.data()), &server.settings());
    put(storage.as_ref(), "first", b"first").unwrap();
    for direction in ["client->server", "server->client"] {
        let agreed = server.logged(&format!("kex: {direction} cipher: "));
        assert!(agreed > 0, "{}", server.log());
        let gcm = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"];
        let with_gcm: usize = gcm
            .iter()
            .map(|cipher| server.logged(&format!("kex: {direction} cipher: {cipher}")))
            .sum();
        assert_eq!(agreed, with_gcm, "{direction}");
    }
    let opened = server.logged("server_input_channel_open: ctype session");
    assert!(
        opened > 0 && opened == server.logged(&format!(" win {} max", 16 * MIB)),
        "{}",
        server.log()
    );
}
