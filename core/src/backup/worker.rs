//! A worker: takes batches, saves their files, and helps with the chunks of other workers' large files.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::format::tree::Entry;
use crate::id::BlobId;
use crate::index::Claimed;
use crate::pipeline::frame::{FrameBuilder, PlainFrame};
use crate::pipeline::pack::{Pack, Packer};
use crate::pipeline::read::{ChunkSink, ReadContext, save, save_stream};
use crate::pipeline::scan::{Batch, WalkItem};
use crate::pipeline::tree::BlobSink;
use crate::progress::{Counters, ItemState, Problem};
use crate::read_error::ReadError;
use crate::repository::Repository;
use crate::storage::{StorageError, StorageErrorKind};

use super::Failure;

/// One step of the walk after a worker had it.
#[derive(Debug)]
pub(super) enum Step {
    Enter(Box<Entry>, Vec<u8>),
    Saved(Box<Entry>, ItemState),
    Problem(Problem),
    Leave,
}

/// A chunk of a large file that any worker may store.
#[derive(Debug)]
pub(super) struct ChunkJob {
    plain: Vec<u8>,
    reply: Sender<BlobId>,
}

fn stopped() -> ReadError {
    ReadError::Storage(StorageError::new(
        StorageErrorKind::Cancelled,
        "store",
        "a chunk",
        "stopped",
    ))
}

/// Dedup, frame, seal and pack for one thread.
#[derive(Debug)]
pub(super) struct BlobWriter<'a> {
    repository: &'a Repository,
    frames: FrameBuilder,
    packer: &'a Packer<'a>,
    packs: Sender<Pack>,
}

impl<'a> BlobWriter<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        packer: &'a Packer<'a>,
        packs: Sender<Pack>,
    ) -> std::io::Result<Self> {
        let config = repository.config();
        let frames = FrameBuilder::new(config.frame_bytes, config.compression)?;
        Ok(Self {
            repository,
            frames,
            packer,
            packs,
        })
    }

    fn pack(&self, frame: PlainFrame) -> Result<(), ReadError> {
        let packs = self.packer.add(frame).map_err(|error| {
            ReadError::Storage(StorageError::new(
                StorageErrorKind::Other,
                "seal",
                "a pack",
                error.to_string(),
            ))
        })?;
        packs
            .into_iter()
            .try_for_each(|pack| self.packs.send(pack).ok().ok_or_else(stopped))
    }

    pub(super) fn flush(&mut self) -> Result<(), ReadError> {
        self.frames.finish().map_or(Ok(()), |frame| self.pack(frame))
    }
}

impl BlobSink for BlobWriter<'_> {
    fn put(&mut self, plain: &[u8]) -> Result<BlobId, ReadError> {
        let id = self.repository.keys().blob_id(plain);
        if let Claimed::Fresh(claim) = self.repository.claim(id)?
            && let Some(frame) = self.frames.add(claim, plain)
        {
            self.pack(frame)?;
        }
        Ok(id)
    }
}

/// A chunk that was submitted: done here, or in another worker's hands.
#[derive(Debug)]
enum Submitted {
    Done(BlobId),
    Out(Receiver<BlobId>),
}

/// The writer of one worker together with its ties to the others.
#[derive(Debug)]
struct SharingWriter<'a> {
    writer: BlobWriter<'a>,
    chunk_in: Sender<ChunkJob>,
    chunk_out: Receiver<ChunkJob>,
    submitted: VecDeque<Submitted>,
}

impl SharingWriter<'_> {
    fn help(&mut self, job: &ChunkJob) -> Result<(), ReadError> {
        let id = self.writer.put(&job.plain)?;
        // Its owner may have given up: then nobody needs the id.
        job.reply.send(id).unwrap_or_default();
        Ok(())
    }
}

impl BlobSink for SharingWriter<'_> {
    fn put(&mut self, plain: &[u8]) -> Result<BlobId, ReadError> {
        self.writer.put(plain)
    }
}

