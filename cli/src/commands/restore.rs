//! `plakar restore`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use plakar_core::environment::Timestamp;
use plakar_core::repository::Snapshot;
use plakar_core::restore::{Overwrite, RestoreOptions, RestoreReport, Select, Selection, restore};
use serde_json::json;

use crate::context::Context;
use crate::engine_errors::restore_error;
use crate::error::{CommandError, Exit};
use crate::passphrase::shown;
use crate::patterns::Patterns;
use crate::selection::{SelectionArgs, Target, latest};
use crate::ui::format::{count, escaped};
use crate::ui::json::PathText;
use crate::ui::progress::{self, LineStyle};

/// Restore a snapshot, or a part of it, into a folder
///
/// The contents of the backed-up folder are put into the target folder. Without a snapshot the latest is restored, of those that
/// the options choose. Nothing is overwritten unless -overwrite says so.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  plakar restore -to /tmp/restore 9abc3294
  plakar restore -to /tmp/apache 9abc3294:/etc/apache2
  plakar restore -tag daily -to / -overwrite if-newer
  plakar restore -to /tmp/apache :/etc/apache2
  plakar restore -to /tmp/photos -include '*.jpg' -exclude thumbnails 9abc3294")]
pub(crate) struct RestoreArgs {
    /// The folder to restore into [default: plakar-YYYYmmddHHMMSS in the current folder]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// What to do with files that exist already; with `error` nothing is written when one does
    #[arg(long, value_name = "MODE", default_value = "error")]
    overwrite: OverwriteMode,
    /// Show what would be restored, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Restore only what matches this pattern (as in .gitignore); may be repeated
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave out what matches this pattern (as in .gitignore); may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Do not restore owners, modes and attributes
    #[arg(long)]
    skip_permissions: bool,
    /// The snapshot, or a path in it; `:PATH` for the latest snapshot
    #[arg(value_name = "ID[:PATH]")]
    target: Option<OsString>,
    #[command(flatten)]
    selection: SelectionArgs,
}

/// What to do with a file that exists.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum OverwriteMode {
    /// Replace it
    Always,
    /// Replace it if the one in the snapshot is newer
    IfNewer,
    /// Leave it as it is
    Never,
    /// Stop before anything is written
    Error,
}

impl RestoreArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, CommandError> {
        let selection = self.selection.selection(context.now())?;
        let target = Target::parse_all("restore", &self.target, &selection)?.pop();
        let select = select(&self.include, &self.exclude)?;
        let folder = self.to.clone().unwrap_or_else(|| default_target(context.now()));
        let folder = std::path::absolute(&folder).map_err(|error| {
            CommandError::because(
                Exit::CannotCreate,
                "restore: cannot use the target folder",
                &error,
            )
        })?;
        let (repository, _) = context.open()?;
        let (snapshot, path, chosen) = if let Some(target) = target {
            target.resolve(context, &repository, &selection)?
        } else {
            let (snapshot, chosen) = latest(context, &repository, &selection)?;
            (snapshot, None, chosen)
        };
        let options = RestoreOptions {
            path,
            target: folder.clone(),
            overwrite: self.overwrite.into(),
            dry_run: self.dry_run,
            permissions: !self.skip_permissions,
            select,
            workers: context.workers(),
        };
        let report = progress::run(
            &context.output,
            LineStyle::Done,
            !context.options.no_progress,
            |job, monitor| {
                restore(&repository, &snapshot, options, job).map(|report| (report, monitor.item_count()))
            },
        );
        let (report, items) =
            report.map_err(|error| super::stopped(context, restore_error(&repository, &error), "restore"))?;
        if items == 0 && report.problem_count == 0 && !self.include.is_empty() {
            let (id, root) = (snapshot.id.short(), escaped(&report.root));
            let message =
                format!("restore: nothing in {id}:{root} matches -include, so nothing was restored");
            return Err(CommandError::new(Exit::NotFound, message)
                .hint(format!("see what it has with `plakar ls -recursive {id}`")));
        }
        Ok(chosen.and(self.tell(context, &snapshot, &folder, &report)))
    }

    fn tell(&self, context: &Context, snapshot: &Snapshot, folder: &Path, report: &RestoreReport) -> Exit {
        let shown_folder = shown(folder.as_os_str());
        let event = json!({
            "event": "restored",
            "snapshot": snapshot.id.to_string(),
            "path": PathText(&report.root),
            "path_hex": PathText::exact(&report.root),
            "target": PathText(folder.as_os_str().as_bytes()),
            "target_hex": PathText::exact(folder.as_os_str().as_bytes()),
            "files": report.files,
            "bytes": report.bytes,
            "problems": report.problem_count,
            "damaged": report.damage_count,
            "dry_run": self.dry_run,
        });
        let what = format!(
            "restoration of {}:{} at {shown_folder}",
            snapshot.id.short(),
            escaped(&report.root)
        );
        let ending = match (self.dry_run, report.problem_count) {
            (true, _) => "was only planned, nothing was written".to_owned(),
            (false, 0) => "completed successfully".to_owned(),
            (false, problems) => format!("completed with {}", count(problems, "error")),
        };
        context
            .output
            .conclude(&event, format_args!("restore: {what} {ending}"));
        match (report.damage_count, report.problem_count) {
            (0, 0) => Exit::Done,
            (0, _) => Exit::Partial,
            _ => Exit::Damaged,
        }
    }
}

impl From<OverwriteMode> for Overwrite {
    fn from(mode: OverwriteMode) -> Self {
        match mode {
            OverwriteMode::Always => Self::Always,
            OverwriteMode::IfNewer => Self::IfNewer,
            OverwriteMode::Never => Self::Never,
            OverwriteMode::Error => Self::Error,
        }
    }
}

/// `plakar-YYYYmmddHHMMSS`, in UTC.
fn default_target(now: Timestamp) -> PathBuf {
    let digits: String = crate::ui::format::time(now)
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    PathBuf::from(format!("plakar-{digits}"))
}

fn select(include: &[String], exclude: &[String]) -> Result<Option<Arc<Select>>, CommandError> {
    if include.is_empty() && exclude.is_empty() {
        return Ok(None);
    }
    let wanted = Patterns::new("-include", include)?;
    let unwanted = Patterns::new("-exclude", exclude)?;
    let all = include.is_empty();
    Ok(Some(Arc::new(move |path, directory| {
        if unwanted.matches(path, directory) {
            Selection::Skip
        } else if all || wanted.matches_with_parents(path, directory) {
            Selection::Take
        } else if directory {
            Selection::Descend
        } else {
            Selection::Skip
        }
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_target_is_named_for_the_time() {
        let now = Timestamp {
            seconds: 1_740_001_096,
            nanoseconds: 0,
        };
        assert_eq!(default_target(now), Path::new("plakar-20250219213816"));
    }

    #[test]
    fn what_is_excluded_is_skipped_and_what_is_not_included_is_only_walked() {
        let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let select = select(&list(&["*.jpg", "keep/"]), &list(&["thumbs"]))
            .expect("good patterns")
            .expect("some");
        assert_eq!(select(b"a/b.jpg", false), Selection::Take);
        assert_eq!(select(b"a", true), Selection::Descend);
        assert_eq!(select(b"a/b.txt", false), Selection::Skip);
        assert_eq!(select(b"keep", true), Selection::Take);
        assert_eq!(select(b"keep/deep/b.txt", false), Selection::Take);
        assert_eq!(select(b"keep/thumbs", true), Selection::Skip);
        assert!(self::select(&[], &[]).expect("no patterns").is_none());
    }
}
