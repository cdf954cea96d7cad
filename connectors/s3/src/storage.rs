//! The connector: its promises, and how each is kept with requests.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use plakar_plugin_api::{
    Capabilities, Connector, ErrorKind, Host, Level, ListPage, ObjectInfo, PutMode, PutOptions, Result,
    Settings, check_key, check_prefix,
};
use tokio::sync::OnceCell;

use crate::bucket;
use crate::client::{Client, MOST_DOCUMENT_BYTES};
use crate::config::Config;
use crate::download::{self, MOST_OBJECT_BYTES};
use crate::listing;
use crate::request::{Call, Request};
use crate::upload::Upload;

/// Objects in a bucket.
#[derive(Debug)]
pub struct S3Connector {
    client: Client,
    host: Host,
    /// Whether the server is known to leave an object that exists as it is; empty until that was tried out.
    exclusive: OnceCell<bool>,
    /// Whether the server shows at once what was stored, as it was last seen to do.
    consistent: AtomicBool,
    /// Whether this handle has looked for uploads that others left.
    tidied: AtomicBool,
}

impl S3Connector {
    /// Finds out, once for each handle and before the first object is stored, how the server must be asked.
    async fn exclusive(&self, call: &Call) -> Result<bool> {
        let find = async || {
            bucket::check_lock(&self.client, call, &self.host).await?;
            bucket::is_exclusive(&self.client, call).await
        };
        self.exclusive.get_or_try_init(find).await.copied()
    }

    async fn upload(&self, call: &Call, upload: &Upload<'_>) -> Result<()> {
        if upload.is_in_parts() && !self.tidied.swap(true, Ordering::Relaxed) {
            bucket::end_abandoned_uploads(&self.client, call, &self.host).await;
        }
        upload.run(call).await
    }
}

impl Connector for S3Connector {
    fn open(location: &str, settings: &Settings, host: Host) -> Result<Self> {
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let client = Client::new(Config::new(location, settings, &environment)?)?;
        Ok(Self {
            client,
            host,
            exclusive: OnceCell::new(),
            consistent: AtomicBool::new(true),
            tidied: AtomicBool::new(false),
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_put: true,
            durable_put: true,
            strongly_consistent: self.consistent.load(Ordering::Relaxed),
            exclusive_create: self.exclusive.get().copied().unwrap_or(false),
            max_object_bytes: MOST_OBJECT_BYTES,
            preferred_pack_bytes: 16 << 20,
            concurrency: self.client.config.concurrency,
        }
    }

    fn probe(&self) -> Result<Capabilities> {
        self.client.wait(&self.host, async |call| {
            bucket::check_there(&self.client, call).await?;
            self.exclusive(call).await?;
            match bucket::is_consistent(&self.client, call).await {
                Ok(found) => self.consistent.store(found, Ordering::Relaxed),
                // Who may not write cannot find out, and does not need to.
                Err(error) if error.kind == ErrorKind::Permission => {}
                Err(error) => return Err(error),
            }
            bucket::end_abandoned_uploads(&self.client, call, &self.host).await;
            Ok(())
        })?;
        Ok(self.capabilities())
    }

    fn init(&self) -> Result<()> {
        self.client.wait(&self.host, async |call| {
            bucket::prepare(&self.client, call, &self.host).await
        })
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        check_prefix(prefix)?;
        self.client.wait(&self.host, async |call| {
            listing::list(&self.client, call, prefix, start_after, limit).await
        })
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo> {
        check_key(key)?;
        self.client.wait(&self.host, async |call| {
            download::stat(&self.client, call, key).await
        })
    }

    fn get_into(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        check_key(key)?;
        self.client.wait(&self.host, async |call| {
            download::get_into(&self.client, call, key, offset, buffer).await
        })
    }

    fn put(&self, key: &str, bytes: &[u8], options: PutOptions) -> Result<()> {
        check_key(key)?;
        let mut upload = Upload {
            client: &self.client,
            key,
            bytes,
            create: options.mode == PutMode::Create,
            exclusive: false,
            begun: OnceLock::new(),
        };
        let outcome = self.client.wait(&self.host, async |call| {
            upload.exclusive = self.exclusive(call).await?;
            self.upload(call, &upload).await
        });
        if outcome.is_err() && upload.begun.get().is_some() {
            let aborted = self.client.finish(async |call| upload.abort(call).await);
            if let Err(error) = aborted {
                self.host.log(Level::Warn, "upload", &error.message);
            }
        }
        outcome
    }

    fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        let place = &self.client.config.location;
        let request = Request::object(Method::DELETE, &place.object(key));
        self.client.wait(&self.host, async |call| {
            let outcome = match self.client.send(call, &request).await {
                Err(failure) if failure.status() == Some(404) && failure.code() != "NoSuchBucket" => {
                    return Ok(());
                }
                Err(failure) => Err(failure),
                Ok(response) => response.document(MOST_DOCUMENT_BYTES).await.map(drop),
            };
            outcome.map_err(|failure| failure.about(&format!("delete {}", place.display(key))))
        })
    }
}
