//! Which snapshots are meant: identifiers, paths in them, and the options that choose among them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::Args;
use jiff::tz::TimeZone;
use jiff::{Span, civil};
use plakar_core::environment::Timestamp;
use plakar_core::id::SnapshotId;
use plakar_core::repository::{EntryKind, Repository, Snapshot};

use crate::context::{Context, shown_location};
use crate::engine_errors::read_error;
use crate::error::{CommandError, Exit};
use crate::ui::format::{count, escaped};

/// Options that choose snapshots.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Choosing snapshots")]
pub(crate) struct SelectionArgs {
    /// Only snapshots with all of these tags; may be repeated
    #[arg(long, value_name = "TAG,…", value_delimiter = ',')]
    pub(crate) tag: Vec<String>,
    /// Only snapshots of this name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Only snapshots of this folder or file; a relative path starts at the current folder
    #[arg(long, value_name = "PATH")]
    pub(crate) root: Option<OsString>,
    /// Only snapshots made before TIME: 2026-01-31, 2026-01-31T10:00:00Z (UTC), or an age like 30d or 2h30m
    #[arg(long, value_name = "TIME")]
    pub(crate) before: Option<String>,
    /// Only snapshots made at TIME or later
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only the latest of them
    #[arg(long)]
    pub(crate) latest: bool,
}

/// The options, understood.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    tags: Vec<String>,
    name: Option<String>,
    /// The path as it is written, and as links lead: either will do.
    root: Option<[Vec<u8>; 2]>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    latest: bool,
}

impl SelectionArgs {
    /// Understands the options, or says which one makes no sense.
    pub(crate) fn selection(&self, now: Timestamp) -> Result<Selection, CommandError> {
        let time = |option: &str, text: &Option<String>| {
            let parsed = text.as_deref().map(|text| parse_time(text, now)).transpose();
            parsed.map_err(|error| error.context(option))
        };
        Ok(Selection {
            tags: self
                .tag
                .iter()
                .map(|tag| tag.trim().to_owned())
                .filter(|tag| !tag.is_empty())
                .collect(),
            name: self.name.clone(),
            root: self.root.as_deref().map(root_paths),
            before: time("-before", &self.before)?,
            since: time("-since", &self.since)?,
            latest: self.latest,
        })
    }
}

/// What a root may be recorded as that the user calls `text`. A backup follows links; the snapshot may be of another machine.
fn root_paths(text: &OsStr) -> [Vec<u8>; 2] {
    let here = std::env::current_dir().unwrap_or_default();
    let written = normal_path(text.as_bytes(), here.as_os_str().as_bytes());
    let followed = std::fs::canonicalize(text).map(|path| path.into_os_string().into_vec());
    [written.clone(), followed.unwrap_or(written)]
}

impl Selection {
    /// Whether any option was given.
    pub(crate) fn is_given(&self) -> bool {
        let Self {
            tags,
            name,
            root,
            before,
            since,
            latest,
        } = self;
        !tags.is_empty() || name.is_some() || root.is_some() || before.is_some() || since.is_some() || *latest
    }

    /// Keeps the snapshots that are meant. They come oldest first and stay so.
    pub(crate) fn apply(&self, snapshots: Vec<Snapshot>) -> Vec<Snapshot> {
        let mut chosen: Vec<_> = snapshots
            .into_iter()
            .filter(|snapshot| self.matches(snapshot))
            .collect();
        if self.latest {
            chosen.drain(..chosen.len().saturating_sub(1));
        }
        chosen
    }

    fn matches(&self, snapshot: &Snapshot) -> bool {
        self.tags.iter().all(|tag| snapshot.tags.contains(tag))
            && self.name.as_ref().is_none_or(|name| snapshot.name == *name)
            && self
                .root
                .as_ref()
                .is_none_or(|paths| snapshot.roots.iter().any(|root| paths.contains(root)))
            && self.before.is_none_or(|before| snapshot.time < before)
            && self.since.is_none_or(|since| snapshot.time >= since)
    }
}

