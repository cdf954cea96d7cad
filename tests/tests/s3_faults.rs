//! What servers and networks do wrong, and what the S3 connector makes of it: the kind the host acts on, and one clear line.

mod s3_support;

use std::io::BufReader;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use plakar_core::environment::Environment;
use plakar_core::plugin::HostOptions;
use plakar_core::storage::limited::{Limits, Throttle};
use plakar_core::storage::pace::Pace;
use plakar_core::storage::{PutMode, Storage, StorageErrorKind as Kind};
use plakar_testkit::http_message::{Message, refusal, reply};
use plakar_testkit::http_proxy::{Fault, HttpProxy, Rule};
use plakar_testkit::s3_server::S3Server;
use plakar_testkit::{random, wait_until};
use s3_support::{create, one_line, open, put, registry, try_open, with};

fn answer(status: u16, code: &str, headers: &[&str]) -> Fault {
    Fault::Answer(Box::new(refusal(status, code, headers)))
}

#[test]
fn refusals_are_told_apart() {
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let storage = open(&server.location_at(&proxy.endpoint(), "p"), &server.settings());
    create(&storage, "packs/there", b"sealed").unwrap();
    let long_ago = ["Date: Mon, 01 Jan 2001 00:00:00 GMT"];
    let cases: [(u16, &str, &[&str], Kind, &str); 14] = [
        (503, "SlowDown", &["Retry-After: 7"], Kind::Transient, "SlowDown"),
        (
            429,
            "TooManyRequests",
            &["Retry-After: 7"],
            Kind::Transient,
            "429",
        ),
        (500, "InternalError", &["Retry-After: 7"], Kind::Transient, "500"),
        (502, "", &["Retry-After: 7"], Kind::Transient, "502"),
        (403, "AccessDenied", &[], Kind::Permission, "access denied"),
        (403, "InvalidAccessKeyId", &[], Kind::Auth, "access key"),
        (403, "SignatureDoesNotMatch", &[], Kind::Auth, "secret access key"),
        (400, "ExpiredToken", &[], Kind::Auth, "expired"),
        (
            403,
            "RequestTimeTooSkewed",
            &long_ago,
            Kind::Config,
            "days ahead of the server's",
        ),
        (404, "NoSuchBucket", &[], Kind::NotFound, "bucket"),
        (507, "QuotaExceeded", &[], Kind::NoSpace, "full"),
        (400, "BadDigest", &[], Kind::Transient, "damaged"),
        (501, "NotImplemented", &[], Kind::Unsupported, "cannot do this"),
        (418, "Teapot", &[], Kind::Other, "As the test wants it"),
    ];
    for (status, code, headers, kind, words) in cases {
        for (method, mode) in [("PUT", true), ("GET", false)] {
            proxy.reset();
            proxy.add(Rule::new(method, "/packs/", answer(status, code, headers)));
            let error = if mode {
                put(&storage, "packs/ab", b"sealed", PutMode::Replace).unwrap_err()
            } else {
                storage.get("packs/there", 0, 10).unwrap_err()
            };
            let text = one_line(&error);
            assert_eq!(error.kind, kind, "{text}");
            assert!(
                text.contains(words) && text.contains("packs/") && text.contains("TEST-REQUEST"),
                "{text}"
            );
            let wait = (kind == Kind::Transient && !headers.is_empty()).then(|| Duration::from_secs(7));
            assert_eq!(error.retry_after, wait, "{text}");
            // One try: trying again is the host's business.
            assert_eq!(proxy.counts().get(method), Some(&1), "{text}");
        }
    }
    proxy.reset();
    put(&storage, "packs/ab", b"sealed", PutMode::Replace).unwrap();
}

#[test]
fn a_connection_that_breaks_before_the_request_arrives_leaves_nothing() {
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let storage = open(&server.location_at(&proxy.endpoint(), ""), &server.settings());
    storage.probe().unwrap();
    proxy.add(Rule::new("PUT", "/config", Fault::ResetBefore).times(1));
    let error = create(&storage, "config", &random::bytes(1, 1 << 20)).unwrap_err();
    assert_eq!(error.kind, Kind::Transient, "{}", one_line(&error));
    assert_eq!(storage.stat("config").unwrap_err().kind, Kind::NotFound);
    create(&storage, "config", &random::bytes(1, 1 << 20)).unwrap();
}

