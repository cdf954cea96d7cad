//! Several connectors in one program, each with a runtime, sockets and libraries of its own: none knows of the others.

mod plugin_support;

use std::fs;
use std::sync::Arc;
use std::thread;

use plakar_core::environment::Environment;
use plakar_core::plugin::{HostOptions, PluginError, Registry};
use plakar_core::storage::decorate::{Decoration, decorate};
use plakar_core::storage::pace::Pace;
use plakar_core::storage::{Storage, StorageErrorKind};
use plugin_support::{Folder, built, entry, library, message, put, settings};

const RUNTIME: &str = "plakar-hostile-runtime";

/// The connector with a runtime, as a library of its own bytes: loaded beside, not instead of, its like.
fn runtime(folder: &Folder, name: &str, fault: &str) -> Result<Arc<dyn Storage>, PluginError> {
    let mut bytes = fs::read(library(RUNTIME)).unwrap();
    bytes.extend(name.bytes());
    let pin = blake3::hash(&bytes);
    let file = format!("{name}.so");
    folder.write(&file, bytes);
    let more = format!("blake3 = \"{pin}\"\n[connector.defaults]\nfault = \"{fault}\"");
    let registry = folder.write(&format!("{name}.toml"), entry("runtime", &file, &more));
    Registry::load(&[registry], &[]).unwrap().open(
        &format!("runtime://{name}"),
        &settings(&[]),
        &HostOptions::default(),
    )
}

fn bytes_of(worker: u8) -> Vec<u8> {
    (0..200_000_u32)
        .map(|place| (place % 251) as u8 ^ worker)
        .collect()
}

/// Stores and reads objects from several threads at once.
fn work(storage: &dyn Storage) {
    thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || {
                for round in 0..5 {
                    let (key, bytes) = (format!("w{worker}/{round}"), bytes_of(worker));
                    put(storage, &key, &bytes).unwrap();
                    assert_eq!(storage.get(&key, 0, u64::MAX).unwrap(), bytes);
                    assert_eq!(storage.get(&key, 1000, 10).unwrap(), bytes[1000..1010]);
                }
            });
        }
    });
    assert_eq!(storage.list("w", "", 100).unwrap().objects.len(), 20);
}

#[test]
fn memory_that_is_used_again_holds_what_was_read_and_is_not_made_anew() {
    let place = tempfile::tempdir().unwrap();
    let bundle = Registry::load(&[], &[built().to_owned()]).unwrap();
    let location = place.path().to_str().unwrap();
    let files = bundle
        .open(location, &settings(&[]), &HostOptions::default())
        .unwrap();
    let bytes = bytes_of(7);
    put(files.as_ref(), "long", &bytes).unwrap();
    put(files.as_ref(), "short", b"short").unwrap();
    // Nothing that is put around a connector keeps the memory for itself.
    let pace = Pace::new(Environment::system(), None);
    let (files, _traffic) = decorate(files, Decoration::default(), &pace);
    let memory = files.get_with("long", 0, 300_000, Vec::new()).unwrap();
    let first = memory.as_ptr();
    let mut memory = memory;
    for (key, offset, length, wanted) in [
        ("short", 0, 300_000, &b"short"[..]),
        ("long", 1000, 10, &bytes[1000..1010]),
        ("short", 5, 10, &[]),
        ("long", 0, 300_000, &bytes),
    ] {
        memory = files.get_with(key, offset, length, memory).unwrap();
        assert!(memory == wanted, "{key} {offset}");
        assert_eq!(memory.as_ptr(), first);
    }
    // A read that fails takes the memory with it, and nothing else.
    assert!(files.get_with("missing", 0, 10, memory).is_err());
    assert_eq!(files.get_with("short", 0, 10, vec![1; 3]).unwrap(), b"short");
}

#[test]
fn two_runtimes_and_a_folder_work_side_by_side() {
    let folder = Folder::new();
    let place = tempfile::tempdir().unwrap();
    let bundle = Registry::load(&[], &[built().to_owned()]).unwrap();
    let files = bundle
        .open(
            place.path().to_str().unwrap(),
            &settings(&[]),
            &HostOptions::default(),
        )
        .unwrap();
    let first = runtime(&folder, "first", "none").unwrap();
    let second = runtime(&folder, "second", "none").unwrap();
    thread::scope(|scope| {
        for storage in [&files, &first, &second] {
            scope.spawn(|| work(storage.as_ref()));
        }
    });
    drop(first);
    put(second.as_ref(), "after", b"the other one was closed").unwrap();
}

#[test]
fn a_task_that_panics_fails_its_call_alone() {
    let folder = Folder::new();
    let storage = runtime(&folder, "panicking", "panic-task").unwrap();
    for _ in 0..2 {
        let error = put(storage.as_ref(), "a", b"x").unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::Other, "{error}");
        assert!(error.message.contains("a task had enough"), "{error}");
    }
    storage.delete("a").unwrap();
    work(runtime(&folder, "healthy", "none").unwrap().as_ref());
}

#[test]
fn threads_that_outlive_their_connector_can_still_log() {
    let folder = Folder::new();
    drop(runtime(&folder, "busy", "busy-for-ever").unwrap());
    work(runtime(&folder, "next", "none").unwrap().as_ref());
}

#[test]
fn the_connectors_of_servers_load_into_one_program() {
    let bundle = plakar_testkit::built::packages(&["plakar-connector-sftp", "plakar-connector-s3"]);
    let registry = Registry::load(&[], &[bundle]).unwrap();
    for name in ["sftp", "s3"] {
        let info = registry.info(name).unwrap();
        assert_eq!((info.name.as_str(), info.abi.as_str()), (name, "1.0"));
    }
    // Nobody listens on port 1: both start all they need, and come to the same end.
    let (sftp, s3) = ("sftp://nobody@127.0.0.1:1/nowhere", "s3://127.0.0.1:1/nowhere");
    let credentials = settings(&[("access_key_id", "nobody"), ("secret_access_key", "nothing")]);
    let none = settings(&[]);
    thread::scope(|scope| {
        for (location, settings) in [(sftp, &none), (s3, &credentials)] {
            let registry = &registry;
            scope.spawn(
                move || match registry.open(location, settings, &HostOptions::default()) {
                    Ok(storage) => assert!(storage.list("", "", 1).is_err(), "{location}"),
                    refused => assert!(message(refused).contains("127.0.0.1"), "{location}"),
                },
            );
        }
    });
}
