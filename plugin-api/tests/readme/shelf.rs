use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use plakar_plugin_api::{
    Capabilities, Connector, Error, ErrorKind, Host, Level, ListPage, ObjectInfo, PutMode, PutOptions, Result, Settings,
    check_key,
};

type Shelf = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

static SHELVES: Mutex<Option<HashMap<String, Shelf>>> = Mutex::new(None);

pub struct ShelfConnector {
    shelf: Shelf,
    host: Host,
}

impl ShelfConnector {
    fn with<T>(&self, key: &str, work: impl FnOnce(&Vec<u8>) -> T) -> Result<T> {
        check_key(key)?;
        let objects = self.shelf.lock().unwrap();
        objects.get(key).map(work).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no object {key}")))
    }
}

impl Connector for ShelfConnector {
    fn open(location: &str, settings: &Settings, host: Host) -> Result<Self> {
        settings.only(&[])?; // a misspelt setting is an error, not a surprise
        let Some(name) = location.strip_prefix("shelf://") else {
            return Err(Error::new(ErrorKind::Config, format!("{location} is not shelf://NAME")));
        };
        host.log(Level::Debug, "open", name);
        let mut shelves = SHELVES.lock().unwrap();
        let shelf = Arc::clone(shelves.get_or_insert_default().entry(name.to_owned()).or_default());
        Ok(Self { shelf, host })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_put: true,
            durable_put: false, // memory does not survive: do not promise it
            strongly_consistent: true,
            exclusive_create: true,
            max_object_bytes: 1 << 30,
            preferred_pack_bytes: 32 << 20,
            concurrency: 4,
        }
    }

    fn probe(&self) -> Result<Capabilities> {
        Ok(self.capabilities())
    }

    fn init(&self) -> Result<()> {
        if self.shelf.lock().unwrap().is_empty() {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::AlreadyExists, "the shelf is not empty"))
        }
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        let objects = self.shelf.lock().unwrap();
        let mut rest = objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && key.as_str() > start_after)
            .map(|(key, bytes)| ObjectInfo { key: key.clone(), size_bytes: bytes.len() as u64 });
        Ok(ListPage { objects: rest.by_ref().take(limit).collect(), more: rest.next().is_some() })
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo> {
        self.with(key, |bytes| ObjectInfo { key: key.to_owned(), size_bytes: bytes.len() as u64 })
    }

    fn get_into(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.with(key, |bytes| {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let length = buffer.len().min(bytes.len() - offset);
            buffer[..length].copy_from_slice(&bytes[offset..offset + length]);
            length
        })
    }

    fn put(&self, key: &str, bytes: &[u8], options: PutOptions) -> Result<()> {
        check_key(key)?;
        if self.host.cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "stopped before writing"));
        }
        let mut objects = self.shelf.lock().unwrap();
        if options.mode == PutMode::Create && objects.contains_key(key) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("{key} exists")));
        }
        objects.insert(key.to_owned(), bytes.to_vec());
        self.host.progress(bytes.len() as u64);
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        self.shelf.lock().unwrap().remove(key);
        Ok(())
    }
}

plakar_plugin_api::export_connector! {
    type: ShelfConnector, name: "shelf", version: env!("CARGO_PKG_VERSION"), schemes: ["shelf"]
}
