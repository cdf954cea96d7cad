//! Which servers are trusted: known, new, changed and revoked host keys, and certificates of hosts.

mod sftp_support;

use std::fs;
use std::path::PathBuf;

use plakar_core::storage::StorageErrorKind;
use plakar_testkit::sshd::{Sshd, SshdOptions, generate_key};
use sftp_support::{Settings, open, refused, with};

/// Settings whose file of known hosts holds this text.
fn knowing(server: &Sshd, text: &str) -> (Settings, PathBuf) {
    let file = server.path("hosts-of-the-test");
    fs::write(&file, text).unwrap();
    (
        with(
            &server.settings(),
            &[("known_hosts_file", file.to_str().unwrap())],
        ),
        file,
    )
}

#[track_caller]
fn refused_by(server: &Sshd, text: &str) -> String {
    let (settings, _) = knowing(server, text);
    let strict = refused(&server.url(&server.data()), &settings);
    assert_eq!(strict.0, StorageErrorKind::Auth, "{}", strict.1);
    strict.1
}

#[track_caller]
fn accepted_by(server: &Sshd, text: &str) {
    let (settings, file) = knowing(server, text);
    open(&server.url(&server.data()), &settings)
        .list("", "", 1)
        .unwrap();
    assert_eq!(
        fs::read_to_string(file).unwrap(),
        text,
        "a known host is not recorded again"
    );
}

fn name(server: &Sshd) -> String {
    format!("[127.0.0.1]:{}", server.port())
}

#[test]
fn an_unknown_host_is_refused_with_its_fingerprint_and_what_to_do() {
    let server = Sshd::start();
    let message = refused_by(&server, "");
    for part in [
        &server.fingerprint("ed25519"),
        "ssh-ed25519",
        &name(&server),
        "-accept-new-host-key",
        "accept_new_host_key",
    ] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    assert!(
        fs::read_to_string(server.path("hosts-of-the-test"))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_new_host_is_recorded_once_when_that_is_asked_for() {
    let server = Sshd::start();
    let (settings, file) = knowing(&server, "");
    fs::remove_file(&file).unwrap();
    let accepting = with(&settings, &[("accept_new_host_key", "true")]);
    let location = server.url(&server.data());
    open(&location, &accepting).list("", "", 1).unwrap();
    let recorded = fs::read_to_string(&file).unwrap();
    assert_eq!(
        recorded,
        format!("{} {}\n", name(&server), server.host_key("ed25519"))
    );
    open(&location, &settings).list("", "", 1).unwrap();
    open(&location, &accepting).list("", "", 1).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), recorded);
}

#[test]
fn a_changed_key_is_refused_even_where_new_ones_are_accepted() {
    let server = Sshd::start();
    let other = Sshd::start();
    let line = format!("# a comment\n{} {}\n", name(&server), other.host_key("ed25519"));
    let (settings, file) = knowing(&server, &line);
    for settings in [
        settings.clone(),
        with(&settings, &[("accept_new_host_key", "true")]),
    ] {
        let (kind, message) = refused(&server.url(&server.data()), &settings);
        assert_eq!(kind, StorageErrorKind::Auth);
        let place = format!("{}:2", file.display());
        for part in [
            "CHANGED",
            &server.fingerprint("ed25519"),
            &other.fingerprint("ed25519"),
            &place,
        ] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), line);
}

#[test]
fn a_known_key_is_accepted_however_it_is_written() {
    let server = Sshd::start();
    let key = server.host_key("ed25519");
    accepted_by(&server, &format!("{} {key}\n", name(&server)));
    accepted_by(
        &server,
        &format!("other,[127.0.0.*]:*,!192.168.0.1 {key} a comment\n"),
    );
    accepted_by(&server, &format!("127.0.0.1 {key}\n"));
    refused_by(&server, &format!("*,!{},!127.0.0.1 {key}\n", name(&server)));
    refused_by(&server, &format!("[127.0.0.1]:1 {key}\n"));
    // As ssh-keygen hashes names.
    let file = server.path("hashed");
    fs::write(&file, format!("{} {key}\n", name(&server))).unwrap();
    let hashed = std::process::Command::new("ssh-keygen")
        .arg("-Hf")
        .arg(&file)
        .output()
        .unwrap();
    assert!(hashed.status.success());
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("|1|"), "{text}");
    accepted_by(&server, &text);
}

#[test]
fn a_server_with_keys_of_many_kinds_shows_the_one_that_is_known() {
    let options = SshdOptions {
        host_keys: vec!["ed25519", "ecdsa", "rsa"],
        ..SshdOptions::default()
    };
    let server = Sshd::with(options);
    for kind in ["rsa", "ecdsa", "ed25519"] {
        accepted_by(&server, &format!("{} {}\n", name(&server), server.host_key(kind)));
    }
    // A server that is known by another kind of key alone is not new.
    let only = Sshd::start();
    let line = format!("{} {}\n", name(&only), server.host_key("rsa"));
    let (settings, _) = knowing(&only, &line);
    let accepting = with(&settings, &[("accept_new_host_key", "true")]);
    let (_, message) = refused(&only.url(&only.data()), &accepting);
    assert!(message.contains("CHANGED"), "{message}");
}

#[test]
fn a_revoked_key_is_refused() {
    let server = Sshd::start();
    let key = server.host_key("ed25519");
    let message = refused_by(&server, &format!("{} {key}\n@revoked * {key}\n", name(&server)));
    assert!(message.contains("revoked") && message.contains(":2"), "{message}");
}

fn certified(names: &'static str) -> (Sshd, String) {
    let server = Sshd::with(SshdOptions {
        certificate_for: Some(names),
        ..SshdOptions::default()
    });
    let authority = fs::read_to_string(server.path("authority.pub")).unwrap();
    (server, authority)
}

#[test]
fn a_certificate_of_a_known_authority_is_enough() {
    let (server, authority) = certified("127.0.0.1,nas");
    accepted_by(&server, &format!("@cert-authority [127.0.0.1]:* {authority}"));
    accepted_by(&server, &format!("@cert-authority 127.* {authority}"));
    let message = refused_by(&server, &format!("@cert-authority example.org {authority}"));
    assert!(message.contains("not known"), "{message}");
    generate_key(&server.path("stranger"), "ed25519", "");
    let stranger = fs::read_to_string(server.path("stranger.pub")).unwrap();
    let message = refused_by(&server, &format!("@cert-authority * {stranger}"));
    assert!(message.contains("not known"), "{message}");
    // The key in the certificate of a stranger may be known by itself.
    accepted_by(
        &server,
        &format!(
            "@cert-authority * {stranger}127.0.0.1 {}\n",
            server.host_key("ed25519")
        ),
    );
    let message = refused_by(
        &server,
        &format!("@cert-authority * {authority}@revoked * {authority}"),
    );
    assert!(message.contains("revoked"), "{message}");
}

#[test]
fn a_certificate_for_another_host_or_time_is_refused() {
    let (server, authority) = certified("nas");
    let message = refused_by(&server, &format!("@cert-authority * {authority}"));
    assert!(message.contains("not for 127.0.0.1"), "{message}");

    let (mut server, authority) = certified("127.0.0.1");
    let line = format!("@cert-authority * {authority}");
    let past = ["-h", "-n", "127.0.0.1", "-V", "-2h:-1h"];
    plakar_testkit::sshd::sign(&server.path("authority"), &server.path("host_ed25519"), &past);
    server.restart();
    let message = refused_by(&server, &line);
    assert!(message.contains("expired"), "{message}");
}