#[test]
fn a_put_whose_answer_is_lost_is_transient_and_its_object_is_whole() {
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let storage = open(&server.location_at(&proxy.endpoint(), ""), &server.settings());
    storage.probe().unwrap();
    proxy.add(Rule::new("PUT", "/config", Fault::ResetAfter).times(1));
    let error = create(&storage, "config", &random::bytes(2, 300_000)).unwrap_err();
    assert_eq!(error.kind, Kind::Transient, "{}", one_line(&error));
    assert_eq!(
        storage.get("config", 0, 1 << 20).unwrap(),
        random::bytes(2, 300_000)
    );
    // The same again says what is true; whether that is a success is the host's to find out.
    let error = create(&storage, "config", &random::bytes(2, 300_000)).unwrap_err();
    assert_eq!(error.kind, Kind::AlreadyExists, "{}", one_line(&error));
}

#[test]
fn a_server_that_never_answers_is_a_timeout() {
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let settings = with(&server.settings(), &[("request_timeout_seconds", "1")]);
    let storage = open(&server.location_at(&proxy.endpoint(), ""), &settings);
    storage.probe().unwrap();
    proxy.add(Rule::new("PUT", "/config", Fault::Silence).times(1));
    let error = create(&storage, "config", b"sealed").unwrap_err();
    assert_eq!(error.kind, Kind::Timeout, "{}", one_line(&error));
    assert!(error.message.contains("request_timeout_seconds"), "{error}");
    assert_eq!(storage.get("config", 0, 10).unwrap(), b"sealed");
}

#[test]
fn a_slow_server_that_moves_is_no_timeout() {
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let settings = with(&server.settings(), &[("request_timeout_seconds", "2")]);
    let storage = open(&server.location_at(&proxy.endpoint(), ""), &settings);
    for key in ["a", "b", "c", "d"] {
        create(&storage, key, b"1").unwrap();
    }
    // Six requests of one call, of half a second each, take longer than a single one may.
    proxy.add(Rule::new(
        "GET",
        "list-type=2",
        Fault::Delay(Duration::from_millis(500)),
    ));
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(storage.list("", "", 10).unwrap().objects.len(), 4);
    }
    assert!(begun.elapsed() > Duration::from_secs(2));
}

#[test]
fn a_rate_that_the_user_limits_is_no_silence_of_the_server() {
    let server = S3Server::start_plain();
    let settings = with(&server.settings(), &[("request_timeout_seconds", "4")]);
    let pace = Pace::new(Environment::system(), None);
    let limits = Limits {
        upload_bytes: Some(50_000),
        download_bytes: Some(50_000),
        requests: None,
    };
    let slowly = HostOptions {
        throttle: Some(Arc::new(Throttle::new(limits, pace))),
        ..HostOptions::default()
    };
    let location = server.location("p");
    open(&location, &settings).probe().unwrap();
    let storage = registry().open_connector(&location, &settings, &slowly).unwrap();
    // Each step of either takes longer than a request may be silent, and a busy machine answers sooner than that.
    let bytes = random::bytes(4, 300_000);
    thread::scope(|scope| {
        for key in ["a", "b"] {
            let (storage, bytes) = (&storage, &bytes);
            scope.spawn(move || create(storage, key, bytes).unwrap());
        }
    });
    assert_eq!(storage.get("a", 0, 1 << 20).unwrap(), bytes);
}

#[test]
fn an_answer_that_is_cut_off_is_transient() {
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let storage = open(&server.location_at(&proxy.endpoint(), ""), &server.settings());
    create(&storage, "config", &random::bytes(3, 2 << 20)).unwrap();
    proxy.add(Rule::new("GET", "/config", Fault::CutBody(700_000)).times(1));
    let error = storage.get("config", 0, 2 << 20).unwrap_err();
    assert_eq!(error.kind, Kind::Transient, "{}", one_line(&error));
    assert_eq!(
        storage.get("config", 0, 2 << 20).unwrap(),
        random::bytes(3, 2 << 20)
    );
}

