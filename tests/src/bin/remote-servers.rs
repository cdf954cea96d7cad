//! Real servers for a comparison of programs: OpenSSH and Garage on this machine, each behind a line of a wanted length.
//!
//! `remote-servers FOLDER ROUND_TRIP_MS` prints what a shell needs to use them, one `NAME=value` a line and an empty line. Then each
//! line on standard input is answered with the requests that reached the S3 server since the last; its end stops everything.
//! With a third word, `count`, requests to the SFTP server count instead, which slows it down.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use plakar_testkit::http_proxy::HttpProxy;
use plakar_testkit::proxy::Proxy;
use plakar_testkit::s3_server::S3Server;
use plakar_testkit::sshd::{SFTP_SERVER, Sshd, SshdOptions};

/// What the program is called with as the SFTP server of a counted session.
const SESSION: &str = "counted-session";

/// Serves one session with OpenSSH's server, and keeps the number of its requests in a file of its own in a folder.
fn counted_session(folder: &str) -> io::Result<()> {
    let numbers = File::create(Path::new(folder).join(std::process::id().to_string()))?;
    let mut server = Command::new(SFTP_SERVER).stdin(Stdio::piped()).spawn()?;
    let mut to = BufWriter::new(server.stdin.take().expect("it was asked for"));
    let mut from = BufReader::with_capacity(1 << 20, io::stdin());
    let mut length = [0; 4];
    let mut packets: u64 = 0;
    while from.read_exact(&mut length).is_ok() {
        to.write_all(&length)?;
        io::copy(&mut (&mut from).take(u32::from_be_bytes(length).into()), &mut to)?;
        if from.buffer().len() < length.len() {
            to.flush()?;
        }
        // The first packet greets.
        numbers.write_all_at(format!("{packets:20}").as_bytes(), 0)?;
        packets += 1;
    }
    drop(to);
    server.wait()?;
    Ok(())
}

/// How many requests all sessions made since the last call.
fn counted(folder: &Path, before: &mut u64) -> io::Result<u64> {
    let mut all = 0;
    for session in fs::read_dir(folder)? {
        let text = fs::read_to_string(session?.path())?;
        all += text.trim().parse::<u64>().unwrap_or(0);
    }
    let new = all - *before;
    *before = all;
    Ok(new)
}

fn main() -> std::io::Result<()> {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == SESSION).is_some() {
        return counted_session(&words.next().unwrap_or_default());
    }
    let (Some(folder), Some(round_trip)) = (words.next(), words.next()) else {
        return Err(std::io::Error::other(
            "usage: remote-servers FOLDER ROUND_TRIP_MS",
        ));
    };
    let round_trip = round_trip.parse().map_err(std::io::Error::other)?;
    let one_way = Duration::from_millis(round_trip) / 2;

    let counts_sftp = words.next().is_some_and(|word| word == "count");
    let sessions = Path::new(&folder).join("sessions");
    fs::create_dir_all(&sessions)?;
    let program = std::env::current_exe()?;
    let counting = format!("{} {SESSION} {}", program.display(), sessions.display());
    let options = SshdOptions {
        sftp_server: counts_sftp.then_some(counting),
        ..SshdOptions::default()
    };
    let sshd = Sshd::inside(Path::new(&folder), options);
    let to_sshd = Proxy::to(sshd.port());
    to_sshd.delay(one_way);

    let s3 = S3Server::garage();
    let counting = HttpProxy::before(s3.endpoint());
    let counting_port = counting
        .endpoint()
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    let to_s3 = Proxy::to(counting_port.ok_or_else(|| std::io::Error::other("the proxy has no port"))?);
    to_s3.delay(one_way);

    let mut out = std::io::stdout();
    let lines = [
        ("SFTP_PORT", to_sshd.port().to_string()),
        ("SFTP_FOLDER", sshd.data().display().to_string()),
        ("SFTP_IDENTITY", sshd.identity().display().to_string()),
        (
            "SFTP_KNOWN_HOSTS",
            sshd.known_hosts(to_sshd.port()).display().to_string(),
        ),
        ("S3_ENDPOINT", format!("127.0.0.1:{}", to_s3.port())),
        ("S3_BUCKET", s3.bucket().to_owned()),
        ("S3_KEY", s3.access_key().to_owned()),
        ("S3_SECRET", s3.secret_key().to_owned()),
    ];
    for (name, value) in lines {
        writeln!(out, "{name}={value}")?;
    }
    writeln!(out)?;
    out.flush()?;
    let mut before = 0;
    for line in std::io::stdin().lock().lines() {
        line?;
        let all = if counts_sftp {
            counted(&sessions, &mut before)?
        } else {
            counting.counts().values().map(|&count| count as u64).sum()
        };
        counting.reset();
        writeln!(out, "{all}")?;
        out.flush()?;
    }
    Ok(())
}
