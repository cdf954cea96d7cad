//! What a user of the program meets when an SFTP server, or the way to it, misbehaves: what it says, how it ends, and that
//! nothing is lost.

mod sftp_support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use plakar_testkit::lab::PASSPHRASE;
use plakar_testkit::mount::Tmpfs;
use plakar_testkit::proxy::{Proxy, Way};
use plakar_testkit::sshd::{Sshd, SshdOptions};
use plakar_testkit::{Image, Lab, Output, Run, assert_same, names_below, text, wait_until};
use sftp_support::built;

const MIB: usize = 1 << 20;

/// A lab that calls a place on the server `nas` and reaches it through a port, which it knows.
fn lab_through(server: &Sshd, port: u16, place: &Path, more: &str) -> Lab {
    built();
    let lab = Lab::new();
    let settings: String = server
        .settings_at(port)
        .iter()
        .map(|(name, value)| format!("{name} = {value:?}\n"))
        .collect();
    let location = server.url_at(port, place);
    lab.configure_nas(&format!("location = {location:?}\n{settings}{more}"));
    lab
}

fn lab_of(server: &Sshd, more: &str) -> Lab {
    lab_through(server, server.port(), &server.data().join("repository"), more)
}

fn run(lab: &Lab, words: &[&str]) -> Run {
    lab.plain(words).env("PLAKAR_PASSPHRASE", PASSPHRASE)
}

/// What was backed up comes back, and everything stored is whole.
#[track_caller]
fn comes_back(lab: &Lab, source: &Path, snapshot: &str) {
    run(lab, &["check", "-quiet"]).ok();
    let target = lab.path(format!("restored-{snapshot}"));
    run(lab, &["restore", "-quiet", "-to", text(&target), snapshot]).ok();
    assert_same(&Image::of(source), &Image::of(&target));
}

#[test]
fn a_backup_over_connections_that_break_again_and_again_is_whole() {
    const BREAKS: u64 = 4;
    let server = Sshd::start();
    let proxy = Proxy::to(server.port());
    let lab = lab_through(&server, proxy.port(), &server.data().join("repository"), "");
    let source = lab.megabytes("source", 0..160);
    run(&lab, &["create"]).ok();
    let logins = server.logins();
    let child = run(&lab, &["-json", "backup", text(&source)]).spawn();
    for _ in 0..BREAKS {
        proxy.drop_after(20 * MIB as u64);
        let broken = proxy.dropped();
        wait_until("the backup moves bytes", || proxy.dropped() > broken);
    }
    Output::of(child).expect(0, "the backup");
    assert!(server.logins() - logins > BREAKS as usize);
    let snapshots = run(&lab, &["ls"]).ok().stdout;
    assert_eq!(snapshots.lines().count(), 1, "{snapshots}");
    let id = snapshots.split(' ').nth(1).unwrap();
    // A session that lost its client may create a last temporary file after it was looked for. Those go after a day.
    comes_back(&lab, &source, id);
}

#[test]
fn a_server_killed_in_mid_backup_and_started_again_is_used_on() {
    let mut server = Sshd::start();
    let lab = lab_of(&server, "");
    let source = lab.megabytes("source", 0..120);
    run(&lab, &["create"]).ok();
    let packs = server.data().join("repository/packs");
    let child = run(&lab, &["backup", "-quiet", text(&source)]).spawn();
    wait_until("a pack is written", || {
        packs.exists() && !names_below(&packs).is_empty()
    });
    server.kill();
    std::thread::sleep(Duration::from_millis(500));
    let port = server.port();
    server.restart();
    assert_eq!(server.port(), port, "another program took the port");
    let id = Output::of(child).expect(0, "the backup").snapshot();
    comes_back(&lab, &source, &id);
}

