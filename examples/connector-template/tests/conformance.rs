//! The shelf behaves as a connector must.

use plakar_connector_shelf::ShelfConnector;
use plakar_plugin_api::conformance::{self, ConnectorTarget};
use plakar_plugin_api::{Connector, Host, Settings};

#[test]
fn behaves_as_a_connector_must() {
    let folder = format!("{}/shelf-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    let location = format!("shelf://{folder}");
    ShelfConnector::open(&location, &Settings::new(), Host::none())
        .unwrap()
        .init()
        .unwrap();
    let report = conformance::run(&|| {
        Ok(Box::new(ConnectorTarget::<ShelfConnector>::open(
            &location,
            &Settings::new(),
        )?))
    });
    std::fs::remove_dir_all(folder).unwrap();
    assert!(report.passed(), "{report}");
}
