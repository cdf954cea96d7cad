//! A connector whose schemes would make a registry that nothing can read; it opens nothing.

use plakar_plugin_api::{
    Capabilities, Connector, Error, ErrorKind, Host, ListPage, ObjectInfo, PutOptions, Result, Settings,
    export_connector,
};

export_connector! {
    type: Odd, name: "odd", version: "1.0.0", schemes: ["Odd\none\"]", "odd"]
}

/// Nothing.
pub struct Odd;

fn never<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "this connector opens nothing"))
}

impl Connector for Odd {
    fn open(_location: &str, _settings: &Settings, _host: Host) -> Result<Self> {
        never()
    }

    fn capabilities(&self) -> Capabilities {
        unreachable!("nothing is open")
    }

    fn probe(&self) -> Result<Capabilities> {
        never()
    }

    fn init(&self) -> Result<()> {
        never()
    }

    fn list(&self, _prefix: &str, _start_after: &str, _limit: usize) -> Result<ListPage> {
        never()
    }

    fn stat(&self, _key: &str) -> Result<ObjectInfo> {
        never()
    }

    fn get_into(&self, _key: &str, _offset: u64, _buffer: &mut [u8]) -> Result<usize> {
        never()
    }

    fn put(&self, _key: &str, _bytes: &[u8], _options: PutOptions) -> Result<()> {
        never()
    }

    fn delete(&self, _key: &str) -> Result<()> {
        never()
    }
}
