//! `plakar ls`.

use std::ffi::OsString;

use clap::Args;
use plakar_core::id::BlobId;
use plakar_core::read_error::ReadError;
use plakar_core::repository::{BlobReader, Entry, EntryCursor, EntryKind, Repository, Snapshot};
use serde_json::{Value, json};

use crate::context::Context;
use crate::engine_errors::{no_such_path, read_error};
use crate::error::{CommandError, Exit};
use crate::selection::{SelectionArgs, Target, choose};
use crate::ui::Output;
use crate::ui::format::{duration_in_seconds, escaped, mode, size, time};
use crate::ui::json::{self, PathText};

/// Decompressed directories that a walk keeps, in bytes.
const WALK_CACHE_BYTES: usize = 16 << 20;

/// List the snapshots, newest first, or what is in one
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  plakar ls
  plakar ls -tag daily -since 30d
  plakar ls 9abc3294
  plakar ls -recursive 9abc3294:/etc/apache2
  plakar ls -name nightly :/etc")]
pub(crate) struct LsArgs {
    /// List everything below the folder, not only what is directly in it
    #[arg(long)]
    recursive: bool,
    /// Show whole snapshot ids
    #[arg(long)]
    uuid: bool,
    /// Show the tags of snapshots
    #[arg(long)]
    tags: bool,
    /// A snapshot, or a path in it; `:PATH` for the latest snapshot
    #[arg(value_name = "ID[:PATH]")]
    target: Option<OsString>,
    #[command(flatten)]
    selection: SelectionArgs,
}

impl LsArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, CommandError> {
        let selection = self.selection.selection(context.now())?;
        let target = Target::parse_all("ls", &self.target, &selection)?.pop();
        let (repository, _) = context.open()?;
        if let Some(target) = target {
            let (snapshot, path, exit) = target.resolve(context, &repository, &selection)?;
            self.list_entries(context, &repository, &snapshot, path)?;
            return Ok(exit);
        }
        let (snapshots, exit) = choose(context, &repository, &selection)?;
        for snapshot in snapshots.iter().rev() {
            context
                .output
                .conclude(&json::snapshot("snapshot", snapshot), self.line(snapshot));
        }
        Ok(exit)
    }

    fn line(&self, snapshot: &Snapshot) -> String {
        let id = if self.uuid {
            snapshot.id.to_string()
        } else {
            snapshot.id.short()
        };
        let mut line = format!(
            "{} {id} {} {} {}",
            time(snapshot.time),
            size(snapshot.summary.logical_bytes),
            duration_in_seconds(snapshot.duration_nanoseconds),
            roots(snapshot)
        );
        if self.tags && !snapshot.tags.is_empty() {
            line.extend([" tags=", &escaped(snapshot.tags.join(",").as_bytes())]);
        }
        line
    }

    fn list_entries(
        &self,
        context: &Context,
        repository: &Repository,
        snapshot: &Snapshot,
        path: Option<Vec<u8>>,
    ) -> Result<(), CommandError> {
        let path = path.unwrap_or_else(|| start_of(snapshot));
        let entry = repository
            .entry_at(snapshot, &path)
            .map_err(|error| read_error(repository, &error))?;
        let Some(entry) = entry else {
            return Err(no_such_path(&path));
        };
        let lister = Lister {
            output: &context.output,
            id: snapshot.id.to_string(),
            recursive: self.recursive,
        };
        match entry.node {
            Some(node) if entry.kind == EntryKind::Directory => {
                // One reader for the whole walk: neighbouring directories are stored together.
                let mut reader = BlobReader::new(repository, WALK_CACHE_BYTES);
                lister
                    .list(&mut reader, node, &path)
                    .map_err(|error| read_error(repository, &error))?;
            }
            _ => lister.show(&entry, &path, &entry.name),
        }
        Ok(())
    }
}

/// The backed-up folders and files of a snapshot, for a line.
pub(crate) fn roots(snapshot: &Snapshot) -> String {
    let roots: Vec<_> = snapshot.roots.iter().map(|root| escaped(root)).collect();
    roots.join(" ")
}

/// Where to start when only a snapshot is named: at its root when it has one.
pub(crate) fn start_of(snapshot: &Snapshot) -> Vec<u8> {
    match snapshot.roots.as_slice() {
        [root] => root.clone(),
        _ => b"/".to_vec(),
    }
}

struct Lister<'a> {
    output: &'a Output,
    id: String,
    recursive: bool,
}

impl Lister<'_> {
    /// Lists a directory. What is in a subdirectory follows the line that names it.
    fn list(&self, reader: &mut BlobReader<'_>, directory: BlobId, path: &[u8]) -> Result<(), ReadError> {
        let mut open = vec![(EntryCursor::new(directory), path.to_vec())];
        while let Some((cursor, path)) = open.last_mut() {
            let Some(entry) = cursor.next(reader)? else {
                open.pop();
                continue;
            };
            let child = join(path, &entry.name);
            self.show(&entry, &child, if self.recursive { &child } else { &entry.name });
            if self.output.is_closed() {
                break;
            }
            if self.recursive
                && let Some(node) = entry.node
            {
                open.push((EntryCursor::new(node), child));
            }
        }
        Ok(())
    }

    fn show(&self, entry: &Entry, path: &[u8], name: &[u8]) {
        if self.output.verbosity().json {
            return self.output.write_event(&self.event(entry, path));
        }
        let owner = |name: &str, number: u32| {
            if name.is_empty() {
                number.to_string()
            } else {
                escaped(name.as_bytes()).into_owned()
            }
        };
        let target = match entry.kind {
            EntryKind::Symlink => format!(" -> {}", escaped(&entry.link_target)),
            _ => String::new(),
        };
        self.output.conclude(
            &Value::Null,
            format_args!(
                "{} {} {:>8} {:>8} {:>8} {}{target}",
                time(entry.modified),
                mode(letter(entry.kind), entry.mode),
                owner(&entry.user, entry.uid),
                owner(&entry.group, entry.gid),
                size(entry.size_bytes),
                escaped(name),
            ),
        );
    }

    fn event(&self, entry: &Entry, path: &[u8]) -> Value {
        let link = (entry.kind == EntryKind::Symlink).then_some(&entry.link_target);
        json!({
            "event": "entry",
            "snapshot": self.id,
            "path": PathText(path),
            "path_hex": PathText::exact(path),
            "type": type_name(entry.kind),
            "mode": entry.mode,
            "uid": entry.uid,
            "gid": entry.gid,
            "user": entry.user,
            "group": entry.group,
            "modified": json::time(entry.modified),
            "size_bytes": entry.size_bytes,
            "link_target": link.map(|target| PathText(target)),
            "link_target_hex": link.and_then(|target| PathText::exact(target)),
        })
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
    [path, slash, name].concat()
}

fn letter(kind: EntryKind) -> char {
    match kind {
        EntryKind::File => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
        EntryKind::CharDevice => 'c',
        EntryKind::BlockDevice => 'b',
    }
}

/// The type of an entry in JSON.
pub(crate) fn type_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink => "symlink",
        EntryKind::Fifo => "fifo",
        EntryKind::Socket => "socket",
        EntryKind::CharDevice => "char_device",
        EntryKind::BlockDevice => "block_device",
    }
}