#[test]
fn who_is_not_let_in_or_not_known_is_told_so() {
    let server = Sshd::start();
    let lab = lab_of(&server, "");
    run(&lab, &["create"]).ok();
    // Somebody else's key.
    let other = Sshd::start();
    let known = server.known_hosts(server.port());
    let location = server.url(&server.data().join("repository"));
    let with = |key: &Path, known: &Path| {
        format!(
            "location = {location:?}\nssh_config = \"none\"\nuse_agent = \"false\"\nidentity_file = {key:?}\n\
             known_hosts_file = {known:?}\n"
        )
    };
    lab.configure_nas(&with(&other.identity(), &known));
    run(&lab, &["ls"]).gives_up(77, "127.0.0.1");
    // A key of the host that is not the one that was there before.
    let changed = lab.path("home/changed");
    let line = format!("[127.0.0.1]:{} {}\n", server.port(), other.host_key("ed25519"));
    fs::write(&changed, line).unwrap();
    lab.configure_nas(&with(&server.identity(), &changed));
    let told = run(&lab, &["ls"]).gives_up(77, &server.fingerprint("ed25519"));
    assert!(told.stderr.contains("changed"), "{}", told.stderr);
    run(&lab, &["-accept-new-host-key", "ls"]).gives_up(77, &server.fingerprint("ed25519"));
    // An unknown key is added when that is asked for, and known from then on.
    let empty = lab.path("home/known");
    lab.configure_nas(&with(&server.identity(), &empty));
    run(&lab, &["ls"]).gives_up(77, "-accept-new-host-key");
    run(&lab, &["-accept-new-host-key", "ls"]).ok();
    run(&lab, &["ls"]).ok();
    assert_eq!(fs::read_to_string(&empty).unwrap().lines().count(), 1);
    // The option is for servers of this kind, and in the way of no other.
    let local = lab.path("local");
    let at = ["-accept-new-host-key", "at", text(&local), "create"];
    run(&lab, &at).ok();
}

#[test]
fn places_that_cannot_be_used_are_told_apart() {
    let server = Sshd::start();
    let lab = lab_of(&server, "connect_timeout_seconds = \"2\"\n");
    run(&lab, &["ls"]).gives_up(66, "no repository");
    run(&lab, &["create"]).ok();
    run(&lab, &["create"]).gives_up(73, "repository");
    run(&lab, &["at", "sftp://host.invalid/x", "ls"]).gives_up(78, "host.invalid");
    run(&lab, &["at", "sftp://127.0.0.1:99999/x", "ls"]).gives_up(78, "99999");
    let proxy = Proxy::to(server.port());
    proxy.way(Way::Closed);
    let away = lab_through(
        &server,
        proxy.port(),
        &server.data().join("repository"),
        "connect_timeout_seconds = \"2\"\n",
    );
    let begun = Instant::now();
    let address = format!("127.0.0.1:{}", proxy.port());
    run(&away, &["ls"]).gives_up(69, &address);
    run(&away, &["connector", "check", "@nas"]).gives_up(69, &address);
    assert!(
        begun.elapsed() < Duration::from_mins(1),
        "who says how long is not kept waiting"
    );
}

#[test]
fn the_suite_is_run_by_the_program_on_a_real_server() {
    let server = Sshd::start();
    let lab = lab_of(&server, "");
    fs::create_dir(server.data().join("repository")).unwrap();
    let verdicts = run(&lab, &["connector", "check", "@nas"]).ok().stdout;
    let (passed, rest): (Vec<_>, Vec<_>) = verdicts.lines().partition(|line| line.starts_with("✓ "));
    assert!(passed.len() >= 28, "{verdicts}");
    assert!(rest.len() == 1 && rest[0].contains("conforms in"), "{verdicts}");
    let left = names_below(&server.data());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_full_or_read_only_place_needs_root_and_is_told_and_the_backup_after_works() {
    let folder = tempfile::tempdir().unwrap();
    let small = Tmpfs::mount(folder.path().join("small"), 64 * MIB as u64);
    // The server sees mounts that were there before it.
    let server = Sshd::start();
    let lab = lab_through(&server, server.port(), &small.path().join("repository"), "");
    run(&lab, &["create"]).ok();
    let little = lab.megabytes("little", 0..4);
    let first = run(&lab, &["backup", "-quiet", text(&little)]).ok().snapshot();
    let much = lab.megabytes("much", 10..110);
    run(&lab, &["backup", "-quiet", text(&much)]).gives_up(73, "full");
    let left = names_below(small.path());
    assert!(!left.iter().any(|name| name.contains(".tmp-")), "{left:?}");
    comes_back(&lab, &little, &first);
    small.resize(256 * MIB as u64);
    let second = run(&lab, &["backup", "-quiet", text(&much)]).ok().snapshot();
    comes_back(&lab, &much, &second);
    small.read_only(true);
    run(&lab, &["backup", "-quiet", text(&little)]).gives_up(77, "read-only");
    run(&lab, &["check", "-quiet"]).ok();
    small.read_only(false);
}

#[test]
fn a_server_without_optional_requests_keeps_a_repository() {
    let server = Sshd::with(SshdOptions {
        without: Some("fsync,posix-rename,hardlink,statvfs,limits"),
        ..SshdOptions::default()
    });
    let lab = lab_of(&server, "");
    let source = lab.megabytes("source", 0..20);
    run(&lab, &["create"]).ok();
    let id = run(&lab, &["backup", "-quiet", text(&source)]).ok().snapshot();
    comes_back(&lab, &source, &id);
}
