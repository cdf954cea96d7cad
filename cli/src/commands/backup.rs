//! `plakar backup`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use plakar_core::backup::{BackupOptions, BackupReport, FilterItem, Source, backup};
use plakar_core::check::Reading;
use plakar_core::environment::Timestamp;
use serde_json::json;

use crate::argv::bytes_of;
use crate::context::{Context, Place};
use crate::engine_errors::backup_error;
use crate::error::{CommandError, Exit};
use crate::estimate::Estimate;
use crate::passphrase::shown;
use crate::patterns::Patterns;
use crate::selection::parse_time;
use crate::ui::format::{count, duration, size};
use crate::ui::json::{self, ProblemEvent};
use crate::ui::progress::{self, LineStyle};

/// Back up folders and files into a new snapshot
///
/// Files that did not change since the last snapshot of the same folders are not read again. What cannot be read is named on
/// standard error, the rest is saved, and the exit code is 3. An interrupted backup goes on where it stopped when it is
/// run again.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[command(after_help = "\
Examples:
  plakar at /var/backups backup /etc
  plakar backup -tag daily,home -exclude-caches -ignore '*.o' -ignore target/ ~
  pg_dump shop | plakar backup -stdin shop.sql")]
pub(crate) struct BackupArgs {
    /// Tags of the snapshot [default: `$PLAKAR_TAGS`]; may be repeated
    #[arg(long, value_name = "TAG,…", value_delimiter = ',')]
    tag: Vec<String>,
    /// A name for the snapshot
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Leave out what matches this pattern (as in .gitignore); may be repeated
    #[arg(long, value_name = "PATTERN")]
    ignore: Vec<String>,
    /// Leave out what matches the patterns in this file (as in .gitignore); may be repeated
    #[arg(long, value_name = "FILE")]
    ignore_file: Vec<PathBuf>,
    /// Stay in the file systems of the given paths
    #[arg(long)]
    one_file_system: bool,
    /// Leave out folders marked as caches by a CACHEDIR.TAG file
    #[arg(long)]
    exclude_caches: bool,
    /// Do not save extended attributes
    #[arg(long)]
    no_xattr: bool,
    /// Show what would be saved, and store nothing
    #[arg(long)]
    dry_run: bool,
    /// Verify the new snapshot afterwards
    #[arg(long, conflicts_with = "dry_run")]
    check: bool,
    /// Read every file, also those that seem unchanged
    #[arg(long)]
    full: bool,
    /// Pretend that the backup is made at this time in the past
    #[arg(long, value_name = "TIME")]
    force_timestamp: Option<String>,
    /// Save standard input as a file of this name
    #[arg(long, value_name = "NAME", conflicts_with = "paths")]
    stdin: Option<OsString>,
    /// What to save [default: the current folder]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl BackupArgs {
    pub(crate) fn run(mut self, context: &Context) -> Result<Exit, CommandError> {
        let timestamp = self.timestamp(context.now())?;
        let patterns = Patterns::with_files("-ignore", &self.ignore_file, &self.ignore)?;
        let (sources, missing) = self.sources(context)?;
        let (repository, place) = context.open()?;
        let options = self.options(context, &place, sources, patterns, timestamp);
        let report = progress::run(
            &context.output,
            LineStyle::Done,
            !context.options.no_progress,
            |job, monitor| {
                let estimate = monitor.is_drawn().then(|| Estimate::new(&options));
                progress::beside(job, estimate, || backup(&repository, options, job))
            },
        );
        let report =
            report.map_err(|error| super::stopped(context, backup_error(&repository, &error), "backup"))?;
        let problems = report.problem_count + missing;
        tell(context, &report, problems);
        let exit = if problems == 0 { Exit::Done } else { Exit::Partial };
        match report.snapshot {
            Some(snapshot) if self.check => {
                let targets = vec![(snapshot, None)];
                Ok(exit.and(super::check::verify(context, &repository, targets, Reading::All)?))
            }
            _ => Ok(exit),
        }
    }

