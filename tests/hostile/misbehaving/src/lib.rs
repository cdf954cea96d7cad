//! A connector that keeps its objects in memory, well, except for the one fault that its setting `fault` names.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread::{park, sleep, spawn};
use std::time::Duration;

use plakar_plugin_api::{
    Capabilities, Connector, Error, ErrorKind, Host, Level, ListPage, ObjectInfo, PutOptions, Result,
    Settings, export_connector,
};

export_connector! {
    type: Misbehaving, name: "misbehaving", version: "1.2.3", schemes: ["hostile"]
}

/// Objects in memory, and what to do wrong.
pub struct Misbehaving {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    fault: String,
    host: Host,
}

impl Misbehaving {
    fn is(&self, fault: &str) -> bool {
        self.fault == fault
    }
}

fn hang() -> ! {
    loop {
        park();
    }
}

impl Connector for Misbehaving {
    fn open(location: &str, settings: &Settings, host: Host) -> Result<Self> {
        settings.only(&["fault", "default"])?;
        let fault = settings.get("fault").unwrap_or_default().to_owned();
        host.log(Level::Info, "open", location);
        match fault.as_str() {
            "panic-open" => panic!("out of cheese"),
            "hang-open" => hang(),
            "refuse-open" => Err(Error::new(ErrorKind::Auth, "the password is wrong")),
            _ => Ok(Self {
                objects: Mutex::default(),
                fault,
                host,
            }),
        }
    }

    fn capabilities(&self) -> Capabilities {
        if self.is("panic-capabilities") {
            panic!("no idea");
        }
        Capabilities {
            atomic_put: !self.is("not-atomic"),
            durable_put: false,
            strongly_consistent: !self.is("late-listing"),
            exclusive_create: false,
            max_object_bytes: if self.is("small-objects") {
                1 << 20
            } else {
                1 << 30
            },
            preferred_pack_bytes: 32 << 20,
            concurrency: if self.is("greedy") { u32::MAX } else { 2 },
        }
    }

    fn probe(&self) -> Result<Capabilities> {
        Ok(Capabilities {
            atomic_put: !self.is("not-atomic-after-all"),
            ..self.capabilities()
        })
    }

    fn init(&self) -> Result<()> {
        Ok(())
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        if self.is("panic-list") {
            panic!("list? what list?");
        }
        if self.is("endless-error") {
            return Err(Error::new(ErrorKind::Auth, "no, ".repeat(16 << 20)));
        }
        let objects = self.objects.lock().unwrap();
        let mut objects: Vec<ObjectInfo> = objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && key.as_str() > start_after)
            .map(|(key, bytes)| ObjectInfo {
                key: key.clone(),
                size_bytes: bytes.len() as u64,
            })
            .collect();
        match self.fault.as_str() {
            "unordered-list" => objects.reverse(),
            "foreign-list" => objects.push(ObjectInfo {
                key: "~foreign".into(),
                size_bytes: 1,
            }),
            "endless-list" => {
                return Ok(ListPage {
                    objects: Vec::new(),
                    more: true,
                });
            }
            "long-list" => return Ok(ListPage { objects, more: false }),
            _ => {}
        }
        let more = objects.len() > limit;
        objects.truncate(limit);
        Ok(ListPage { objects, more })
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo> {
        let objects = self.objects.lock().unwrap();
        let size_bytes = objects
            .get(key)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such object"))?
            .len() as u64;
        let key = if self.is("stat-other") {
            "other".to_owned()
        } else {
            key.to_owned()
        };
        Ok(ObjectInfo {
            key,
            size_bytes: if self.is("huge-stat") {
                u64::MAX
            } else {
                size_bytes
            },
        })
    }

    fn get_into(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match self.fault.as_str() {
            "hang-get" if key != "free" => hang(),
            "lie-get" => return Ok(buffer.len() + 1),
            "huge-lie-get" => return Ok(usize::MAX),
            "wait-for-cancel" => {
                while !self.host.cancelled() {
                    sleep(Duration::from_millis(1));
                }
                return Err(Error::new(ErrorKind::Cancelled, "stopped as asked"));
            }
            "slow-progress" => (0..20).for_each(|_| {
                sleep(Duration::from_millis(50));
                self.host.progress(1);
            }),
            _ => {}
        }
        let objects = self.objects.lock().unwrap();
        let bytes = objects
            .get(key)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such object"))?;
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| bytes.get(offset..))
            .unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn put(&self, key: &str, bytes: &[u8], _options: PutOptions) -> Result<()> {
        match self.fault.as_str() {
            "panic-put" => panic!("put {key} where?"),
            "panic-put-holding-lock" => {
                let _objects = self.objects.lock();
                panic!("with the lock held");
            }
            "lose-packs" if key.starts_with("packs/") => return Ok(()),
            "lose-snapshots" if key.starts_with("snapshots/") => return Ok(()),
            "report-late" => {
                let host = self.host.for_this_call();
                spawn(move || {
                    for _ in 0..20 {
                        host.progress(u64::MAX);
                        sleep(Duration::from_millis(1));
                    }
                    panic!("a thread of its own had enough");
                });
            }
            "ask-to-wait" => {
                return Err(
                    Error::new(ErrorKind::Transient, "slow down").retry_after(Duration::from_millis(1500))
                );
            }
            _ => {}
        }
        let mut bytes = bytes.to_vec();
        if key.starts_with("packs/") {
            match self.fault.as_str() {
                "empty-packs" => bytes.clear(),
                "short-packs" => drop(bytes.pop()),
                "flipped-packs" => bytes.iter_mut().skip(100).take(1).for_each(|byte| *byte ^= 1),
                _ => {}
            }
        }
        self.objects.lock().unwrap().insert(key.to_owned(), bytes);
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.objects.lock().unwrap().remove(key);
        Ok(())
    }

    fn close(&self) -> Result<()> {
        if self.is("hang-close") { hang() } else { Ok(()) }
    }
}

impl Drop for Misbehaving {
    fn drop(&mut self) {
        if self.is("panic-drop") {
            panic!("I will not go");
        }
    }
}
