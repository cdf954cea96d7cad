//! `plakar check`.

use std::ffi::OsString;

use clap::Args;
use plakar_core::check::{CheckOptions, CheckReport, Reading, check};
use plakar_core::id::SnapshotId;
use plakar_core::repository::{Repository, Snapshot};
use serde_json::json;

use crate::context::{Context, shown_location};
use crate::engine_errors::check_error;
use crate::error::{CommandError, Exit};
use crate::selection::{SelectionArgs, Target, choose, none_chosen};
use crate::ui::format::{count, escaped, one_line};
use crate::ui::json::PathText;
use crate::ui::progress::{self, LineStyle};

/// Verify the repository, or some of its snapshots
///
/// Without a snapshot and without options that choose some, every object of the repository is verified. All data is read,
/// unless -fast or -read-percent says otherwise. Damage is named on standard error, and the exit code is 65.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  plakar check
  plakar check -fast
  plakar check 9abc3294 1b2c:/etc
  plakar check -latest -read-percent 10")]
pub(crate) struct CheckArgs {
    /// Verify the structure only, without reading the data of files
    #[arg(long)]
    fast: bool,
    /// Read this share of the data, chosen at random
    #[arg(long, value_name = "N", conflicts_with = "fast", value_parser = clap::value_parser!(u8).range(1..=100))]
    read_percent: Option<u8>,
    /// Snapshots, or paths in them
    #[arg(value_name = "ID[:PATH]")]
    targets: Vec<OsString>,
    #[command(flatten)]
    selection: SelectionArgs,
}

impl CheckArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, CommandError> {
        let selection = self.selection.selection(context.now())?;
        let named = Target::parse_all("check", &self.targets, &selection)?;
        let (repository, _) = context.open()?;
        let (mut targets, mut exit) = (Vec::new(), Exit::Done);
        for target in &named {
            let (snapshot, path, chosen) = target.resolve(context, &repository, &selection)?;
            targets.push((snapshot, path));
            exit = exit.and(chosen);
        }
        if named.is_empty() && selection.is_given() {
            let (snapshots, chosen) = choose(context, &repository, &selection)?;
            exit = chosen;
            // Without any the whole repository would be checked, which is not what was asked for.
            if snapshots.is_empty() {
                return Err(none_chosen(&repository, &selection, exit).context("check"));
            }
            targets = snapshots.into_iter().map(|snapshot| (snapshot, None)).collect();
        }
        let reading = match (self.fast, self.read_percent) {
            (true, _) => Reading::Nothing,
            (false, Some(percent)) if percent < 100 => Reading::Percent(percent),
            _ => Reading::All,
        };
        Ok(exit.and(verify(context, &repository, targets, reading)?))
    }
}

/// Verifies snapshots, or the whole repository when none are given, and tells what came of it.
pub(crate) fn verify(
    context: &Context,
    repository: &Repository,
    targets: Vec<(Snapshot, Option<Vec<u8>>)>,
    reading: Reading,
) -> Result<Exit, CommandError> {
    let whole = targets.is_empty();
    let options = CheckOptions {
        reading,
        targets,
        workers: context.workers(),
    };
    let report = progress::run(
        &context.output,
        LineStyle::Verified,
        !context.options.no_progress,
        |job, _| check(repository, options, job),
    );
    let report = report.map_err(|error| super::stopped(context, check_error(repository, &error), "check"))?;
    for damage in &report.damage {
        context.output.problem(
            &json!({"event": "damage", "what": damage.what, "why": damage.why}),
            format_args!("check: ✘ {}: {}", one_line(&damage.what), one_line(&damage.why)),
        );
    }
    for (id, path, sound) in &report.results {
        tell(context, *id, path, *sound, whole);
    }
    if whole {
        tell_whole(context, repository, &report);
    }
    Ok(if report.is_damaged() {
        Exit::Damaged
    } else {
        Exit::Done
    })
}

/// Tells how one snapshot is. Not the last line when the `whole` repository was checked.
#[expect(
    clippy::fn_params_excessive_bools,
    reason = "each is named where it is matched"
)]
fn tell(context: &Context, id: SnapshotId, path: &[u8], sound: bool, whole: bool) {
    let event = json!({
        "event": "verified", "snapshot": id.to_string(), "path": PathText(path), "path_hex": PathText::exact(path), "sound": sound,
    });
    let name = format!("{}:{}", id.short(), escaped(path));
    let line = format!("check: verification of {name} completed successfully");
    match (sound, whole) {
        (true, false) => context.output.conclude(&event, line),
        (true, true) => context.output.show(&event, line),
        (false, _) => {
            context.output.problem(
                &event,
                format_args!("check: verification of {name} failed: it is damaged"),
            );
        }
    }
}

fn tell_whole(context: &Context, repository: &Repository, report: &CheckReport) {
    let location = shown_location(repository.location());
    let objects = report.damage.len() as u64;
    let event = json!({
        "event": "verified",
        "location": location,
        "entries": report.entries,
        "bytes": report.bytes,
        "damaged_objects": objects,
        "damaged_entries": report.damaged_entries,
        "unindexed_packs": report.unindexed_packs,
        "sound": !report.is_damaged(),
    });
    if report.is_damaged() {
        let (objects, entries) = (count(objects, "damaged object"), entries(report.damaged_entries));
        let line = format!(
            "check: verification of {location} failed: {objects}, {entries} cannot be restored as they were"
        );
        context.output.problem(&event, line);
    } else {
        context.output.conclude(
            &event,
            format_args!("check: verification of {location} completed successfully"),
        );
    }
}

fn entries(number: u64) -> String {
    if number == 1 {
        "1 entry".to_owned()
    } else {
        format!("{number} entries")
    }
}
