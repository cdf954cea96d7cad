//! What the tests of this connector share: opening one, storing in it.

use std::path::Path;

use plakar_connector_fs::FsConnector;
use plakar_plugin_api::{Connector, Host, PutMode, PutOptions, Result, Settings};

pub(crate) fn connector(path: &Path) -> FsConnector {
    FsConnector::open(path.to_str().unwrap(), &Settings::new(), Host::none()).unwrap()
}

pub(crate) fn put(connector: &FsConnector, key: &str, bytes: &[u8]) -> Result<()> {
    connector.put(
        key,
        bytes,
        PutOptions {
            mode: PutMode::Create,
            durable: true,
            blake3: [0; 32],
        },
    )
}

pub(crate) fn keys(connector: &FsConnector) -> Vec<String> {
    connector
        .list("", "", 100_000)
        .unwrap()
        .objects
        .into_iter()
        .map(|object| object.key)
        .collect()
}