/// The snapshots that the options choose, oldest first. Unreadable ones are told about on the way.
pub(crate) fn choose(
    context: &Context,
    repository: &Repository,
    selection: &Selection,
) -> Result<(Vec<Snapshot>, Exit), CommandError> {
    let (snapshots, unreadable) = repository
        .snapshots()
        .map_err(|error| read_error(repository, &error))?;
    let mut exit = Exit::Done;
    for (id, error) in &unreadable {
        let problem = read_error(repository, error);
        exit = exit.and(if problem.exit == Exit::Damaged {
            Exit::Damaged
        } else {
            Exit::Partial
        });
        context.snapshot_problem(*id, &problem.message);
    }
    Ok((selection.apply(snapshots), exit))
}

/// The one snapshot that is meant when none is named: the latest that the options choose. It may not be the latest that
/// there is when some are unreadable, so the exit code tells of those.
pub(crate) fn latest(
    context: &Context,
    repository: &Repository,
    selection: &Selection,
) -> Result<(Snapshot, Exit), CommandError> {
    let (mut snapshots, exit) = choose(context, repository, selection)?;
    match snapshots.pop() {
        Some(snapshot) => Ok((snapshot, exit)),
        None => Err(none_chosen(repository, selection, exit)),
    }
}

/// What is said when there is no snapshot to work on. `exit` tells whether all could be read.
pub(crate) fn none_chosen(repository: &Repository, selection: &Selection, exit: Exit) -> CommandError {
    let exit = if exit == Exit::Done { Exit::NotFound } else { exit };
    let which = if selection.is_given() {
        "no snapshot matches the options"
    } else {
        "there is no snapshot"
    };
    let place = shown_location(repository.location());
    CommandError::new(exit, format!("{which} in the repository at {place}"))
        .hint("list what there is with `plakar ls`")
}

/// `ID`, `ID:PATH` or `:PATH` as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The digits of the identifier; none for the latest snapshot that the options choose.
    prefix: String,
    path: Option<Vec<u8>>,
}

impl Target {
    /// Splits at the first colon and checks the identifier's form.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, CommandError> {
        let bytes = text.as_bytes();
        let (prefix, path) = match bytes.iter().position(|&byte| byte == b':') {
            Some(at) => (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..)),
            None => (bytes, None),
        };
        let shortest = usize::from(path.is_none());
        let is_id = (shortest..=2 * SnapshotId::LENGTH).contains(&prefix.len())
            && prefix.iter().all(u8::is_ascii_hexdigit);
        match std::str::from_utf8(prefix) {
            Ok(prefix) if is_id => Ok(Self {
                prefix: prefix.to_ascii_lowercase(),
                path: path.map(<[u8]>::to_vec),
            }),
            _ => Err(CommandError::usage(format!(
                "`{}` is not a snapshot: it is named by the first hexadecimal digits of its id",
                escaped(prefix)
            ))
            .hint(if prefix.contains(&b'/') {
                "write ID:PATH, or :PATH for what is in the latest snapshot"
            } else {
                "list the snapshots with `plakar ls`"
            })),
        }
    }

    /// Understands several, and refuses options that choose snapshots beside one that is named. `verb` is the command.
    pub(crate) fn parse_all<'a>(
        verb: &str,
        texts: impl IntoIterator<Item = &'a OsString>,
        selection: &Selection,
    ) -> Result<Vec<Self>, CommandError> {
        let targets = texts
            .into_iter()
            .map(|text| Self::parse(text))
            .collect::<Result<Vec<_>, _>>()?;
        if selection.is_given() && targets.iter().any(|target| !target.prefix.is_empty()) {
            let message = format!("{verb}: a snapshot is named and options choose others as well");
            return Err(CommandError::usage(message).hint("use one or the other"));
        }
        Ok(targets)
    }

    /// The digits of the identifier.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether something in the snapshot is named.
    pub(crate) fn has_path(&self) -> bool {
        self.path.is_some()
    }

    /// Finds the snapshot, and the absolute path in it if one was given. When the options choose the snapshot, the exit
    /// code tells whether all could be read that there were to choose from.
    pub(crate) fn resolve(
        &self,
        context: &Context,
        repository: &Repository,
        selection: &Selection,
    ) -> Result<(Snapshot, Option<Vec<u8>>, Exit), CommandError> {
        let (snapshot, exit) = if self.prefix.is_empty() {
            latest(context, repository, selection)?
        } else {
            let ids = repository
                .snapshot_ids()
                .map_err(|error| read_error(repository, &error))?;
            let id = unique(&self.prefix, &ids, &shown_location(repository.location()))?;
            let snapshot = repository
                .snapshot(id)
                .map_err(|error| read_error(repository, &error))?;
            (snapshot, Exit::Done)
        };
        let path = match self.path.as_deref() {
            Some(path) if path.starts_with(b"/") => Some(normal_path(path, b"/")),
            Some(path) => Some(normal_path(path, &base_of(repository, &snapshot, path)?)),
            None => None,
        };
        Ok((snapshot, path, exit))
    }
}

