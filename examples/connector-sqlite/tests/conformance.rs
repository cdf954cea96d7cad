//! The connector behaves as the contract says.

use plakar_connector_sqlite::SqliteConnector;
use plakar_plugin_api::conformance::{self, ConnectorTarget};
use plakar_plugin_api::{Connector, Host, Settings};

#[test]
fn behaves_as_a_connector_must() {
    let folder = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let location = format!("sqlite://{}/one.db", folder.path().display());
    SqliteConnector::open(&location, &Settings::new(), Host::none())
        .unwrap()
        .init()
        .unwrap();
    let report = conformance::run(&|| {
        Ok(Box::new(ConnectorTarget::<SqliteConnector>::open(
            &location,
            &Settings::new(),
        )?))
    });
    assert!(report.passed(), "{report}");
    assert!(!report.to_string().contains("skip"), "{report}");
    let left: Vec<_> = folder
        .path()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["one.db"], "one file, and no journal");
}
