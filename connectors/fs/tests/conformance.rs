//! The suite of the contract, on memory and on disk.
#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::path::Path;

use plakar_connector_fs::FsConnector;
use plakar_plugin_api::conformance::{self, ConnectorTarget, Outcome};
use plakar_plugin_api::{Connector, Settings};

fn conforms_in(parent: &Path) {
    let parent = tempfile::tempdir_in(parent).unwrap();
    let location = parent.path().join("repository").to_str().unwrap().to_owned();
    let open = || ConnectorTarget::<FsConnector>::open(&location, &Settings::new());
    open().unwrap().connector().init().unwrap();
    let report = conformance::run(&|| Ok(Box::new(open()?)));
    assert!(report.passed(), "{report}");
    let skipped = report
        .verdicts
        .iter()
        .find(|verdict| matches!(verdict.outcome, Outcome::Skipped { .. }));
    assert_eq!(skipped, None, "a promise was not tested");
}

#[test]
fn conforms_in_memory() {
    conforms_in(Path::new("/dev/shm"));
}

#[test]
fn conforms_on_disk() {
    conforms_in(Path::new(env!("CARGO_TARGET_TMPDIR")));
}
