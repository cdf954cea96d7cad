//! The one place that writes to standard output and standard error. Lines are gathered and written together, and a
//! closed pipe is remembered, not reported.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;
use serde::Serialize;
use tracing_subscriber::fmt::MakeWriter;

use super::format::one_line;
use super::json;
use crate::error::CommandError;

/// Gathered lines are written when they reach this size, or at the next tick of the progress display.
const BUFFER_BYTES: usize = 64 << 10;

/// What the user asked to see.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Verbosity {
    /// Only problems and the last line.
    pub(crate) quiet: bool,
    /// JSON in place of lines.
    pub(crate) json: bool,
}

/// Standard output and standard error. Any thread may write at any time.
#[derive(Debug)]
pub(crate) struct Output {
    verbosity: Verbosity,
    /// Whether lines on standard output and the progress bar share a screen.
    shares_screen: bool,
    gathered: Mutex<Vec<u8>>,
    failure: Mutex<Option<io::Error>>,
    closed: AtomicBool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Output {
    /// An output that nothing was written to yet.
    pub(crate) fn new(verbosity: Verbosity) -> Self {
        Self {
            verbosity,
            shares_screen: io::stdout().is_terminal(),
            gathered: Mutex::default(),
            failure: Mutex::default(),
            closed: AtomicBool::new(false),
            bar: Mutex::default(),
        }
    }

    /// What the user asked to see.
    pub(crate) fn verbosity(&self) -> Verbosity {
        self.verbosity
    }

    /// Whether nobody reads standard output any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Shows something unless the user asked for quiet.
    pub(crate) fn show(&self, event: &impl Serialize, line: impl Display) {
        if !self.verbosity.quiet {
            self.conclude(event, line);
        }
    }

    /// Shows something that was asked for or that ends the command.
    pub(crate) fn conclude(&self, event: &impl Serialize, line: impl Display) {
        if self.verbosity.json {
            self.write_event(event);
        } else {
            self.gather(|buffer| writeln!(buffer, "{line}"));
        }
    }

    /// Shows what went wrong with one thing while the rest goes on: on standard error, or as an event.
    pub(crate) fn problem(&self, event: &impl Serialize, line: impl Display) {
        if self.verbosity.json {
            self.write_event(event);
        } else {
            self.write_error_line(&line.to_string());
        }
    }

    /// Shows something that the user should know but that stops nothing.
    pub(crate) fn warn(&self, message: &str) {
        self.problem(
            &json::Warning::new(message),
            format_args!("plakar: warning: {}", one_line(message)),
        );
    }

    /// Shows why the command failed: always on standard error, as an event as well with JSON.
    pub(crate) fn error(&self, error: &CommandError) {
        if self.verbosity.json {
            self.write_event(&json::error(error));
        }
        self.write_error_line(&format!("plakar: {}", one_line(&error.to_string())));
    }

    /// Writes one JSON line.
    pub(crate) fn write_event(&self, event: &impl Serialize) {
        self.gather(|buffer| {
            serde_json::to_writer(&mut *buffer, event)?;
            buffer.push(b'\n');
            Ok(())
        });
    }

    /// Adds lines to what is written next.
    pub(crate) fn gather(&self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) {
        let mut gathered = lock(&self.gathered);
        if let Err(error) = write(&mut gathered) {
            self.remember(error);
        }
        if gathered.len() >= BUFFER_BYTES {
            self.write_out(&mut gathered);
        }
    }

    /// Writes what was gathered.
    pub(crate) fn flush(&self) {
        self.write_out(&mut lock(&self.gathered));
    }

    /// Writes what was gathered and tells whether everything could be written. A closed pipe is not a failure.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.flush();
        lock(&self.failure).take().map_or(Ok(()), Err)
    }

    /// Keeps the progress bar below the lines, until `None` takes it away.
    pub(crate) fn set_bar(&self, bar: Option<ProgressBar>) {
        let before = std::mem::replace(&mut *lock(&self.bar), bar);
        if let Some(before) = before {
            before.finish_and_clear();
        }
    }

    /// Draws the progress bar, if there is one.
    pub(crate) fn draw_bar(&self, text: impl FnOnce() -> String) {
        let bar = lock(&self.bar).clone();
        if let Some(bar) = bar {
            bar.set_message(text());
        }
    }

    /// One line on standard error, after everything gathered so far where both are seen together.
    pub(crate) fn write_error_line(&self, line: &str) {
        if self.shares_screen {
            self.flush();
        }
        // When standard error is gone there is nowhere left to say so.
        drop(self.beside_bar(|| writeln!(io::stderr().lock(), "{line}")));
    }

    fn write_out(&self, gathered: &mut Vec<u8>) {
        if gathered.is_empty() {
            return;
        }
        if !self.is_closed() {
            let write = || {
                let mut stdout = io::stdout().lock();
                stdout.write_all(gathered).and_then(|()| stdout.flush())
            };
            let written = if self.shares_screen {
                self.beside_bar(write)
            } else {
                write()
            };
            if let Err(error) = written {
                self.remember(error);
            }
        }
        gathered.clear();
    }

    /// Takes the progress bar off the screen while something else is written.
    fn beside_bar<T>(&self, write: impl FnOnce() -> T) -> T {
        let bar = lock(&self.bar).clone();
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn remember(&self, error: io::Error) {
        self.closed.store(true, Ordering::Relaxed);
        if error.kind() != io::ErrorKind::BrokenPipe {
            lock(&self.failure).get_or_insert(error);
        }
    }
}

/// Raw bytes on standard output, through the same buffer.
impl Write for &Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.gather(|buffer| buffer.write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Output::flush(self);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked while it held one of these left nothing half done that matters to a screen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the logger write whole lines to standard error without tearing the progress bar.
#[derive(Debug, Clone)]
pub(crate) struct LogWriter(Arc<Output>);

impl LogWriter {
    /// Writes beside this output.
    pub(crate) fn new(output: Arc<Output>) -> Self {
        Self(output)
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What a connector logs may repeat what a server said.
        self.0
            .write_error_line(&one_line(String::from_utf8_lossy(bytes).trim_end_matches('\n')));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
