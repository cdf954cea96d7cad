//! Runs the program on a terminal of its own and answers what it asks.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::lab::Lab;

/// How long an answer of the program may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was seen on a terminal.
#[derive(Debug)]
pub struct Conversation {
    /// The exit code.
    pub code: Option<i32>,
    /// Everything that was shown, as lines with plain ends.
    pub shown: String,
}

/// Runs the program on a terminal. Each prompt that appears is answered; the answers are typed one after another.
pub fn converse(lab: &Lab, words: &[&str], answers: &[(&str, &str)]) -> Conversation {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&master).expect("a terminal");
    unlockpt(&master).expect("a terminal");
    let name = ptsname(&master, Vec::new()).expect("its name");
    let slave = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().expect("UTF-8"))
        .expect("its other end");
    let mut command = Command::new(crate::program::program());
    command
        .arg("at")
        .arg(lab.repository())
        .args(words)
        .current_dir(lab.path("home"));
    lab.clean(&mut command);
    command.env("TERM", "xterm");
    let end = || Stdio::from(slave.try_clone().expect("a copy"));
    command.stdin(end()).stdout(end()).stderr(end());
    control(&mut command);
    let mut child = command.spawn().expect("the program starts");
    drop((command, slave));
    let mut keyboard = File::from(master);
    let mut screen = keyboard.try_clone().expect("a copy");
    let (bytes_in, bytes_out) = mpsc::channel::<Vec<u8>>();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // The end of a terminal is told by an error.
        while let Ok(length @ 1..) = screen.read(&mut buffer) {
            if bytes_in.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut shown = Vec::new();
    for (prompt, answer) in answers {
        let start = shown.len();
        let deadline = Instant::now() + PATIENCE;
        while !contains(&shown[start..], prompt.as_bytes()) {
            let left = deadline.saturating_duration_since(Instant::now());
            match bytes_out.recv_timeout(left) {
                Ok(bytes) => shown.extend(bytes),
                Err(_) => panic!(
                    "`{prompt}` did not appear after {:?}",
                    String::from_utf8_lossy(&shown)
                ),
            }
        }
        // At once: the echo is off before the prompt is there.
        keyboard
            .write_all(format!("{answer}\n").as_bytes())
            .expect("typed");
    }
    let status = child.wait().expect("the program ends");
    drop(reader.join());
    shown.extend(bytes_out.into_iter().flatten());
    Conversation {
        code: status.code(),
        shown: String::from_utf8_lossy(&shown).replace("\r\n", "\n"),
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Makes standard input the controlling terminal.
fn control(command: &mut Command) {
    let take = || {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        Ok(())
    };
    #[expect(unsafe_code, reason = "std offers no way to give a child a terminal")]
    // SAFETY: between fork and exec only the system calls setsid and ioctl are made, which are async-signal-safe.
    unsafe {
        command.pre_exec(take);
    }
}