    fn options(
        &self,
        context: &Context,
        place: &Place<'_>,
        sources: Vec<Source>,
        patterns: Patterns,
        timestamp: Option<Timestamp>,
    ) -> BackupOptions {
        let filter = move |item: &FilterItem<'_>| {
            patterns.matches(item.relative.as_os_str().as_bytes(), item.directory)
        };
        let filtered = !self.ignore.is_empty() || !self.ignore_file.is_empty();
        BackupOptions {
            sources,
            name: self.name.clone(),
            tags: tags(&self.tag, std::env::var("PLAKAR_TAGS").ok().as_deref()),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            username: username(),
            filter: if filtered { Some(Arc::new(filter)) } else { None },
            one_file_system: self.one_file_system,
            exclude_caches: self.exclude_caches,
            xattrs: !self.no_xattr,
            dry_run: self.dry_run,
            full: self.full,
            timestamp,
            repository_path: place.local_path(),
            workers: context.workers(),
        }
    }

    fn timestamp(&self, now: Timestamp) -> Result<Option<Timestamp>, CommandError> {
        let Some(text) = &self.force_timestamp else {
            return Ok(None);
        };
        let timestamp = parse_time(text, now).map_err(|error| error.context("backup: -force-timestamp"))?;
        if timestamp > now {
            return Err(
                CommandError::usage(format!("backup: -force-timestamp: {text} is in the future"))
                    .hint("give a time in the past"),
            );
        }
        Ok(Some(timestamp))
    }

    /// What to save, and how much of what was asked for is not there. Nothing at all to save is an error.
    fn sources(&mut self, context: &Context) -> Result<(Vec<Source>, u64), CommandError> {
        if let Some(name) = self.stdin.take() {
            return Ok((
                vec![Source::Stream {
                    name: stream_name(name)?,
                    reader: Box::new(std::io::stdin()),
                }],
                0,
            ));
        }
        if self.paths.is_empty() {
            self.paths.push(PathBuf::from("."));
        }
        let (mut sources, mut errors) = (Vec::new(), Vec::new());
        for path in &self.paths {
            match path.canonicalize() {
                Ok(path) => sources.push(Source::Path(path)),
                Err(_missing) if path.is_symlink() => errors.push((path, "a link to nothing".to_owned())),
                Err(error) => errors.push((path, error.to_string())),
            }
        }
        if sources.is_empty() {
            let what: Vec<_> = errors
                .iter()
                .map(|(path, error)| format!("{}: {error}", shown(path.as_os_str())))
                .collect();
            return Err(CommandError::new(
                Exit::Failed,
                format!("backup: nothing to save: {}", what.join(", ")),
            ));
        }
        for (path, message) in &errors {
            context.output.problem(
                &ProblemEvent::new(None, path.as_os_str().as_bytes(), message),
                format_args!("backup: ✘ {}: {message}", shown(path.as_os_str())),
            );
        }
        Ok((sources, errors.len() as u64))
    }
}

/// The name of a stream, which becomes a file right below the root of the snapshot.
fn stream_name(name: OsString) -> Result<Vec<u8>, CommandError> {
    let name = bytes_of(name);
    if name.is_empty() || name.contains(&b'/') || name == b"." || name == b".." || name.len() > 255 {
        return Err(
            CommandError::usage("backup: -stdin: the name must be that of a file, without `/`")
                .hint("for example `plakar backup -stdin dump.sql`"),
        );
    }
    Ok(name)
}

/// The tags given, or those of the environment when none are.
fn tags(given: &[String], environment: Option<&str>) -> Vec<String> {
    let environment = environment.filter(|_| given.is_empty()).unwrap_or_default();
    let all = given.iter().map(String::as_str).chain(environment.split(','));
    let mut tags: Vec<String> = Vec::new();
    for tag in all.map(str::trim).filter(|tag| !tag.is_empty()) {
        if !tags.iter().any(|known| known == tag) {
            tags.push(tag.to_owned());
        }
    }
    tags
}

fn username() -> String {
    match uzers::get_current_username() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => rustix::process::getuid().as_raw().to_string(),
    }
}

fn tell(context: &Context, report: &BackupReport, problems: u64) {
    let errors = if problems == 0 {
        String::new()
    } else {
        format!(", with {}", count(problems, "error"))
    };
    let (size, duration) = (
        size(report.summary.logical_bytes),
        duration(report.duration_nanoseconds),
    );
    #[expect(clippy::single_match_else, reason = "two outcomes of equal weight")]
    match &report.snapshot {
        Some(snapshot) => {
            let mut event = json::snapshot("backup", snapshot);
            if let Some(fields) = event.as_object_mut() {
                fields.insert("files_new".to_owned(), report.files_new.into());
                fields.insert("files_unchanged".to_owned(), report.files_unchanged.into());
                fields.insert("bytes_stored".to_owned(), report.bytes_stored.into());
                fields.insert("problems".to_owned(), problems.into());
                fields.insert(
                    "duration_nanoseconds".to_owned(),
                    report.duration_nanoseconds.into(),
                );
            }
            let id = snapshot.id.short();
            context.output.conclude(
                &event,
                format_args!("backup: created unsigned snapshot {id} of size {size} in {duration}{errors}"),
            );
        }
        None => {
            let files = report.summary.files;
            context.output.conclude(
                &json!({"event": "planned", "files": files, "size_bytes": report.summary.logical_bytes, "problems": problems}),
                format_args!("backup: would save {} of size {size}{errors}; nothing was stored", count(files, "file")),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_from_the_options_or_else_the_environment() {
        let given = ["a".to_owned(), " b ".to_owned(), String::new(), "a".to_owned()];
        assert_eq!(tags(&given, Some("x")), ["a", "b"]);
        assert_eq!(tags(&[], Some(" x,,y, ")), ["x", "y"]);
        assert!(tags(&[], None).is_empty());
    }

    #[test]
    fn a_stream_is_named_like_a_file() {
        assert_eq!(stream_name("dump.sql".into()).expect("a name"), b"dump.sql");
        for wrong in ["", ".", "..", "a/b"] {
            assert!(stream_name(wrong.into()).is_err(), "{wrong}");
        }
    }
}