/// Where a relative path in a snapshot starts: at its root when it has one, and in the folder of a root that is a file.
fn base_of(repository: &Repository, snapshot: &Snapshot, path: &[u8]) -> Result<Vec<u8>, CommandError> {
    let [root] = snapshot.roots.as_slice() else {
        return Ok(b"/".to_vec());
    };
    let entry = repository
        .entry_at(snapshot, root)
        .map_err(|error| read_error(repository, &error))?;
    let is_folder = entry.is_none_or(|entry| entry.kind == EntryKind::Directory);
    if is_folder || path.is_empty() {
        return Ok(root.clone());
    }
    Ok(normal_path(b"..", root))
}

fn unique(prefix: &str, ids: &[SnapshotId], place: &str) -> Result<SnapshotId, CommandError> {
    let mut matching = ids.iter().filter(|id| id.to_string().starts_with(prefix));
    match (matching.next(), matching.count()) {
        (Some(&id), 0) => Ok(id),
        (Some(_), more) => {
            let number = count(more as u64 + 1, "snapshot");
            Err(
                CommandError::usage(format!("`{prefix}` is ambiguous: {number} match"))
                    .hint("give more digits; `plakar ls -uuid` shows all"),
            )
        }
        (None, _) => Err(CommandError::new(
            Exit::NotFound,
            format!("no snapshot `{prefix}` in the repository at {place}"),
        )
        .hint("list what there is with `plakar ls`")),
    }
}

/// An absolute path without `.`, `..`, doubled or trailing slashes; a relative one starts at `base`.
pub(crate) fn normal_path(path: &[u8], base: &[u8]) -> Vec<u8> {
    let base = if path.starts_with(b"/") { &[][..] } else { base };
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in base
        .split(|&byte| byte == b'/')
        .chain(path.split(|&byte| byte == b'/'))
    {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    if parts.is_empty() {
        return b"/".to_vec();
    }
    parts
        .into_iter()
        .flat_map(|part| [b"/", part])
        .flatten()
        .copied()
        .collect()
}

/// A moment: RFC 3339, a date or date and time (in UTC), or an age before `now` such as `2h30m` or `30d`.
pub(crate) fn parse_time(text: &str, now: Timestamp) -> Result<Timestamp, CommandError> {
    let text = text.trim();
    let parsed = text
        .parse::<jiff::Timestamp>()
        .ok()
        .or_else(|| at_utc(text))
        .or_else(|| ago(text, now));
    let Some(time) = parsed else {
        return Err(
            CommandError::usage(format!("`{}` is not a time", escaped(text.as_bytes())))
                .hint("write 2026-01-31, 2026-01-31T10:00:00Z, or an age like 30d or 2h30m"),
        );
    };
    let seconds = time.as_nanosecond().div_euclid(1_000_000_000);
    let nanoseconds = time.as_nanosecond().rem_euclid(1_000_000_000);
    Ok(Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
    })
}

