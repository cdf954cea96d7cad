//! `plakar info`.

use std::ffi::OsString;

use clap::Args;
use plakar_core::repository::{Compression, Repository, Snapshot};
use serde_json::json;

use crate::context::{Context, shown_location};
use crate::engine_errors::{no_such_path, read_error};
use crate::error::{CommandError, Exit};
use crate::selection::{Selection, SelectionArgs, Target, choose, none_chosen};
use crate::ui::format::{count, duration, escaped, mode, one_line, size, time};
use crate::ui::json::{self, PathText, ProblemEvent};

/// Show the settings and sizes of the repository, or what is known about snapshots
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  plakar info
  plakar info 9abc3294
  plakar info -latest
  plakar info -errors 9abc3294")]
pub(crate) struct InfoArgs {
    /// List what could not be backed up
    #[arg(long)]
    errors: bool,
    /// A snapshot, or a path in it; `:PATH` for the latest snapshot
    #[arg(value_name = "ID[:PATH]")]
    target: Option<OsString>,
    #[command(flatten)]
    selection: SelectionArgs,
}

impl InfoArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, CommandError> {
        let selection = self.selection.selection(context.now())?;
        let target = Target::parse_all("info", &self.target, &selection)?.pop();
        if self.errors && target.is_none() && !selection.is_given() {
            return Err(CommandError::usage("info: -errors needs a snapshot")
                .hint("name one, or choose the last with -latest"));
        }
        if self.errors && target.as_ref().is_some_and(Target::has_path) {
            return Err(
                CommandError::usage("info: -errors is about whole snapshots").hint("leave out the path")
            );
        }
        let (repository, _) = context.open()?;
        let Some(target) = target else {
            return if selection.is_given() {
                self.about_chosen(context, &repository, &selection)
            } else {
                about_repository(context, &repository)
            };
        };
        let (snapshot, path, exit) = target.resolve(context, &repository, &selection)?;
        match path {
            Some(path) => about_entry(context, &repository, &snapshot, &path)?,
            None => self.about(context, &repository, &snapshot)?,
        }
        Ok(exit)
    }

    /// About every snapshot that the options choose, newest first.
    fn about_chosen(
        &self,
        context: &Context,
        repository: &Repository,
        selection: &Selection,
    ) -> Result<Exit, CommandError> {
        let (snapshots, exit) = choose(context, repository, selection)?;
        if snapshots.is_empty() {
            return Err(none_chosen(repository, selection, exit).context("info"));
        }
        for (number, snapshot) in snapshots.iter().rev().enumerate() {
            if number > 0 && !self.errors && !context.output.verbosity().json {
                context.output.conclude(&(), "");
            }
            self.about(context, repository, snapshot)?;
        }
        Ok(exit)
    }

    fn about(
        &self,
        context: &Context,
        repository: &Repository,
        snapshot: &Snapshot,
    ) -> Result<(), CommandError> {
        if self.errors {
            return list_problems(context, repository, snapshot);
        }
        context
            .output
            .conclude(&json::snapshot("snapshot", snapshot), about_snapshot(snapshot));
        Ok(())
    }
}

/// Lines of `Name: value`.
fn listing(fields: &[(&str, String)]) -> String {
    let lines: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}").trim_end().to_owned())
        .collect();
    lines.join("\n")
}

fn both(bytes: u64) -> String {
    if bytes < 1000 {
        size(bytes)
    } else {
        format!("{} ({bytes} bytes)", size(bytes))
    }
}

