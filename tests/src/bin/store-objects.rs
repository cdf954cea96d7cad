//! Moves files to a storage and back as objects, through a connector, its host and nothing else: what a line and a server allow.
//!
//! `store-objects put|get URL FOLDER [NAME=VALUE]…` stores every file of FOLDER under its name, or fetches all objects into FOLDER.
//! The connectors are those built beside this program; NAME=VALUE are settings of the connector.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use plakar_core::plugin::HostOptions;
use plakar_core::storage::{PutMode, PutOptions, Storage, list_all};
use plakar_testkit::built::connectors_beside;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// What one call reads; a restore asks for as much of a pack that it needs whole.
const READ_BYTES: u64 = 8 << 20;

fn main() -> Outcome {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [action, location, folder, settings @ ..] = words.as_slice() else {
        return Err("usage: store-objects put|get URL FOLDER [NAME=VALUE]...".into());
    };
    let settings: BTreeMap<String, String> = settings
        .iter()
        .filter_map(|setting| setting.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let storage = connectors_beside()?.open_connector(location, &settings, &HostOptions::default())?;
    let concurrency = storage.capabilities().concurrency.max(2) as usize;
    let folder = Path::new(folder);
    match action.as_str() {
        "put" => {
            let files = fs::read_dir(folder)?
                .map(|entry| Ok(entry?.path()))
                .collect::<std::io::Result<Vec<PathBuf>>>()?;
            // A backup stores as many packs at once.
            at_once((concurrency / 2).min(4), files, |file| put(&storage, file))
        }
        "get" => {
            let mut objects = Vec::new();
            list_all(&storage, "packs/", |object| objects.push(object))?;
            let mut ranges = Vec::new();
            for object in objects {
                let name = object.key.rsplit('/').next().unwrap_or_default();
                let file = Arc::new(fs::File::create(folder.join(name))?);
                for offset in (0..object.size_bytes).step_by(usize::try_from(READ_BYTES)?) {
                    let length = READ_BYTES.min(object.size_bytes - offset);
                    ranges.push((object.key.clone(), offset, length, Arc::clone(&file)));
                }
            }
            at_once(concurrency, ranges, |(key, offset, length, file)| {
                use std::os::unix::fs::FileExt as _;
                let bytes = storage.get(key, *offset, *length)?;
                Ok(file.write_all_at(&bytes, *offset)?)
            })
        }
        other => Err(format!("put or get, not {other}").into()),
    }
}

fn put(storage: &dyn Storage, file: &Path) -> Outcome {
    let bytes = fs::read(file)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let options = PutOptions {
        mode: PutMode::Create,
        durable: true,
        blake3: *blake3::hash(&bytes).as_bytes(),
    };
    Ok(storage.put(&format!("packs/{name}"), Arc::new(bytes), options)?)
}

/// Does `work` with every item on some threads, until one fails.
fn at_once<T: Send>(threads: usize, items: Vec<T>, work: impl Fn(&T) -> Outcome + Sync) -> Outcome {
    let items = Mutex::new(items.into_iter());
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| std::iter::from_fn(&next).try_for_each(|item| work(&item))))
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| "a thread panicked")?)
    })
}