fn at_utc(text: &str) -> Option<jiff::Timestamp> {
    let moment = text.parse::<civil::DateTime>().ok().or_else(|| {
        Some(
            text.parse::<civil::Date>()
                .ok()?
                .to_datetime(civil::Time::midnight()),
        )
    })?;
    Some(moment.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

fn ago(text: &str, now: Timestamp) -> Option<jiff::Timestamp> {
    let span: Span = text.parse().ok()?;
    if span.is_negative() {
        return None;
    }
    let now = jiff::Timestamp::new(now.seconds, i32::try_from(now.nanoseconds).ok()?).ok()?;
    Some(now.to_zoned(TimeZone::UTC).checked_sub(span).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<Target, CommandError> {
        Target::parse(OsStr::new(text))
    }

    #[test]
    fn a_target_is_split_at_the_first_colon() {
        let expected = Target {
            prefix: "9abc".into(),
            path: Some(b"/a:b".to_vec()),
        };
        assert_eq!(target("9ABC:/a:b").expect("well formed"), expected);
        assert_eq!(target("9abc").expect("well formed").path, None);
        assert_eq!(target("9abc:").expect("well formed").path, Some(Vec::new()));
        let of_the_latest = Target {
            prefix: String::new(),
            path: Some(b"/etc".to_vec()),
        };
        assert_eq!(target(":/etc").expect("well formed"), of_the_latest);
        for wrong in ["", "xyz", "/etc", "/etc:x", &"a".repeat(65)] {
            assert_eq!(target(wrong).expect_err(wrong).exit, Exit::Usage);
        }
    }

    #[test]
    fn a_prefix_must_name_exactly_one_snapshot() {
        let ids = [SnapshotId([0xab; 32]), SnapshotId([0xac; 32])];
        assert_eq!(unique("ab", &ids, "/r").expect("one"), ids[0]);
        let ambiguous = unique("a", &ids, "/r").expect_err("two");
        assert_eq!(
            (ambiguous.exit, ambiguous.message.as_str()),
            (Exit::Usage, "`a` is ambiguous: 2 snapshots match")
        );
        let unknown = unique("ff", &ids, "/r").expect_err("none");
        assert_eq!(
            (unknown.exit, unknown.message.as_str()),
            (Exit::NotFound, "no snapshot `ff` in the repository at /r")
        );
    }

    #[test]
    fn paths_in_a_snapshot_are_absolute_and_plain() {
        let normal = |path: &str| String::from_utf8(normal_path(path.as_bytes(), b"/var/lib")).expect("text");
        assert_eq!(normal("/etc//apache2/./conf/"), "/etc/apache2/conf");
        assert_eq!(normal("dpkg"), "/var/lib/dpkg");
        assert_eq!(normal("../log"), "/var/log");
        assert_eq!(normal(""), "/var/lib");
        assert_eq!(normal("/../.."), "/");
    }

    #[test]
    fn times_are_moments_dates_or_ages() {
        let now = Timestamp {
            seconds: 1_740_001_096,
            nanoseconds: 5,
        };
        let seconds = |text: &str| parse_time(text, now).expect(text).seconds;
        assert_eq!(seconds("2025-02-19T21:38:16Z"), now.seconds);
        assert_eq!(seconds("2025-02-19T23:38:16+02:00"), now.seconds);
        assert_eq!(seconds("2025-02-19"), 1_739_923_200);
        assert_eq!(seconds("2025-02-19 21:38:16"), now.seconds);
        assert_eq!(seconds("2h30m"), now.seconds - 9000);
        assert_eq!(seconds("30d"), now.seconds - 30 * 86_400);
        assert_eq!(seconds("1w"), now.seconds - 7 * 86_400);
        assert_eq!(seconds("90s"), now.seconds - 90);
        assert_eq!(
            parse_time("2025-02-19T21:38:16.25Z", now)
                .expect("a time")
                .nanoseconds,
            250_000_000
        );
        for wrong in ["", "yesterday", "2025-13-01", "30", "-2h", "2025-02-19T25:00:00Z"] {
            assert_eq!(parse_time(wrong, now).expect_err(wrong).exit, Exit::Usage);
        }
    }
}
