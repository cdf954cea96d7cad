//! How fast each stage is alone, in one thread: chunk, frame, seal, index lookup, tree walk.
//!
//! `cargo bench -p plakar-core -- --quick`; a name after `--` chooses.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use plakar_core::backup::{BackupOptions, Source, backup};
use plakar_core::crypto::keys::{Keys, MasterKey};
use plakar_core::environment::Environment;
use plakar_core::format::config::{ChunkerSettings, Compression};
use plakar_core::format::index_segment::PackInfo;
use plakar_core::format::object::{Mode, ObjectKind, Prelude};
use plakar_core::format::pack::{ContentsBlob, ContentsFrame};
use plakar_core::id::{BlobId, PackId, RepositoryId};
use plakar_core::index::{Claimed, Index};
use plakar_core::pipeline::chunk::Chunker;
use plakar_core::pipeline::frame::FrameBuilder;
use plakar_core::progress::{Cancel, Counters, Job, Silent};
use plakar_core::repository::{BlobReader, CreateOptions, EntryCursor, Repository};
use plakar_core::storage::memory::MemoryStorage;

const CHUNKER: ChunkerSettings = ChunkerSettings {
    min_bytes: 256 << 10,
    average_bytes: 1 << 20,
    max_bytes: 4 << 20,
};

fn keys() -> Keys {
    Keys::derive(&MasterKey::new([1; 32]), RepositoryId([2; 16]))
}

/// Bytes that cannot be compressed.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Bytes that compress about as well as source code: words of a small vocabulary.
fn prose(length: usize) -> Vec<u8> {
    let words: Vec<String> = (0..4096_u32)
        .map(|n| blake3::hash(&n.to_le_bytes()).to_hex()[..6].to_owned())
        .collect();
    let order = noise(length);
    let picks = order
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&pair| usize::from(u16::from_le_bytes(pair)) % words.len());
    let mut text: Vec<u8> = picks
        .filter_map(|pick| words.get(pick))
        .flat_map(|word| word.bytes())
        .collect();
    text.truncate(length);
    text
}

fn chunk(criterion: &mut Criterion) {
    let chunker = Chunker::new(CHUNKER, &keys());
    let bytes = noise(64 << 20);
    let mut group = criterion.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("64 MiB of noise", |bencher| {
        bencher.iter(|| {
            let mut rest = bytes.as_slice();
            let mut chunks = 0;
            while !rest.is_empty() {
                (_, rest) = rest.split_at(chunker.cut(rest));
                chunks += 1;
            }
            black_box(chunks)
        });
    });
}

fn frame(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for (name, bytes) in [("prose", prose(8 << 20)), ("noise", noise(8 << 20))] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("8 MiB of {name}, zstd 3, blobs of 16 KiB"), |bencher| {
            let keys = keys();
            let mut frames = FrameBuilder::new(1 << 20, Compression::Zstd(3)).expect("zstd can be set up");
            bencher.iter(|| {
                let index = Index::empty(Mode::Encrypted, None);
                let mut sealed_bytes = 0;
                for (number, blob) in bytes.chunks(16 << 10).enumerate() {
                    let id = keys.blob_id(&number.to_le_bytes());
                    let Ok(Claimed::Fresh(claim)) = index.claim(id) else {
                        continue;
                    };
                    sealed_bytes += frames.add(claim, blob).map_or(0, |frame| frame.sealed_bytes());
                }
                sealed_bytes + frames.finish().map_or(0, |frame| frame.sealed_bytes())
            });
        });
    }
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    group.throughput(Throughput::Bytes(1 << 20));
    for mode in [Mode::Encrypted, Mode::Plain] {
        let key = keys().object_key(
            Prelude {
                kind: ObjectKind::DataPack,
                mode,
            },
            &[3; 32],
        );
        let plain = noise(1 << 20);
        let mut sealed = plain.clone();
        key.seal(40, &mut sealed);
        group.bench_function(format!("seal 1 MiB, {mode:?}"), |bencher| {
            let mut bytes = Vec::with_capacity(sealed.len());
            bencher.iter(|| {
                bytes.clear();
                bytes.extend_from_slice(&plain);
                key.seal(40, &mut bytes);
            });
        });
        group.bench_function(format!("open 1 MiB, {mode:?}"), |bencher| {
            let mut bytes = Vec::with_capacity(sealed.len());
            bencher.iter(|| {
                bytes.clear();
                bytes.extend_from_slice(&sealed);
                key.open(40, &mut bytes).expect("it was sealed for this place");
            });
        });
    }
    group.bench_function("blob id of 1 MiB", |bencher| {
        let (keys, plain) = (keys(), noise(1 << 20));
        bencher.iter(|| keys.blob_id(&plain));
    });
}

