//! A connector that does all its work on a runtime of its own: tasks, timers and sockets. Its setting `fault` names what goes wrong there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plakar_plugin_api::{
    Capabilities, Connector, Error, ErrorKind, Host, Level, ListPage, ObjectInfo, PutOptions, Result,
    Settings, export_connector,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

export_connector! {
    type: OwnRuntime, name: "runtime", version: "1.0.0", schemes: ["runtime"]
}

type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// Objects in memory, reached by tasks.
pub struct OwnRuntime {
    objects: Objects,
    fault: String,
    host: Host,
    runtime: Option<Runtime>,
}

impl OwnRuntime {
    /// Runs `work` as a task; a task that panics is an error of this call.
    fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let runtime = self.runtime.as_ref().unwrap();
        let failed = |error| Error::new(ErrorKind::Other, format!("a task failed: {error}"));
        runtime
            .block_on(runtime.spawn(work))
            .map_err(failed)
            .and_then(|outcome| outcome)
    }
}

/// Sends bytes through a socket of this machine, and gives what came out.
async fn through_a_socket(bytes: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut sender = TcpStream::connect(listener.local_addr()?).await?;
    let (mut receiver, _) = listener.accept().await?;
    let sending = tokio::spawn(async move {
        sender.write_all(&bytes).await?;
        sender.shutdown().await
    });
    let mut received = Vec::new();
    receiver.read_to_end(&mut received).await?;
    sending.await.map_err(std::io::Error::other)??;
    Ok(received)
}

impl Connector for OwnRuntime {
    fn open(_location: &str, settings: &Settings, host: Host) -> Result<Self> {
        settings.only(&["fault"])?;
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| Error::io("cannot start", &error))?;
        let fault = settings.get("fault").unwrap_or_default().to_owned();
        if fault == "busy-for-ever" {
            let host = host.clone();
            runtime.spawn(async move {
                loop {
                    host.log(Level::Trace, "task", "still here");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
        Ok(Self {
            objects: Objects::default(),
            fault,
            host,
            runtime: Some(runtime),
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_put: true,
            durable_put: false,
            strongly_consistent: true,
            exclusive_create: false,
            max_object_bytes: 1 << 30,
            preferred_pack_bytes: 16 << 20,
            concurrency: 4,
        }
    }

    fn probe(&self) -> Result<Capabilities> {
        Ok(self.capabilities())
    }

    fn init(&self) -> Result<()> {
        Ok(())
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        let objects = self.objects.lock().unwrap();
        let mut objects: Vec<ObjectInfo> = objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && key.as_str() > start_after)
            .map(|(key, bytes)| ObjectInfo {
                key: key.clone(),
                size_bytes: bytes.len() as u64,
            })
            .collect();
        let more = objects.len() > limit;
        objects.truncate(limit);
        Ok(ListPage { objects, more })
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo> {
        let objects = self.objects.lock().unwrap();
        let bytes = objects
            .get(key)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such object"))?;
        Ok(ObjectInfo {
            key: key.to_owned(),
            size_bytes: bytes.len() as u64,
        })
    }

    fn get_into(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let rest = {
            let objects = self.objects.lock().unwrap();
            let bytes = objects
                .get(key)
                .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such object"))?;
            let start = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
            bytes[start..bytes.len().min(start + buffer.len())].to_vec()
        };
        let received = self.run(async move {
            through_a_socket(rest)
                .await
                .map_err(|error| Error::io("socket", &error))
        })?;
        buffer[..received.len()].copy_from_slice(&received);
        Ok(received.len())
    }

    fn put(&self, key: &str, bytes: &[u8], _options: PutOptions) -> Result<()> {
        let (objects, key, bytes) = (Arc::clone(&self.objects), key.to_owned(), bytes.to_vec());
        let (host, panics) = (self.host.for_this_call(), self.fault == "panic-task");
        self.run(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(!panics, "a task had enough");
            host.progress(bytes.len() as u64);
            objects.lock().unwrap().insert(key, bytes);
            Ok(())
        })
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.objects.lock().unwrap().remove(key);
        Ok(())
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            match self.fault.as_str() {
                // Its threads go on for as long as the program does.
                "busy-for-ever" => std::mem::forget(runtime),
                _ => runtime.shutdown_background(),
            }
        }
    }
}
