//! `plakar cat`.

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Args;
use plakar_core::repository::{EntryKind, Repository};
use serde::Serialize;

use crate::context::Context;
use crate::engine_errors::{no_such_path, read_error, read_file_error};
use crate::error::{CommandError, Exit};
use crate::selection::{Selection, SelectionArgs, Target};
use crate::ui::Output;
use crate::ui::format::escaped;
use crate::ui::json::{PathText, base64};

/// Write files of a snapshot to standard output
///
/// With -json the content comes in `data` events, in base 64.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  plakar cat 9abc3294:/etc/hosts
  plakar cat -before 7d :/etc/hosts
  plakar cat 9abc3294:/home/me/photos.tar | tar -t")]
pub(crate) struct CatArgs {
    /// The files; `:PATH` for those in the latest snapshot. A path that does not start with `/` starts at the root of the
    /// snapshot
    #[arg(value_name = "ID:PATH", required = true)]
    targets: Vec<OsString>,
    #[command(flatten)]
    selection: SelectionArgs,
}

impl CatArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, CommandError> {
        let selection = self.selection.selection(context.now())?;
        let targets = Target::parse_all("cat", &self.targets, &selection)?;
        if let Some(whole) = targets.iter().find(|target| !target.has_path()) {
            return Err(
                CommandError::usage(format!("cat: `{}` names no file", whole.prefix()))
                    .hint(format!("write {}:PATH", whole.prefix())),
            );
        }
        let (repository, _) = context.open()?;
        let (mut failures, mut exit) = (Vec::new(), Exit::Done);
        for target in &targets {
            match cat(context, &repository, &selection, target) {
                Ok(chosen) => exit = exit.and(chosen),
                Err(error) => failures.push(error.context("cat")),
            }
        }
        // The last one is told by the program's end.
        let Some(last) = failures.pop() else {
            return Ok(exit);
        };
        let partial = failures.len() + 1 < targets.len();
        for error in &failures {
            context.output.error(error);
        }
        Err(if partial && last.exit != Exit::Damaged {
            CommandError {
                exit: Exit::Partial,
                ..last
            }
        } else {
            last
        })
    }
}

fn cat(
    context: &Context,
    repository: &Repository,
    selection: &Selection,
    target: &Target,
) -> Result<Exit, CommandError> {
    let (snapshot, path, exit) = target.resolve(context, repository, selection)?;
    let path = path.unwrap_or_else(|| b"/".to_vec());
    let entry = repository
        .entry_at(&snapshot, &path)
        .map_err(|error| read_error(repository, &error))?;
    let Some(entry) = entry else {
        return Err(no_such_path(&path));
    };
    if entry.kind != EntryKind::File {
        let what = super::ls::type_name(entry.kind).replace('_', " ");
        return Err(CommandError::new(
            Exit::Failed,
            format!("{} is a {what}, not a file", escaped(&path)),
        ));
    }
    let output = &*context.output;
    let id = snapshot.id.to_string();
    let read = if output.verbosity().json {
        repository.read_file(
            &entry,
            &mut DataEvents {
                output,
                snapshot: &id,
                path: &path,
                offset: 0,
            },
        )
    } else {
        repository.read_file(&entry, &mut &*output)
    };
    match read {
        Ok(()) => Ok(exit),
        Err(error) => read_file_error(repository, &error).map_or(Ok(exit), Err),
    }
}

/// Writes what it is given as events.
struct DataEvents<'a> {
    output: &'a Output,
    snapshot: &'a str,
    path: &'a [u8],
    offset: u64,
}

#[derive(Serialize)]
struct DataEvent<'a> {
    event: &'static str,
    snapshot: &'a str,
    path: PathText<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    offset: u64,
    base64: String,
}

impl Write for DataEvents<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.output.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.output.write_event(&DataEvent {
            event: "data",
            snapshot: self.snapshot,
            path: PathText(self.path),
            path_hex: PathText::exact(self.path),
            offset: self.offset,
            base64: base64(bytes),
        });
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
