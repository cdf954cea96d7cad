//! Runs a long operation: shows its items, problems and progress, and passes on the wish to stop.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use plakar_core::id::SnapshotId;
use plakar_core::progress::{Cancel, Counters, Item, ItemState, Job, Observer, Phase, Problem};

use super::format::{count, duration_in_seconds, escaped, one_line, size};
use super::json::{ItemEvent, PathText, ProblemEvent};
use super::lines::Output;
use crate::estimate::Estimate;
use crate::interrupt;

/// How often gathered lines are written and the progress bar is drawn.
const TICK: Duration = Duration::from_millis(100);
/// What takes less has no need of an estimate.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often progress is written as JSON, in ticks.
const TICKS_PER_EVENT: u32 = 10;

/// How the lines of an operation look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineStyle {
    /// `9abc3294: OK ✓ /path`
    Done,
    /// `9abc3294: ✓ /path`
    Verified,
}

/// Runs `task`, showing what it reports, until it returns. `progress` allows a bar on the terminal.
pub(crate) fn run<T>(
    output: &Output,
    style: LineStyle,
    progress: bool,
    task: impl FnOnce(Job<'_>, &Monitor<'_>) -> T,
) -> T {
    let drawn =
        progress && !output.verbosity().json && !output.verbosity().quiet && std::io::stderr().is_terminal();
    let monitor = Monitor::new(output, style, drawn);
    let counters = Counters::default();
    let cancel = Arc::new(Cancel::default());
    let interruptible = interrupt::during(&cancel);
    let result = std::thread::scope(|scope| {
        let (running, stopped) = mpsc::channel::<()>();
        let ticker = Ticker {
            monitor: &monitor,
            counters: &counters,
            cancel: &cancel,
        };
        scope.spawn(move || ticker.run(&stopped));
        let result = task(
            Job {
                observer: &monitor,
                counters: &counters,
                cancel: &cancel,
            },
            &monitor,
        );
        drop(running);
        result
    });
    drop(interruptible);
    output.flush();
    output.set_bar(None);
    result
}

/// Runs `task`. When it takes its time and nobody knows how much there is to do, finds that out beside it.
pub(crate) fn beside<T>(job: Job<'_>, estimate: Option<Estimate>, task: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (running, stopped) = mpsc::channel::<()>();
        if let Some(estimate) = estimate {
            scope.spawn(move || {
                let ended = || stopped.try_recv() == Err(mpsc::TryRecvError::Disconnected);
                if stopped.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout)
                    && read(&job.counters.bytes_expected) == 0
                    && let Some(amount) = estimate.walk(|| ended() || job.cancel.is_cancelled())
                {
                    job.counters
                        .entries_expected
                        .store(amount.entries, Ordering::Relaxed);
                    job.counters.bytes_expected.store(amount.bytes, Ordering::Relaxed);
                }
            });
        }
        let result = task();
        drop(running);
        result
    })
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{wide_msg}").expect("the template is well formed"));
    bar
}

/// Turns what an operation reports into lines or events.
#[derive(Debug)]
pub(crate) struct Monitor<'a> {
    output: &'a Output,
    style: LineStyle,
    /// Whether someone watches a progress bar.
    drawn: bool,
    snapshot: Mutex<Names>,
    current: Mutex<Vec<u8>>,
    phase: Mutex<Option<Phase>>,
    items: AtomicU64,
    problems: AtomicU64,
}

/// The snapshot at work, as lines and as events name it.
#[derive(Debug)]
struct Names {
    short: String,
    full: String,
    /// Whether it will not come to be: its id is nobody's.
    planned: bool,
}

impl<'a> Monitor<'a> {
    fn new(output: &'a Output, style: LineStyle, drawn: bool) -> Self {
        Self {
            output,
            style,
            drawn,
            snapshot: Mutex::new(Names {
                short: "00000000".to_owned(),
                full: String::new(),
                planned: false,
            }),
            current: Mutex::default(),
            phase: Mutex::default(),
            items: AtomicU64::new(0),
            problems: AtomicU64::new(0),
        }
    }