#[test]
fn what_is_damaged_on_its_way_is_not_stored() {
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let parts = [("multipart_threshold_mib", "5"), ("multipart_part_mib", "5")];
    let storage = open(
        &server.location_at(&proxy.endpoint(), ""),
        &with(&server.settings(), &parts),
    );
    storage.probe().unwrap();
    for (length, part) in [(300_000, "/config"), (12 << 20, "partNumber=2")] {
        proxy.reset();
        proxy.add(Rule::new("PUT", part, Fault::Damage).times(1));
        let error = create(&storage, "config", &random::bytes(9, length)).unwrap_err();
        let text = one_line(&error);
        assert!(
            error.kind == Kind::Transient && text.contains("damaged"),
            "{:?} {text}",
            error.kind
        );
        assert_eq!(storage.stat("config").unwrap_err().kind, Kind::NotFound);
    }
    create(&storage, "config", &random::bytes(9, 12 << 20)).unwrap();
}

#[test]
fn answers_that_make_no_sense_are_errors_of_one_line() {
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let storage = open(&server.location_at(&proxy.endpoint(), ""), &server.settings());
    create(&storage, "config", b"sealed").unwrap();
    for body in [
        "",
        "<html>\n<body>Welcome</body></html>\n",
        "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        "\u{0}",
    ] {
        proxy.reset();
        let nonsense = reply(200, &[], body);
        proxy.add(Rule::new("GET", "list-type=2", Fault::Answer(Box::new(nonsense))));
        let listed = storage.list("", "", 10);
        assert_eq!(listed.unwrap_err().kind, Kind::Other, "{body:?}");
    }
    proxy.reset();
    let other_bytes = reply(206, &["Content-Range: bytes 9-14/20"], "sealed");
    proxy.add(Rule::new("GET", "/config", Fault::Answer(Box::new(other_bytes))));
    let error = storage.get("config", 0, 6).unwrap_err();
    assert!(
        error.message.contains("other bytes than it was asked for"),
        "{}",
        one_line(&error)
    );
}

#[test]
fn a_wrong_key_and_a_wrong_secret_are_auth() {
    let server = S3Server::start_plain();
    let unknown = with(
        &server.settings(),
        &[("access_key_id", "GKffffffffffffffffffffffff")],
    );
    let wrong = with(&server.settings(), &[("secret_access_key", &"0".repeat(64))]);
    for (settings, words) in [(unknown, "access key"), (wrong, "secret")] {
        let storage = open(&server.location("p"), &settings);
        for error in [
            storage.probe().unwrap_err(),
            storage.init().unwrap_err(),
            storage.list("", "", 10).unwrap_err(),
            create(&storage, "config", b"x").unwrap_err(),
            storage.get("config", 0, 10).unwrap_err(),
        ] {
            let text = one_line(&error);
            assert!(
                error.kind == Kind::Auth && text.contains(words),
                "{:?} {text}",
                error.kind
            );
        }
    }
    let nobody = with(&server.settings(), &[("anonymous", "true")]);
    let error = open(&server.location("p"), &nobody).list("", "", 10).unwrap_err();
    assert!(
        matches!(error.kind, Kind::Permission | Kind::Auth),
        "{}",
        one_line(&error)
    );
}