impl ChunkSink for SharingWriter<'_> {
    fn submit(&mut self, plain: &[u8]) -> Result<(), ReadError> {
        // Everybody is busy: do it here, without copying.
        let submitted = if self.chunk_in.is_full() {
            Submitted::Done(self.writer.put(plain)?)
        } else {
            let (reply, id) = bounded(1);
            match self.chunk_in.try_send(ChunkJob {
                plain: plain.to_vec(),
                reply,
            }) {
                Ok(()) => Submitted::Out(id),
                Err(_) => Submitted::Done(self.writer.put(plain)?),
            }
        };
        self.submitted.push_back(submitted);
        Ok(())
    }

    fn drain(&mut self, limit: usize, ids: &mut Vec<BlobId>) -> Result<(), ReadError> {
        while self.submitted.len() > limit {
            match self.submitted.pop_front() {
                Some(Submitted::Done(id)) => ids.push(id),
                Some(Submitted::Out(id)) => ids.push(self.wait_for(&id)?),
                None => break,
            }
        }
        Ok(())
    }

    fn abandon(&mut self) {
        self.submitted.clear();
    }
}

impl SharingWriter<'_> {
    /// Waits for one id, and works on queued chunks meanwhile: so two owners can never wait for each other.
    fn wait_for(&mut self, id: &Receiver<BlobId>) -> Result<BlobId, ReadError> {
        loop {
            if let Ok(id) = id.try_recv() {
                return Ok(id);
            }
            match self.chunk_out.try_recv() {
                Ok(job) => self.help(&job)?,
                Err(_) => return id.recv().ok().ok_or_else(stopped),
            }
        }
    }
}

/// One worker thread.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    context: &'a ReadContext<'a>,
    sharing: SharingWriter<'a>,
    busy: &'a AtomicUsize,
    failure: &'a Failure,
    buffer: Vec<u8>,
}

/// How long an idle worker waits for chunks before it looks whether anybody may still send some.
const IDLE: Duration = Duration::from_millis(2);

impl<'a> Worker<'a> {
    pub(super) fn new(
        context: &'a ReadContext<'a>,
        writer: BlobWriter<'a>,
        chunk_in: Sender<ChunkJob>,
        chunk_out: Receiver<ChunkJob>,
        busy: &'a AtomicUsize,
        failure: &'a Failure,
    ) -> Self {
        let sharing = SharingWriter {
            writer,
            chunk_in,
            chunk_out,
            submitted: VecDeque::new(),
        };
        Self {
            context,
            sharing,
            busy,
            failure,
            buffer: Vec::new(),
        }
    }

    /// Works until no batch is left and no owner of a large file needs help.
    pub(super) fn run(mut self, batches: &Receiver<(Batch, Sender<Vec<Step>>)>) {
        let result = self.work(batches).and_then(|()| self.sharing.writer.flush());
        if let Err(error) = result {
            self.failure.set(error.into());
        }
    }

