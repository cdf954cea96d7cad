//! The builder: takes the workers' results in walking order, builds the tree, counts, and tells the observer.

use crossbeam_channel::Receiver;

use crate::format::codec::Writer;
use crate::format::snapshot::Summary;
use crate::format::tree::{Entry, EntryKind, Xattrs};
use crate::id::BlobId;
use crate::pipeline::read::{ReadContext, store_xattrs};
use crate::pipeline::tree::{BlobSink, DirectoryBuilder};
use crate::progress::{Item, ItemState, Job, Problem};
use crate::read_error::ReadError;

use super::worker::{BlobWriter, Step};
use super::{BackupError, Built, Failure};

/// A list of problems is stored in pieces of this size, in bytes.
const PROBLEMS_BYTES: usize = 256 << 10;

struct OpenDirectory {
    entry: Entry,
    path: Vec<u8>,
    builder: DirectoryBuilder,
}

/// Builds one tree.
pub(super) struct Builder<'a> {
    context: &'a ReadContext<'a>,
    writer: BlobWriter<'a>,
    job: Job<'a>,
    root: DirectoryBuilder,
    stack: Vec<OpenDirectory>,
    built: Built,
    problems: Writer,
    path: Vec<u8>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(context: &'a ReadContext<'a>, writer: BlobWriter<'a>, job: Job<'a>) -> Self {
        let built = Built {
            tree: None,
            summary: Summary::default(),
            files_new: 0,
            files_unchanged: 0,
            problem_blobs: Vec::new(),
        };
        Self {
            context,
            writer,
            job,
            root: DirectoryBuilder::default(),
            stack: Vec::new(),
            built,
            problems: Writer::new(),
            path: Vec::new(),
        }
    }

    /// Builds until the last batch; the tree is `None` after a dry run.
    pub(super) fn run(
        mut self,
        order: &Receiver<Receiver<Vec<Step>>>,
        failure: &Failure,
    ) -> Result<Built, BackupError> {
        for batch in order {
            // A worker that failed has said why; without its steps there is no tree.
            let Ok(steps) = batch.recv() else {
                return Err(BackupError::Cancelled);
            };
            for step in steps {
                if let Err(error) = self.step(step) {
                    failure.set(error.into());
                    return Err(BackupError::Cancelled);
                }
            }
        }
        if failure.happened() || self.job.cancel.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        match self.finish() {
            Ok(built) => Ok(built),
            Err(error) => {
                failure.set(error.into());
                Err(BackupError::Cancelled)
            }
        }
    }

    fn step(&mut self, step: Step) -> Result<(), ReadError> {
        match step {
            Step::Enter(mut entry, path) => {
                if let Xattrs::Inline(list) = std::mem::take(&mut entry.xattrs) {
                    entry.xattrs = if self.context.dry_run {
                        Xattrs::default()
                    } else {
                        store_xattrs(list, &mut self.writer)?
                    };
                }
                self.stack.push(OpenDirectory {
                    entry: *entry,
                    path,
                    builder: DirectoryBuilder::default(),
                });
                Ok(())
            }
            Step::Saved(entry, state) => self.saved(&entry, state),
            Step::Problem(problem) => self.problem(&problem),
            Step::Leave => self.leave(),
        }
    }

    fn saved(&mut self, entry: &Entry, state: ItemState) -> Result<(), ReadError> {
        if entry.kind == EntryKind::File {
            self.built.summary.files += 1;
            self.built.summary.logical_bytes += entry.size_bytes;
            match state {
                ItemState::Unchanged => self.built.files_unchanged += 1,
                ItemState::Done | ItemState::Planned => self.built.files_new += 1,
            }
        } else {
            self.built.summary.others += 1;
        }
        self.path.clear();
        self.path
            .extend_from_slice(self.stack.last().map_or(&b""[..], |directory| &directory.path));
        self.path.push(b'/');
        self.path.extend_from_slice(&entry.name);
        let size_bytes = entry.size_bytes;
        self.job.item(Item {
            path: &self.path,
            state,
            directory: false,
            size_bytes,
        });
        self.add(entry)
    }

    fn add(&mut self, entry: &Entry) -> Result<(), ReadError> {
        if self.context.dry_run {
            return Ok(());
        }
        let builder = self
            .stack
            .last_mut()
            .map_or(&mut self.root, |directory| &mut directory.builder);
        builder.add(entry, self.context.repository.keys(), &mut self.writer)
    }

    fn leave(&mut self) -> Result<(), ReadError> {
        let Some(mut directory) = self.stack.pop() else {
            return Ok(());
        };
        self.built.summary.directories += 1;
        let state = if self.context.dry_run {
            ItemState::Planned
        } else {
            ItemState::Done
        };
        if !self.context.dry_run {
            directory.entry.node = Some(directory.builder.finish(&mut self.writer)?);
        }
        self.job.item(Item {
            path: &directory.path,
            state,
            directory: true,
            size_bytes: 0,
        });
        self.add(&directory.entry)
    }

    fn problem(&mut self, problem: &Problem) -> Result<(), ReadError> {
        self.built.summary.problems += 1;
        self.job.problem(problem);
        if self.context.dry_run {
            return Ok(());
        }
        self.problems.bytes(&problem.path);
        self.problems.bytes(problem.message.as_bytes());
        if self.problems.len() >= PROBLEMS_BYTES {
            self.store_problems()
        } else {
            Ok(())
        }
    }

    fn store_problems(&mut self) -> Result<(), ReadError> {
        let list = std::mem::take(&mut self.problems).into_bytes();
        self.built.problem_blobs.push(self.writer.put(&list)?);
        Ok(())
    }

    fn finish(mut self) -> Result<Built, ReadError> {
        if self.context.dry_run {
            return Ok(self.built);
        }
        if !self.problems.is_empty() {
            self.store_problems()?;
        }
        let tree: BlobId = std::mem::take(&mut self.root).finish(&mut self.writer)?;
        self.built.tree = Some(tree);
        self.built.summary.directories += 1;
        let state = ItemState::Done;
        self.job.item(Item {
            path: b"/",
            state,
            directory: true,
            size_bytes: 0,
        });
        self.writer.flush()?;
        Ok(self.built)
    }
}
