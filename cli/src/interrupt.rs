//! What a signal to stop does: the first asks the running operation to end cleanly, the second ends the program; with
//! no operation running the first already does. A terminal that hides its input is brought back first.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use plakar_core::progress::Cancel;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::error::Exit;

static STATE: Mutex<State> = Mutex::new(State {
    cancel: None,
    terminal: None,
});

/// Told to connectors, so that a call that waits for a server ends too.
static STOPPING: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

struct State {
    cancel: Option<Arc<Cancel>>,
    terminal: Option<(OwnedFd, Termios)>,
}

/// Listens for SIGINT, SIGTERM and SIGHUP from now on.
pub(crate) fn install() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        let mut state = state();
        match &state.cancel {
            Some(cancel) if !cancel.is_cancelled() => {
                cancel.cancel();
                STOPPING.store(true, Ordering::Relaxed);
            }
            _ => {
                restore(&mut state);
                leave();
            }
        }
    })
}

/// Ends the program. The exit code is for other programs; someone at a terminal is told. Past all locks, which whoever is
/// interrupted may hold.
#[expect(clippy::exit, reason = "a signal arrived and nothing is left to tidy up")]
pub(crate) fn leave() -> ! {
    static LEAVING: AtomicBool = AtomicBool::new(false);
    while LEAVING.swap(true, Ordering::Relaxed) {
        // A Ctrl-C at a prompt is both typed and signalled. Whoever saw it first ends the program.
        std::thread::park();
    }
    let stderr = rustix::stdio::stderr();
    if rustix::termios::isatty(stderr) {
        // Below the prompt, the progress bar or the ^C that the terminal shows.
        let _told = rustix::io::write(stderr, b"\nplakar: interrupted\n").is_ok();
    }
    std::process::exit(Exit::Interrupted as i32)
}

/// Set by the first signal during an operation.
pub(crate) fn stopping() -> Arc<AtomicBool> {
    Arc::clone(&STOPPING)
}

/// While the guard lives, the first signal only asks `cancel` to stop.
pub(crate) fn during(cancel: &Arc<Cancel>) -> Guard {
    state().cancel = Some(Arc::clone(cancel));
    Guard(())
}

/// While the guard lives, the terminal does not show what is typed. A signal brings it back as it is now.
pub(crate) fn hiding(terminal: OwnedFd) -> Guard {
    let mut state = state();
    if let Ok(attributes) = tcgetattr(&terminal) {
        let mut hidden = attributes.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        state.terminal = Some((terminal, attributes));
        if let Some((terminal, _)) = &state.terminal
            && let Err(error) = tcsetattr(terminal, OptionalActions::Now, &hidden)
        {
            tracing::debug!(%error, "the terminal is gone");
        }
    }
    Guard(())
}

/// Ends what `during` or `hiding` began.
#[derive(Debug)]
pub(crate) struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = state();
        state.cancel = None;
        restore(&mut state);
    }
}

fn restore(state: &mut State) {
    if let Some((terminal, attributes)) = state.terminal.take()
        && let Err(error) = tcsetattr(&terminal, OptionalActions::Now, &attributes)
    {
        tracing::debug!(%error, "the terminal is gone");
    }
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}