#[test]
fn a_key_without_permission_is_permission() {
    let server = S3Server::garage();
    let made = server.command(&["key", "create", "reader"]);
    let value = |name: &str| {
        let line = made
            .lines()
            .find(|line| line.to_ascii_lowercase().contains(name))
            .expect(&made);
        line.split_whitespace().last().unwrap().to_owned()
    };
    let (id, secret) = (value("key id"), value("secret key"));
    let settings = with(
        &server.settings(),
        &[("access_key_id", &id), ("secret_access_key", &secret)],
    );
    let storage = open(&server.location("p"), &settings);
    assert_eq!(storage.list("", "", 10).unwrap_err().kind, Kind::Permission);
    server.command(&["bucket", "allow", "--read", "backups", "--key", "reader"]);
    create(
        &open(&server.location("p"), &server.settings()),
        "config",
        b"sealed",
    )
    .unwrap();
    // Who may only read can read: probing writes nothing that is needed.
    assert!(!storage.probe().unwrap().exclusive_create);
    assert_eq!(storage.get("config", 0, 10).unwrap(), b"sealed");
    let error = create(&storage, "other", b"x").unwrap_err();
    assert_eq!(error.kind, Kind::Permission, "{}", one_line(&error));
    let absent = open(&format!("s3://{}/absent-bucket/p", server.endpoint()), &settings);
    let error = absent.init().unwrap_err();
    assert!(
        error.kind == Kind::Permission && error.message.contains("absent-bucket"),
        "{:?} {}",
        error.kind,
        one_line(&error)
    );
}

#[test]
fn a_region_that_is_wrong_is_put_right() {
    let server = S3Server::garage();
    let proxy = HttpProxy::before(server.endpoint());
    let location = server.location_at(&proxy.endpoint(), "p");
    let wrong = with(&server.settings(), &[("region", "mars-north-1")]);
    create(&open(&location, &wrong), "config", b"sealed").unwrap();
    for _ in 0..2 {
        assert_eq!(open(&location, &wrong).stat("config").unwrap().size_bytes, 6);
        assert_eq!(
            open(&location, &server.settings())
                .stat("config")
                .unwrap()
                .size_bytes,
            6
        );
        open(&location, &wrong).delete("absent").unwrap();
    }
    // Once it is known it stays known.
    let storage = open(&location, &server.settings());
    storage.stat("config").unwrap();
    proxy.reset();
    storage.stat("config").unwrap();
    assert_eq!(proxy.seen().len(), 1);
}

#[test]
fn connections_that_cannot_be_made_say_why() {
    let server = S3Server::start_plain();
    let settings = server.settings();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let error = open(&format!("s3://127.0.0.1:{port}/b"), &settings)
        .list("", "", 1)
        .unwrap_err();
    assert!(
        error.kind == Kind::Transient && error.message.contains("refused"),
        "{}",
        one_line(&error)
    );
    let error = open("s3://no-such-host.invalid/b", &settings)
        .list("", "", 1)
        .unwrap_err();
    assert!(
        matches!(error.kind, Kind::Config | Kind::Transient) && error.message.contains("lookup"),
        "{}",
        one_line(&error)
    );
    let tls = with(&settings, &[("tls", "true")]);
    let error = open(&server.location(""), &tls).list("", "", 1).unwrap_err();
    assert!(
        error.kind == Kind::Config && error.message.contains("tls = false"),
        "{}",
        one_line(&error)
    );
}

#[test]
fn a_server_is_reached_by_every_way_to_write_its_name() {
    let server = S3Server::garage();
    let bytes = random::bytes(5, 100);
    create(&open(&server.location("p"), &server.settings()), "config", &bytes).unwrap();
    let (_, port) = server.endpoint().rsplit_once(':').unwrap();
    // Beside the address: capitals, another address of this machine, and (with the bucket in it) a name below `localhost`.
    for host in ["LocalHost", "127.0.0.1."] {
        let storage = open(
            &format!("s3://{host}:{port}/{}/p", server.bucket()),
            &server.settings(),
        );
        match storage.get("config", 0, 200) {
            Ok(found) => assert_eq!(found, bytes, "{host}"),
            Err(error) => panic!("{host}: {}", one_line(&error)),
        }
    }
    for prefix in [
        "my things/ü+%25 &=x",
        "a'b(c)!*~",
        "%D0%B4%D0%BE%D0%BC",
        "x:y@z,;$",
    ] {
        let storage = open(&server.location(prefix), &server.settings());
        create(&storage, "packs/aa", &bytes).unwrap();
        assert_eq!(storage.get("packs/aa", 0, 200).unwrap(), bytes, "{prefix}");
        assert_eq!(storage.list("", "", 10).unwrap().objects.len(), 1, "{prefix}");
        assert_eq!(
            storage.list("", "packs/aa", 10).unwrap().objects.len(),
            0,
            "{prefix}"
        );
        assert_eq!(storage.init().unwrap_err().kind, Kind::AlreadyExists, "{prefix}");
        storage.delete("packs/aa").unwrap();
        assert_eq!(storage.list("", "", 10).unwrap().objects.len(), 0, "{prefix}");
    }
}

