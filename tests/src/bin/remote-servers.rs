//! Real servers for a comparison of programs: OpenSSH and Garage on this machine, each behind a line of a wanted length.
//!
//! `remote-servers FOLDER ROUND_TRIP_MS` prints what a shell needs to use them, one `NAME=value` a line and an empty line. Then each
//! line on standard input is answered with the requests that reached the S3 server since the last; its end stops everything.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::time::Duration;

use plakar_testkit::http_proxy::HttpProxy;
use plakar_testkit::proxy::Proxy;
use plakar_testkit::s3_server::S3Server;
use plakar_testkit::sshd::{Sshd, SshdOptions};

fn main() -> std::io::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(folder), Some(round_trip)) = (words.next(), words.next()) else {
        return Err(std::io::Error::other(
            "usage: remote-servers FOLDER ROUND_TRIP_MS",
        ));
    };
    let round_trip = round_trip.parse().map_err(std::io::Error::other)?;
    let one_way = Duration::from_millis(round_trip) / 2;

    let sshd = Sshd::inside(Path::new(&folder), SshdOptions::default());
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
    for line in std::io::stdin().lock().lines() {
        line?;
        let all: usize = counting.counts().values().sum();
        counting.reset();
        writeln!(out, "{all}")?;
        out.flush()?;
    }
    Ok(())
}
