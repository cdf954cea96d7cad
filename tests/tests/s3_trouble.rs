//! What a user of the program meets when an S3 server, or the way to it, misbehaves: what it says, and that nothing is lost.

mod s3_support;

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use plakar_core::storage::Storage as _;
use plakar_testkit::http_message::{Message, refusal, reply};
use plakar_testkit::http_proxy::{Fault, HttpProxy, Rule};
use plakar_testkit::lab::PASSPHRASE;
use plakar_testkit::s3_fake::S3Fake;
use plakar_testkit::s3_server::S3Server;
use plakar_testkit::{Image, Lab, Output, Run, assert_same, names_below, text, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use s3_support::{create, keys, open, registry};

/// A lab that calls a place `nas`.
fn lab(location: &str, more: &str) -> Lab {
    drop(registry()); // builds the connector beside the program
    let lab = Lab::new();
    lab.configure_nas(&format!("location = \"{location}\"\n{more}"));
    lab
}

fn run(lab: &Lab, server: &S3Server, words: &[&str]) -> Run {
    lab.plain(words)
        .env("S3_REPOSITORY_USER", server.access_key())
        .env("S3_REPOSITORY_PASSWORD", server.secret_key())
        .env("PLAKAR_PASSPHRASE", PASSPHRASE)
}

fn answer(status: u16, code: &str, headers: &[&str]) -> Fault {
    Fault::Answer(Box::new(refusal(status, code, headers)))
}

fn is_put(request: &Message, part: &str) -> bool {
    request.method() == "PUT" && request.target().contains(part)
}

#[test]
fn a_backup_through_many_faults_is_whole_and_made_once() {
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let lab = lab(
        &server.location_at(&proxy.endpoint(), "p"),
        "tls = false\nrequest_timeout_seconds = 2\n",
    );
    let source = lab.megabytes("source", 0..40);
    let run = |words: &[&str]| run(&lab, &server, words);
    run(&["create"]).ok();
    for (method, part, fault) in [
        ("PUT", "/packs/", answer(503, "SlowDown", &["Retry-After: 1"])),
        ("PUT", "/packs/", answer(429, "TooManyRequests", &[])),
        ("PUT", "/packs/", Fault::ResetBefore),
        ("PUT", "/packs/", Fault::ResetAfter),
        ("PUT", "/packs/", Fault::Silence),
        ("PUT", "/packs/", Fault::Damage),
        ("PUT", "/index/", answer(500, "InternalError", &[])),
        ("PUT", "/index/", Fault::ResetAfter),
        // The one request that makes the snapshot exist.
        ("PUT", "/snapshots/", Fault::ResetAfter),
    ] {
        proxy.add(Rule::new(method, part, fault).times(1));
    }
    let backup = run(&["-json", "backup", text(&source)]).ok();
    // Each fault is met; a slow machine may meet its own impatience besides.
    let retries = backup.stdout.split("\"retries\":").nth(1).unwrap();
    let retries: u64 = retries.split(',').next().unwrap().parse().unwrap();
    assert!(retries >= 9, "{retries}");
    assert_eq!(run(&["ls"]).ok().stdout.lines().count(), 1);
    proxy.add(Rule::new("GET", "/packs/", Fault::CutBody(1000)).times(3));
    run(&["check"]).ok();
    let target = lab.path("restored");
    proxy.add(Rule::new("GET", "/packs/", Fault::CutBody(70_000)).times(3));
    run(&["restore", "-to", text(&target)]).ok();
    assert_same(&Image::of(&source), &Image::of(&target));
}

#[test]
fn credentials_that_expire_in_mid_run_are_told_and_the_next_backup_goes_on() {
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let lab = lab(&server.location_at(&proxy.endpoint(), "p"), "tls = false\n");
    let source = lab.megabytes("source", 0..80);
    let run = |words: &[&str]| run(&lab, &server, words);
    run(&["create"]).ok();
    proxy.add(Rule::new("PUT", "/packs/", Fault::Delay(Duration::ZERO)).times(2));
    proxy.add(Rule::new("PUT", "/packs/", answer(400, "ExpiredToken", &[])));
    run(&["backup", "-quiet", text(&source)]).refuses(77, "expired");
    assert_eq!(run(&["ls"]).ok().stdout, "");
    let stored = || keys(&open(&server.location("p"), &server.settings()), "packs/", 1000).len();
    let before = stored();
    proxy.reset();
    run(&["backup", text(&source)]).ok();
    let requests = proxy.seen();
    let packs = requests.iter().filter(|request| is_put(request, "/packs/"));
    assert!(before > 0);
    assert_eq!(packs.count(), stored() - before, "nothing is stored twice");
    run(&["check"]).ok();
}

#[test]
fn an_interrupted_backup_leaves_no_upload_and_the_next_one_works() {
    interrupted_when("PUT", "partNumber=2", Fault::Silence);
}

#[test]
fn a_backup_interrupted_while_uploads_begin_leaves_none_either() {
    // Their names are still on the way when the program is told to stop, and an upload without a name cannot be ended.
    interrupted_when("POST", "uploads", Fault::Delay(Duration::from_millis(1500)));
}

/// Interrupts a backup when such a request is on its way, to which that happens.
fn interrupted_when(method: &str, part: &str, fault: Fault) {
    let server = S3Server::garage();
    let proxy = HttpProxy::before(server.endpoint());
    let lab = lab(
        &server.location_at(&proxy.endpoint(), "p"),
        "tls = false\nmultipart_threshold_mib = 5\nmultipart_part_mib = 5\n",
    );
    let source = lab.megabytes("source", 0..40);
    let run = |words: &[&str]| run(&lab, &server, words);
    run(&["create"]).ok();
    proxy.add(Rule::new(method, part, fault));
    let child = run(&["backup", text(&source)]).spawn();
    wait_until("the request is on its way", || {
        let seen = proxy.seen();
        seen.iter()
            .any(|request| request.method() == method && request.target().contains(part))
    });
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    Output::of(child).expect(130, "the interrupted backup");
    // What was held back on the way arrives although nobody waits for it.
    std::thread::sleep(Duration::from_secs(2));
    let info = server
        .command(&["bucket", "info", server.bucket()])
        .to_ascii_lowercase();
    let uploads: Vec<_> = info.lines().filter(|line| line.contains("multipart")).collect();
    assert!(uploads.is_empty(), "{uploads:?}");
    proxy.reset();
    run(&["backup", text(&source)]).ok();
    run(&["check"]).ok();
}

#[test]
fn two_backups_at_the_same_time_are_both_whole() {
    let server = S3Server::start_plain();
    let lab = lab(&server.location("p"), "tls = false\n");
    let run = |words: &[&str]| run(&lab, &server, words);
    run(&["create"]).ok();
    // Half of each is what the other has too.
    let sources = [lab.megabytes("one", 0..40), lab.megabytes("two", 20..60)];
    let children = sources
        .each_ref()
        .map(|source| run(&["backup", text(source)]).spawn());
    for child in children {
        Output::of(child).expect(0, "a backup");
    }
    run(&["check"]).ok();
    for source in &sources {
        let target = lab.path("restored");
        let words = ["restore", "-root", text(source), "-to", text(&target)];
        run(&words).ok();
        assert_same(&Image::of(source), &Image::of(&target));
        fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn a_full_server_is_told_at_once_and_the_next_backup_works_with_space() {
    let server = S3Server::garage();
    let lab = lab(&server.location("p"), "tls = false\n");
    let run = |words: &[&str]| run(&lab, &server, words);
    let quota =
        |size: &str| drop(server.command(&["bucket", "set-quotas", "--max-size", size, server.bucket()]));
    run(&["create"]).ok();
    let small = lab.megabytes("small", 0..4);
    run(&["backup", text(&small)]).ok();
    quota("30MiB");
    let large = lab.megabytes("large", 100..160);
    run(&["backup", "-quiet", text(&large)]).refuses(73, "quota");
    run(&["check"]).ok();
    quota("none");
    run(&["backup", text(&large)]).ok();
    run(&["check"]).ok();
    assert_eq!(run(&["ls"]).ok().stdout.lines().count(), 2);
}

#[test]
fn a_server_whose_disk_is_full_is_told_soon_though_it_leaves_some_without_an_answer() {
    // As Garage does: some writes are refused in the words of the system, others hang.
    const REFUSAL: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>ServiceUnavailable</Code><Message>Internal error: \
                           Could not reach quorum of 1 (sets=Some(1)). 0 of 1 request succeeded, others returned errors: \
                           [&quot;66c6c757ad3e7e0b: IO error: No space left on device (os error 28)&quot;]</Message></Error>";
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let lab = lab(
        &server.location_at(&proxy.endpoint(), "p"),
        "tls = false\nrequest_timeout_seconds = 3\n",
    );
    let run = |words: &[&str]| run(&lab, &server, words);
    run(&["create"]).ok();
    let small = lab.megabytes("small", 0..4);
    run(&["backup", text(&small)]).ok();
    let refused = Fault::Answer(Box::new(reply(503, &[], REFUSAL)));
    // Two are under way, and will hang whenever they are tried, when a third is refused.
    proxy.add(Rule::new("PUT", "/packs/", Fault::Nowhere).times(2));
    proxy.add(Rule::new("PUT", "/packs/", refused).times(1));
    proxy.add(Rule::new("PUT", "/packs/", Fault::Nowhere).times(1000));
    let large = lab.megabytes("large", 100..200);
    let begun = Instant::now();
    run(&["backup", "-quiet", text(&large)]).refuses(73, "full");
    assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
    proxy.reset();
    run(&["backup", text(&large)]).ok();
    run(&["check"]).ok();
    assert_eq!(run(&["ls"]).ok().stdout.lines().count(), 2);
}

#[test]
fn what_others_keep_under_the_same_prefix_is_neither_used_nor_touched() {
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let lab = lab(&server.location_at(&proxy.endpoint(), "p"), "tls = false\n");
    let run = |words: &[&str]| run(&lab, &server, words);
    run(&["create"]).ok();
    // Beside the folders of the repository, and where the next place begins.
    let others = open(&server.location(""), &server.settings());
    let mut theirs: Vec<String> = (0..60).map(|number| format!("p/photos/{number}")).collect();
    theirs.extend(["p/readme", "p/packs-of-mine/a", "p/zz", "p-2/config", "q"].map(String::from));
    for key in &theirs {
        create(&others, key, key.as_bytes()).unwrap();
    }
    let source = lab.megabytes("source", 0..40);
    for fault in [
        answer(503, "SlowDown", &[]),
        Fault::CutBody(40),
        Fault::ResetAfter,
    ] {
        proxy.add(Rule::new("GET", "list-type", fault).times(1));
    }
    let id = run(&["backup", "-quiet", text(&source)]).ok().snapshot();
    assert_eq!(run(&["ls"]).ok().stdout.lines().count(), 1);
    run(&["check", "-quiet"]).ok();
    let target = lab.path("restored");
    run(&["restore", "-quiet", "-to", text(&target), &id]).ok();
    assert_same(&Image::of(&source), &Image::of(&target));
    for key in &theirs {
        assert_eq!(others.get(key, 0, 100).unwrap(), key.as_bytes());
    }
}

#[test]
fn a_proxy_is_used_but_not_for_this_machine() {
    let server = S3Server::garage();
    let lab = lab(&server.location("p"), "tls = false\n");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for variable in ["http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        let run = |words: &[&str]| run(&lab, &server, words).env(variable, format!("http://{nobody}"));
        run(&["ls"]).refuses(66, "no repository");
    }
    // Names that only the proxy can know.
    let proxy = HttpProxy::before(server.endpoint());
    let far = format!("location = \"{}\"", server.location_at("minio.example:9000", "p"));
    lab.configure_nas(&format!("{far}\ntls = false\n"));
    let run =
        |words: &[&str]| run(&lab, &server, words).env("HTTP_PROXY", format!("http://{}", proxy.endpoint()));
    run(&["create"]).ok();
    let source = lab.megabytes("source", 0..2);
    run(&["backup", text(&source)]).ok();
    run(&["check"]).ok();
    assert!(!proxy.seen().is_empty());
}

#[test]
fn a_machine_without_certificates_can_do_without_tls_and_is_told_what_tls_takes() {
    let server = S3Server::start_plain();
    let lab = lab(&server.location("p"), "tls = false\n");
    let bare = |run: Run| {
        run.env("SSL_CERT_FILE", "/nonexistent/file")
            .env("SSL_CERT_DIR", "/nonexistent/folder")
    };
    bare(run(&lab, &server, &["create"])).ok();
    let location = server.location("p");
    bare(run(&lab, &server, &["at", &location, "ls"])).refuses(78, "tls_ca_file");
}

#[test]
fn a_server_that_lists_late_is_refused_by_create() {
    let fake = S3Fake::start();
    fake.state().stale = Some(std::collections::BTreeMap::new());
    let lab = lab(
        &fake.location("p"),
        "tls = false\nanonymous = true\nregion = \"r\"\n",
    );
    let run = |words: &[&str]| lab.plain(words).env("PLAKAR_PASSPHRASE", PASSPHRASE);
    run(&["create"]).refuses(69, "does not show at once what was stored");
    assert!(fake.state().objects.is_empty());
    fake.state().stale = None;
    run(&["create"]).ok();
}

#[test]
fn without_keys_those_of_the_machine_sign_at_amazon() {
    let server = S3Server::garage();
    // The metadata of the machine, and a way to Amazon that leads elsewhere.
    let machine = HttpProxy::before(server.endpoint());
    let keys = format!(
        "{{\"AccessKeyId\":\"{}\",\"SecretAccessKey\":\"{}\",\"Token\":\"tuna\",\"Expiration\":\"2999-01-01T00:00:00Z\"}}",
        server.access_key(),
        server.secret_key()
    );
    for (method, part, body) in [
        ("PUT", "/latest/api/token", "ticket"),
        ("GET", "/security-credentials/backup", &keys),
        ("GET", "/security-credentials/", "backup"),
    ] {
        machine.add(Rule::new(
            method,
            part,
            Fault::Answer(Box::new(reply(200, &[], body))),
        ));
    }
    let lab = lab(
        &format!("s3://s3.eu-west-3.amazonaws.com/{}/p", server.bucket()),
        "tls = false\nregion = \"garage\"\nvirtual_hosted = false\n",
    );
    let run = |words: &[&str]| {
        let machine = format!("http://{}", machine.endpoint());
        lab.plain(words)
            .env("PLAKAR_PASSPHRASE", PASSPHRASE)
            .env("AWS_METADATA_ENDPOINT", &machine)
            .env("HTTP_PROXY", machine)
            .env("NO_PROXY", "127.0.0.1")
    };
    run(&["create"]).ok();
    assert_eq!(run(&["ls"]).ok().stdout, "");
    let requests = machine.seen();
    let signed = requests
        .iter()
        .filter(|request| request.header("x-amz-security-token") == Some("tuna"));
    assert!(signed.count() > 5);
    assert!(
        requests
            .iter()
            .any(|request| request.target().contains("s3.garage.amazonaws.com"))
    );
}

#[test]
fn the_name_of_the_bucket_goes_before_that_of_the_server_at_amazon() {
    let server = S3Server::garage();
    let amazon = HttpProxy::before(server.endpoint());
    let location = format!("s3://s3.garage.amazonaws.com/{}/p", server.bucket());
    let lab = lab(&location, "tls = false\nregion = \"garage\"\n");
    let run =
        |words: &[&str]| run(&lab, &server, words).env("HTTP_PROXY", format!("http://{}", amazon.endpoint()));
    let source = lab.megabytes("source", 0..20);
    run(&["create"]).ok();
    run(&["backup", text(&source)]).ok();
    run(&["check"]).ok();
    let target = lab.path("restored");
    run(&["restore", "-to", text(&target)]).ok();
    assert_same(&Image::of(&source), &Image::of(&target));
    let requests = amazon.seen();
    let host = format!("{}.s3.garage.amazonaws.com", server.bucket());
    assert!(requests.iter().any(|request| request.method() == "PUT"));
    for request in requests {
        assert_eq!(
            request.header("host"),
            Some(host.as_str()),
            "{}",
            request.target()
        );
        assert!(!request.target().contains("/backups/"), "{}", request.target());
    }
}

#[test]
fn the_copy_of_metadata_is_shared_by_processes_and_what_is_wrong_in_it_counts_for_nothing() {
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let lab = lab(&server.location_at(&proxy.endpoint(), "p"), "tls = false\n");
    let run = |words: &[&str]| run(&lab, &server, words);
    let source = lab.megabytes("source", 0..20);
    run(&["create"]).ok();
    let id = run(&["backup", "-quiet", text(&source)]).ok().snapshot();
    let words = ["ls", "-recursive", &id];
    let listing = run(&["-no-cache", "ls", "-recursive", &id]).ok().stdout;
    assert!(listing.lines().count() >= 20, "{listing}");
    let cache = lab.path("cache/plakar");
    for round in 0..3 {
        let at_once: Vec<_> = (0..4).map(|_| run(&words).spawn()).collect();
        for child in at_once {
            assert_eq!(Output::of(child).expect(0, "ls").stdout, listing);
        }
        proxy.reset();
        assert_eq!(run(&words).ok().stdout, listing);
        let helped = proxy.seen().len();
        proxy.reset();
        run(&["-no-cache", "ls", "-recursive", &id]).ok();
        assert!(helped < proxy.seen().len(), "{helped} requests with it");
        let files: Vec<_> = names_below(&cache).iter().map(|name| cache.join(name)).collect();
        assert!(!files.is_empty());
        match round {
            // A bit in the middle of each file, ...
            0 => {
                for file in &files {
                    let mut bytes = fs::read(file).unwrap();
                    let middle = bytes.len() / 2;
                    if let Some(byte) = bytes.get_mut(middle) {
                        *byte ^= 1;
                    }
                    fs::write(file, bytes).unwrap();
                }
            }
            // ... each file with what another held, ...
            1 => {
                let contents: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
                for (file, bytes) in files.iter().zip(contents.iter().cycle().skip(1)) {
                    fs::write(file, bytes).unwrap();
                }
            }
            // ... and nothing at all.
            _ => fs::remove_dir_all(&cache).unwrap(),
        }
        assert_eq!(run(&words).ok().stdout, listing, "round {round}");
        run(&["check", "-quiet"]).ok();
    }
    let target = lab.path("restored");
    run(&["restore", "-to", text(&target), &id]).ok();
    assert_same(&Image::of(&source), &Image::of(&target));
}

#[test]
fn without_credentials_nobody_is_asked_for_any() {
    let lab = lab("s3://s3.eu-west-3.amazonaws.com/bucket", "");
    let run = lab.plain(["ls"]).env("AWS_EC2_METADATA_DISABLED", "true");
    run.refuses(77, "S3_REPOSITORY_USER");
}
