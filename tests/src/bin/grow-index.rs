//! Gives a repository in a local folder an index of as many blobs as wanted, for measurements: the packs are holes in files.
//!
//! `grow-index FOLDER BLOBS`, with the passphrase in `PLAKAR_PASSPHRASE`. Nothing that it adds can be restored.

use std::error::Error;
use std::fs;
use std::path::Path;

use plakar_core::plugin::HostOptions;
use plakar_core::repository::{Repository, pack_key};
use plakar_testkit::built::connectors_beside;
use plakar_testkit::engine::keys_of;
use plakar_testkit::large_index::{BLOBS_OF_PACK, PACK_BYTES, pack, publish};

/// Packs that one segment names: 500,000 blobs, as many as a segment takes in from others.
const PACKS_OF_SEGMENT: u32 = 500_000 / BLOBS_OF_PACK;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, blobs] = words.as_slice() else {
        return Err("usage: grow-index FOLDER BLOBS".into());
    };
    let packs = blobs.parse::<u32>()? / BLOBS_OF_PACK;
    let secret = std::env::var("PLAKAR_PASSPHRASE").ok();
    let storage =
        connectors_beside()?.open_connector(folder, &Default::default(), &HostOptions::default())?;
    let mode = Repository::read_config(&storage)?.mode();
    let keys = keys_of(&storage, secret.as_deref());
    for first in (0..packs).step_by(PACKS_OF_SEGMENT as usize) {
        let last = packs.min(first + PACKS_OF_SEGMENT);
        for number in first..last {
            let file = Path::new(folder).join(pack_key(pack(number).0.id));
            fs::create_dir_all(file.parent().ok_or("a pack is in a folder")?)?;
            fs::File::create(file)?.set_len(PACK_BYTES)?;
        }
        publish(&storage, &keys, mode, first..last)?;
    }
    Ok(())
}