fn about_repository(context: &Context, repository: &Repository) -> Result<Exit, CommandError> {
    let config = repository.config();
    let statistics = repository
        .statistics()
        .map_err(|error| read_error(repository, &error))?;
    let location = shown_location(repository.location());
    let compression = match config.compression {
        Compression::None => "none".to_owned(),
        Compression::Zstd(level) => format!("zstd:{level}"),
    };
    let ratio = statistics.logical_bytes as f64 / (statistics.stored_bytes as f64).max(1.0);
    let event = json!({
        "event": "repository",
        "location": location,
        "repository": config.repository_id.to_string(),
        "created": json::time(config.created),
        "encrypted": config.encrypted,
        "compression": compression,
        "snapshots": statistics.snapshots,
        "packs": statistics.packs,
        "blobs": statistics.blobs,
        "index_segments": statistics.index_segments,
        "logical_bytes": statistics.logical_bytes,
        "unique_bytes": statistics.unique_bytes,
        "stored_bytes": statistics.stored_bytes,
        "ratio": ratio,
    });
    let traffic = context.traffic().unwrap_or_default();
    let requests = format!(
        "{} for this, {} received",
        count(traffic.requests(), "request"),
        size(traffic.received_bytes)
    );
    let encryption = if config.encrypted { "passphrase" } else { "none" };
    let text = listing(&[
        ("Repository", config.repository_id.to_string()),
        ("Location", location),
        ("Created", time(config.created)),
        ("Encryption", encryption.to_owned()),
        ("Compression", compression),
        ("Snapshots", statistics.snapshots.to_string()),
        ("Packs", statistics.packs.to_string()),
        ("Blobs", statistics.blobs.to_string()),
        ("Index segments", statistics.index_segments.to_string()),
        ("Logical size", both(statistics.logical_bytes)),
        ("Unique size", both(statistics.unique_bytes)),
        ("Stored size", both(statistics.stored_bytes)),
        ("Ratio", format!("{ratio:.2}")),
        ("Storage", requests),
    ]);
    context.output.conclude(&event, text);
    Ok(Exit::Done)
}

fn about_snapshot(snapshot: &Snapshot) -> String {
    let text = |text: &str| escaped(text.as_bytes()).into_owned();
    let summary = &snapshot.summary;
    listing(&[
        ("Snapshot", snapshot.id.to_string()),
        ("Time", time(snapshot.time)),
        ("Duration", duration(snapshot.duration_nanoseconds)),
        ("Roots", super::ls::roots(snapshot)),
        ("Name", text(&snapshot.name)),
        ("Tags", text(&snapshot.tags.join(","))),
        ("Host", text(&snapshot.hostname)),
        ("User", text(&snapshot.username)),
        (
            "Parent",
            snapshot
                .parent
                .map_or_else(|| "none".to_owned(), |parent| parent.to_string()),
        ),
        ("Program", text(&snapshot.program)),
        ("Files", summary.files.to_string()),
        ("Directories", summary.directories.to_string()),
        ("Others", summary.others.to_string()),
        ("Size", both(summary.logical_bytes)),
        ("Errors", summary.problems.to_string()),
    ])
}

fn about_entry(
    context: &Context,
    repository: &Repository,
    snapshot: &Snapshot,
    path: &[u8],
) -> Result<(), CommandError> {
    let entry = repository
        .entry_at(snapshot, path)
        .map_err(|error| read_error(repository, &error))?;
    let Some(entry) = entry else {
        return Err(no_such_path(path));
    };
    let kind = super::ls::type_name(entry.kind);
    let event = json!({
        "event": "entry",
        "snapshot": snapshot.id.to_string(),
        "path": PathText(path),
        "path_hex": PathText::exact(path),
        "type": kind,
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "user": entry.user,
        "group": entry.group,
        "modified": json::time(entry.modified),
        "size_bytes": entry.size_bytes,
    });
    let mut fields = vec![
        ("Path", escaped(path).into_owned()),
        ("Type", kind.replace('_', " ")),
        (
            "Mode",
            format!("{} ({:04o})", mode('-', entry.mode).split_off(1), entry.mode),
        ),
        (
            "Owner",
            format!("{} ({})", escaped(entry.user.as_bytes()), entry.uid),
        ),
        (
            "Group",
            format!("{} ({})", escaped(entry.group.as_bytes()), entry.gid),
        ),
        ("Modified", json::time(entry.modified)),
        ("Size", both(entry.size_bytes)),
    ];
    if !entry.link_target.is_empty() {
        fields.push(("Target", escaped(&entry.link_target).into_owned()));
    }
    context.output.conclude(&event, listing(&fields));
    Ok(())
}

fn list_problems(
    context: &Context,
    repository: &Repository,
    snapshot: &Snapshot,
) -> Result<(), CommandError> {
    let id = snapshot.id.to_string();
    for problem in repository
        .problems(snapshot)
        .map_err(|error| read_error(repository, &error))?
    {
        // Asked for, so on standard output.
        context.output.conclude(
            &ProblemEvent::new(Some(&id), &problem.path, &problem.message),
            format_args!("{}: {}", escaped(&problem.path), one_line(&problem.message)),
        );
    }
    Ok(())
}