#[test]
fn wrong_locations_and_settings_are_refused_when_opening() {
    let server = S3Server::start_plain();
    for location in ["s3://host", "s3://id:swordfish@host/b", "s3://host/b?x"] {
        let text = one_line(&try_open(location, &server.settings()).err().unwrap());
        assert!(text.contains("wrong location"), "{text}");
        assert!(!text.replace(location, "").contains("swordfish"), "{text}");
    }
    let unknown = with(&server.settings(), &[("acl", "public")]);
    let text = one_line(&try_open(&server.location(""), &unknown).err().unwrap());
    assert!(text.contains("`acl`"), "{text}");
    let mut half = server.settings();
    half.remove("secret_access_key");
    let text = one_line(&try_open(&server.location(""), &half).err().unwrap());
    assert!(text.contains("`secret_access_key`"), "{text}");
}

#[test]
fn a_server_killed_while_an_object_is_written_leaves_it_whole_or_absent() {
    let mut server = S3Server::garage();
    let settings = with(&server.settings(), &[("request_timeout_seconds", "30")]);
    let storage = Arc::new(open(&server.location("p"), &settings));
    storage.probe().unwrap();
    let bytes = random::bytes(7, 48 << 20);
    let outcome = thread::scope(|scope| {
        let writer = Arc::clone(&storage);
        let bytes = &bytes;
        let putting = scope.spawn(move || create(writer.as_ref(), "packs/big", bytes));
        thread::sleep(Duration::from_millis(300));
        server.kill();
        putting.join().unwrap()
    });
    if let Err(error) = outcome {
        assert!(
            matches!(error.kind, Kind::Transient | Kind::Timeout),
            "{}",
            one_line(&error)
        );
    }
    assert!(storage.stat("packs/big").is_err(), "the server is dead");
    server.restart();
    match storage.stat("packs/big") {
        Ok(_) => assert_eq!(storage.get("packs/big", 0, 48 << 20).unwrap(), bytes),
        Err(error) => {
            assert_eq!(error.kind, Kind::NotFound, "{}", one_line(&error));
            create(storage.as_ref(), "packs/big", &bytes).unwrap();
            assert_eq!(storage.get("packs/big", 0, 48 << 20).unwrap(), bytes);
        }
    }
}

#[test]
fn waiting_ends_when_the_host_wants_no_more() {
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let storage = Arc::new(open(
        &server.location_at(&proxy.endpoint(), ""),
        &server.settings(),
    ));
    storage.probe().unwrap();
    proxy.add(Rule::new("PUT", "/config", Fault::Silence));
    let begun = Instant::now();
    let error = thread::scope(|scope| {
        let writer = Arc::clone(&storage);
        let putting = scope.spawn(move || create(writer.as_ref(), "config", b"sealed"));
        wait_until("the request is seen", || {
            proxy
                .seen()
                .iter()
                .any(|request| request.target().contains("config") && request.method() == "PUT")
        });
        storage.cancel();
        putting.join().unwrap().unwrap_err()
    });
    assert_eq!(error.kind, Kind::Cancelled, "{}", one_line(&error));
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "long before the timeout of a minute"
    );
}

#[test]
fn the_proxy_reads_what_it_forwards() {
    let wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let message = Message::answer(&mut BufReader::new(wire.as_slice()), "GET").unwrap();
    assert_eq!(
        (message.status(), message.body.as_slice()),
        (200, b"abcde".as_slice())
    );
}