fn blob(keys: &Keys, number: u32) -> BlobId {
    keys.blob_id(&number.to_le_bytes())
}

fn index_lookup(criterion: &mut Criterion) {
    const BLOBS: u32 = 1_000_000;
    let keys = keys();
    let index = Index::empty(Mode::Encrypted, None);
    let blobs = (0..BLOBS)
        .map(|number| ContentsBlob {
            id: blob(&keys, number),
            length: 10,
        })
        .collect();
    let pack = PackInfo {
        id: PackId([4; 32]),
        salt: [5; 32],
        kind: ObjectKind::DataPack,
        size_bytes: 1 << 30,
    };
    index
        .adopt(vec![(
            pack,
            vec![ContentsFrame {
                offset: 40,
                length: 1 << 20,
                blobs,
            }],
        )])
        .expect("it fits in memory");
    let wanted: Vec<BlobId> = (0..10_000).map(|number| blob(&keys, number * 97)).collect();
    let missing: Vec<BlobId> = (0..10_000).map(|number| blob(&keys, BLOBS + number)).collect();
    let mut group = criterion.benchmark_group("index lookup");
    group.throughput(Throughput::Elements(10_000));
    for (name, ids, found) in [("known", &wanted, 10_000), ("unknown", &missing, 0)] {
        group.bench_function(format!("10,000 {name} blobs among 1,000,000"), |bencher| {
            bencher.iter(|| {
                let hits = ids
                    .iter()
                    .filter(|id| index.find(id).is_ok_and(|place| place.is_some()))
                    .count();
                assert_eq!(hits, found);
            });
        });
    }
}

fn tree_walk(criterion: &mut Criterion) {
    const FILES: usize = 20_000;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for number in 0..FILES {
        let file = folder.path().join(format!("a-file-with-a-name-{number:06}"));
        std::fs::write(file, []).expect("the file can be made");
    }
    let (repository, top) = saved(folder.path());
    let mut group = criterion.benchmark_group("tree walk");
    group.throughput(Throughput::Elements(FILES as u64));
    group.bench_function("one folder of 20,000 files", |bencher| {
        bencher.iter(|| {
            let mut reader = BlobReader::new(&repository, 8 << 20);
            let mut cursor = EntryCursor::new(top);
            let mut entries = 0;
            while let Ok(Some(entry)) = cursor.next(&mut reader) {
                black_box(entry);
                entries += 1;
            }
            assert_eq!(entries, FILES);
        });
    });
}

/// A repository in memory with one snapshot of a folder, and the node of that folder.
fn saved(folder: &Path) -> (Repository, BlobId) {
    let storage = Arc::new(MemoryStorage::new());
    let repository = Repository::create(storage, CreateOptions::default(), Environment::system());
    let repository = repository.expect("the memory is empty");
    let job = Job {
        observer: &Silent,
        counters: &Counters::default(),
        cancel: &Cancel::default(),
    };
    let options = BackupOptions {
        sources: vec![Source::Path(folder.to_owned())],
        ..BackupOptions::default()
    };
    let snapshot = backup(&repository, options, job)
        .expect("the folder can be read")
        .snapshot;
    let snapshot = snapshot.expect("it was no dry run");
    let root = snapshot.roots.first().expect("one folder was saved");
    let entry = repository
        .entry_at(&snapshot, root)
        .expect("the memory can be read")
        .expect("the root is there");
    let top = entry.node.expect("it is a directory");
    (repository, top)
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for bench in [chunk, frame, seal, index_lookup, tree_walk] {
        bench(&mut criterion);
    }
    criterion.final_summary();
}