    fn work(&mut self, batches: &Receiver<(Batch, Sender<Vec<Step>>)>) -> Result<(), ReadError> {
        let chunks = self.sharing.chunk_out.clone();
        let mut open = true;
        while open || self.busy.load(Ordering::Acquire) > 0 {
            if !open {
                match chunks.recv_timeout(IDLE) {
                    Ok(job) => self.sharing.help(&job)?,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
                continue;
            }
            crossbeam_channel::select! {
                recv(chunks) -> job => if let Ok(job) = job { self.sharing.help(&job)? },
                recv(batches) -> batch => match batch {
                    Ok((batch, reply)) => {
                        self.busy.fetch_add(1, Ordering::AcqRel);
                        let steps = self.batch(batch);
                        self.busy.fetch_sub(1, Ordering::AcqRel);
                        // The builder is gone only after a failure, which it reported.
                        reply.send(steps?).unwrap_or_default();
                    }
                    Err(_) => open = false,
                },
            }
        }
        Ok(())
    }

    fn batch(&mut self, batch: Batch) -> Result<Vec<Step>, ReadError> {
        let mut steps = Vec::with_capacity(batch.len());
        for item in batch {
            if self.failure.happened() || self.context.cancel.is_cancelled() {
                return Err(stopped());
            }
            match item {
                WalkItem::Enter(entry, path) => steps.push(Step::Enter(entry, path)),
                WalkItem::Leave => steps.push(Step::Leave),
                WalkItem::Problem(problem) => steps.push(Step::Problem(problem)),
                WalkItem::File(file) => {
                    let saved = save(self.context, file, &mut self.buffer, &mut self.sharing)?;
                    self.push(saved, &mut steps);
                }
                WalkItem::Stream(entry, path, mut reader) => {
                    let saved = save_stream(
                        self.context,
                        *entry,
                        &path,
                        reader.as_mut(),
                        &mut self.buffer,
                        &mut self.sharing,
                    )?;
                    self.push(saved, &mut steps);
                }
            }
        }
        Ok(steps)
    }

    fn push(&self, saved: crate::pipeline::read::Saved, steps: &mut Vec<Step>) {
        steps.extend(saved.problems.into_iter().map(Step::Problem));
        if let Some(entry) = saved.entry {
            if saved.state != ItemState::Done {
                Counters::add(&self.context.counters.bytes, entry.size_bytes);
            }
            steps.push(Step::Saved(Box::new(entry), saved.state));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::environment::Environment;
    use crate::format::object::ObjectKind;
    use crate::format::tree::{Content, EntryKind};
    use crate::pipeline::chunk::Chunker;
    use crate::pipeline::metadata::Owners;
    use crate::progress::Cancel;
    use crate::repository::CreateOptions;
    use crate::storage::memory::MemoryStorage;

    /// Gives so many bytes and then an error, as a device with a bad sector does.
    struct Failing(std::io::Cursor<Vec<u8>>);

    impl std::io::Read for Failing {
        fn read(&mut self, space: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(space)? {
                0 => Err(std::io::Error::from_raw_os_error(5)),
                length => Ok(length),
            }
        }
    }

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new()
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_file_after_one_that_could_not_be_read_to_its_end_has_its_own_chunks() {
        let storage = Arc::new(MemoryStorage::new());
        let options = CreateOptions::default();
        let repository = Repository::create(storage, options, Environment::system()).unwrap();
        let (chunker, owners) = (
            Chunker::new(repository.config().chunker, repository.keys()),
            Owners::default(),
        );
        let (counters, cancel) = (Counters::default(), Cancel::default());
        let context = ReadContext {
            repository: &repository,
            chunker: &chunker,
            owners: &owners,
            counters: &counters,
            cancel: &cancel,
            xattrs: false,
            dry_run: false,
            parent_time: None,
            links: Mutex::new(HashMap::new()),
        };
        let mode = repository.config().mode();
        let environment = Environment::system();
        let packer = Packer::new(
            repository.keys(),
            &environment,
            ObjectKind::DataPack,
            mode,
            1 << 30,
        );
        let (pack_in, _pack_out) = bounded(1);
        let (chunk_in, chunk_out) = bounded(4);
        let mut sharing = SharingWriter {
            writer: BlobWriter::new(&repository, &packer, pack_in).unwrap(),
            chunk_in,
            chunk_out,
            submitted: VecDeque::new(),
        };
        let mut save = |reader: &mut dyn std::io::Read| {
            let entry = Entry::new(b"file".to_vec(), EntryKind::File);
            save_stream(&context, entry, b"/file", reader, &mut Vec::new(), &mut sharing).unwrap()
        };
        let failed = save(&mut Failing(std::io::Cursor::new(noise(1, 20 << 20))));
        assert!(failed.entry.is_none() && failed.problems.len() == 1);
        let good = noise(2, 20 << 20);
        let saved = save(&mut good.as_slice()).entry.unwrap();
        let Content::List { depth: 0, items } = &saved.content else {
            panic!("20 MiB are a short list: {:?}", saved.content);
        };
        let mut rest = good.as_slice();
        for item in items {
            let (chunk, after) = rest.split_at(usize::try_from(item.length).unwrap());
            assert_eq!(item.blob, Some(repository.keys().blob_id(chunk)));
            rest = after;
        }
        assert!(rest.is_empty());
    }
}
