//! The suite of the contract, on the SFTP connector and a real OpenSSH server, through the boundary as the engine uses it.

mod sftp_support;

use plakar_core::plugin::{self, HostOptions};
use plakar_core::storage::StorageErrorKind;
use plakar_testkit::names_below;
use plakar_testkit::sshd::{Sshd, SshdOptions};
use sftp_support::{Settings, open, put, registry, replace, with};

fn check(location: &str, settings: &Settings) -> String {
    let report = plugin::check(&registry(), location, settings, &HostOptions::default()).unwrap();
    assert!(report.passed(), "{report}");
    report.to_string()
}

#[test]
fn the_suite_passes_on_a_real_server() {
    let server = Sshd::start();
    let report = check(&server.url(&server.data()), &server.settings());
    assert!(!report.contains("skip"), "{report}");
    assert_eq!(names_below(&server.data()), Vec::<String>::new());
    println!("{report}");
}

#[test]
fn the_suite_passes_with_one_connection_that_changes_keys_all_the_time() {
    let options = SshdOptions {
        lines: vec!["RekeyLimit 1M".into()],
        ..SshdOptions::default()
    };
    let server = Sshd::with(options);
    check(
        &server.url(&server.data()),
        &with(&server.settings(), &[("connections", "1")]),
    );
}

#[test]
fn the_suite_passes_without_any_extension_but_replacing() {
    let without = Some("hardlink,fsync,statvfs,fstatvfs,limits");
    let server = Sshd::with(SshdOptions {
        without,
        ..SshdOptions::default()
    });
    let location = server.url(&server.data());
    check(&location, &server.settings());
    let found = open(&location, &server.settings()).capabilities();
    assert!(!found.durable_put && !found.exclusive_create && found.atomic_put);
}

#[test]
fn without_a_way_to_replace_nothing_is_lost() {
    let without = Some("posix-rename,hardlink,fsync,statvfs,fstatvfs,limits");
    let server = Sshd::with(SshdOptions {
        without,
        ..SshdOptions::default()
    });
    let storage = open(&server.url(&server.data()), &server.settings());
    replace(storage.as_ref(), "a/b", b"first").unwrap();
    let error = replace(storage.as_ref(), "a/b", b"second").unwrap_err();
    assert!(
        error.kind == StorageErrorKind::Unsupported && error.message.contains("posix-rename"),
        "{error}"
    );
    assert_eq!(
        put(storage.as_ref(), "a/b", b"third").unwrap_err().kind,
        StorageErrorKind::AlreadyExists
    );
    assert_eq!(storage.get("a/b", 0, 100).unwrap(), b"first");
    assert_eq!(storage.space().unwrap(), None);
    drop(storage);
    assert_eq!(names_below(&server.data()), ["a/b"]);
}

#[test]
fn what_the_server_can_do_is_promised() {
    let server = Sshd::start();
    let storage = open(
        &server.url(&server.data()),
        &with(&server.settings(), &[("connections", "2")]),
    );
    let found = storage.capabilities();
    assert!(found.atomic_put && found.durable_put && found.strongly_consistent && found.exclusive_create);
    assert_eq!((found.preferred_pack_bytes, found.concurrency), (16 << 20, 8));
    let space = storage.space().unwrap().unwrap();
    assert!(space.total_bytes >= space.available_bytes && space.available_bytes > 0);
}