    /// Whether someone watches a progress bar.
    pub(crate) fn is_drawn(&self) -> bool {
        self.drawn
    }

    /// How many items were done or planned.
    pub(crate) fn item_count(&self) -> u64 {
        self.items.load(Ordering::Relaxed)
    }

    /// How many problems were shown.
    pub(crate) fn problem_count(&self) -> u64 {
        self.problems.load(Ordering::Relaxed)
    }

    fn mark(&self, state: ItemState) -> &'static str {
        match (self.style, state) {
            (LineStyle::Verified, _) => "✓",
            (LineStyle::Done, ItemState::Planned) => "plan ✓",
            (LineStyle::Done, _) => "OK ✓",
        }
    }
}

impl Observer for Monitor<'_> {
    fn snapshot(&self, id: SnapshotId) {
        *lock(&self.snapshot) = Names {
            short: id.short(),
            full: id.to_string(),
            planned: id == SnapshotId([0; SnapshotId::LENGTH]),
        };
    }

    fn phase(&self, phase: Phase) {
        *lock(&self.phase) = Some(phase);
    }

    fn item(&self, item: Item<'_>) {
        self.items.fetch_add(1, Ordering::Relaxed);
        {
            let mut current = lock(&self.current);
            current.clear();
            current.extend_from_slice(item.path);
        }
        let verbosity = self.output.verbosity();
        if verbosity.quiet {
            return;
        }
        let names = lock(&self.snapshot);
        if verbosity.json {
            return self.output.write_event(&ItemEvent {
                event: "item",
                snapshot: &names.full,
                path: PathText(item.path),
                path_hex: PathText::exact(item.path),
                state: state_name(item.state),
                directory: item.directory,
                size_bytes: item.size_bytes,
            });
        }
        // What makes no snapshot is only tried, also where nothing changed since the last one.
        let mark = self.mark(if names.planned {
            ItemState::Planned
        } else {
            item.state
        });
        self.output.gather(|buffer| {
            // Piece by piece: this runs once for each entry of the snapshot.
            for piece in [&names.short, ": ", mark, " ", &escaped(item.path), "\n"] {
                buffer.write_all(piece.as_bytes())?;
            }
            Ok(())
        });
    }

    fn problem(&self, problem: &Problem) {
        self.problems.fetch_add(1, Ordering::Relaxed);
        let names = lock(&self.snapshot);
        let mark = if self.style == LineStyle::Done {
            "KO ✘"
        } else {
            "✘"
        };
        let snapshot = (!names.full.is_empty()).then_some(names.full.as_str());
        self.output.problem(
            &ProblemEvent::new(snapshot, &problem.path, &problem.message),
            format_args!(
                "{}: {mark} {}: {}",
                names.short,
                escaped(&problem.path),
                one_line(&problem.message)
            ),
        );
    }
}

fn state_name(state: ItemState) -> &'static str {
    match state {
        ItemState::Done => "done",
        ItemState::Unchanged => "unchanged",
        ItemState::Planned => "planned",
    }
}

/// Progress as JSON.
#[derive(Debug, Serialize)]
struct ProgressEvent {
    event: &'static str,
    phase: Option<&'static str>,
    entries: u64,
    entries_expected: u64,
    bytes: u64,
    bytes_expected: u64,
    bytes_stored: u64,
    problems: u64,
    elapsed_seconds: f64,
}

/// Writes lines, draws the bar and passes on the wish to stop, a few times a second.
struct Ticker<'a> {
    monitor: &'a Monitor<'a>,
    counters: &'a Counters,
    cancel: &'a Cancel,
}

