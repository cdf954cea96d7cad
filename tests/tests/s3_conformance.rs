//! The suite of the contract, on the S3 connector and a real server, through the boundary as the engine uses it.

mod s3_support;

use plakar_core::plugin::{self, HostOptions};
use plakar_core::storage::{Storage as _, StorageErrorKind};
use plakar_testkit::s3_server::S3Server;
use s3_support::{Settings, create, keys, open, registry, with};

fn check(location: &str, settings: &Settings) -> String {
    let report = plugin::check(&registry(), location, settings, &HostOptions::default()).unwrap();
    assert!(report.passed(), "{report}");
    report.to_string()
}

#[test]
fn the_suite_passes_on_a_real_server() {
    let server = S3Server::start();
    let report = check(&server.location("suite/deeper"), &server.settings());
    println!("{report}");
    assert!(keys(&open(&server.location(""), &server.settings()), "suite", 1000).is_empty());
}

#[test]
fn the_suite_passes_in_parts_and_without_sums() {
    let server = S3Server::start();
    let more = [
        ("multipart_threshold_mib", "5"),
        ("multipart_part_mib", "5"),
        ("checksum", "none"),
        ("concurrency", "3"),
    ];
    check(&server.location(""), &with(&server.settings(), &more));
}

#[test]
fn a_place_is_prepared_once_and_a_missing_bucket_is_created() {
    let server = S3Server::garage();
    let location = format!("s3://{}/brand-new/some/where", server.endpoint());
    let storage = open(&location, &server.settings());
    let error = storage.probe().unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::NotFound, "{error}");
    assert!(error.message.contains("brand-new"), "{error}");
    assert_eq!(
        storage.list("", "", 10).unwrap_err().kind,
        StorageErrorKind::NotFound
    );

    let forbidden = open(
        &location,
        &with(&server.settings(), &[("create_bucket", "false")]),
    );
    let error = forbidden.init().unwrap_err();
    assert!(
        error.kind == StorageErrorKind::NotFound && error.message.contains("create_bucket"),
        "{error}"
    );

    storage.init().unwrap();
    storage.init().unwrap();
    storage.probe().unwrap();
    create(&storage, "config", b"sealed").unwrap();
    let error = storage.init().unwrap_err();
    assert!(
        error.kind == StorageErrorKind::AlreadyExists && error.message.contains("not empty"),
        "{error}"
    );
    assert_eq!(storage.get("config", 0, 100).unwrap(), b"sealed");
    // Another prefix of the same bucket is another place.
    open(
        &format!("s3://{}/brand-new/some", server.endpoint()),
        &server.settings(),
    )
    .init()
    .unwrap_err();
    open(
        &format!("s3://{}/brand-new/some/where2", server.endpoint()),
        &server.settings(),
    )
    .init()
    .unwrap();
}