impl Ticker<'_> {
    fn run(&self, stopped: &mpsc::Receiver<()>) {
        let start = Instant::now();
        let mut speed = Speed::default();
        let mut ticks = 0u32;
        while stopped.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
            ticks = ticks.wrapping_add(1);
            let output = self.monitor.output;
            output.flush();
            if output.is_closed() {
                self.cancel.cancel();
            }
            speed.update(start.elapsed(), read(&self.counters.bytes));
            if output.verbosity().json {
                if !output.verbosity().quiet && ticks.is_multiple_of(TICKS_PER_EVENT) {
                    output.write_event(&self.event(start.elapsed()));
                }
            } else if self.monitor.drawn {
                // What is done within a tick needs no bar.
                if ticks == 1 {
                    output.set_bar(Some(new_bar()));
                }
                output.draw_bar(|| self.bar_text(&speed));
            }
        }
    }

    fn event(&self, elapsed: Duration) -> ProgressEvent {
        ProgressEvent {
            event: "progress",
            phase: lock(&self.monitor.phase).map(|phase| match phase {
                Phase::Opening => "opening",
                Phase::Walking => "walking",
                Phase::Reading => "reading",
                Phase::Committing => "committing",
            }),
            entries: read(&self.counters.entries),
            entries_expected: read(&self.counters.entries_expected),
            bytes: read(&self.counters.bytes),
            bytes_expected: read(&self.counters.bytes_expected),
            bytes_stored: read(&self.counters.bytes_stored),
            problems: read(&self.counters.problems),
            elapsed_seconds: elapsed.as_secs_f64(),
        }
    }

    fn bar_text(&self, speed: &Speed) -> String {
        if self.cancel.is_cancelled() {
            return "stopping… (press Ctrl-C again to stop at once)".to_owned();
        }
        let (bytes, expected) = (read(&self.counters.bytes), read(&self.counters.bytes_expected));
        let mut text = match *lock(&self.monitor.phase) {
            Some(Phase::Opening) => "opening  ".to_owned(),
            Some(Phase::Committing) => "committing  ".to_owned(),
            _ => String::new(),
        };
        text += &size(bytes);
        if expected > 0 {
            text.extend([" of ", &size(expected)]);
        }
        text.extend([
            "  ",
            &count(read(&self.counters.entries), "item"),
            "  ",
            &size(speed.bytes_per_second()),
            "/s",
        ]);
        if let Some(left) = speed.time_left(expected.saturating_sub(bytes)) {
            let nanoseconds = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
            text.extend(["  ETA ", &duration_in_seconds(nanoseconds)]);
        }
        let problems = self.monitor.problem_count();
        if problems > 0 {
            text.extend(["  ", &count(problems, "error")]);
        }
        text + "  " + &escaped(&lock(&self.monitor.current))
    }
}

/// Bytes per second, smoothed over the last few seconds.
#[derive(Debug, Default)]
struct Speed {
    at: Duration,
    bytes: u64,
    bytes_per_second: f64,
}

impl Speed {
    const SMOOTHING_SECONDS: f64 = 5.0;

    fn update(&mut self, now: Duration, bytes: u64) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        if passed <= 0.0 {
            return;
        }
        let latest = bytes.saturating_sub(self.bytes) as f64 / passed;
        // Early on, the mean since the start; then an exponential moving mean.
        let weight = (passed / now.as_secs_f64()).max(1.0 - (-passed / Self::SMOOTHING_SECONDS).exp());
        self.bytes_per_second += weight * (latest - self.bytes_per_second);
        self.at = now;
        self.bytes = bytes;
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, and speed is not negative"
    )]
    fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second as u64
    }

    fn time_left(&self, bytes: u64) -> Option<Duration> {
        if bytes == 0 {
            return None;
        }
        Duration::try_from_secs_f64(bytes as f64 / self.bytes_per_second).ok()
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_the_mean_at_first_and_follows_changes() {
        let mut speed = Speed::default();
        speed.update(Duration::from_secs(1), 1000);
        assert_eq!(speed.bytes_per_second(), 1000);
        assert_eq!(speed.time_left(5000), Some(Duration::from_secs(5)));
        for second in 2..60 {
            speed.update(Duration::from_secs(second), 1000);
        }
        assert_eq!(speed.bytes_per_second(), 0);
        assert_eq!(Speed::default().time_left(1), None);
    }
}
