//! Large objects of the S3 connector: in parts, whole or not at all, and nothing of a failed upload stays.

mod s3_support;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use plakar_core::plugin::{self, HostOptions};
use plakar_core::storage::{PutMode, Storage, StorageErrorKind as Kind};
use plakar_testkit::http_message::{refusal, reply};
use plakar_testkit::http_proxy::{Fault, HttpProxy, Rule};
use plakar_testkit::s3_fake::S3Fake;
use plakar_testkit::s3_server::S3Server;
use plakar_testkit::{random, wait_until};
use s3_support::{Settings, create, one_line, open, put, registry, with};

const SMALL_PARTS: [(&str, &str); 2] = [("multipart_threshold_mib", "16"), ("multipart_part_mib", "10")];

fn fake_settings(more: &[(&str, &str)]) -> Settings {
    let keys = [
        ("access_key_id", "id"),
        ("secret_access_key", "secret"),
        ("tls", "false"),
        ("region", "r"),
    ];
    with(&with(&Settings::new(), &keys), more)
}

/// What the real server says about uploads in parts that are not completed: nothing, when there are none.
fn unfinished(server: &S3Server) -> String {
    let info = server.command(&["bucket", "info", server.bucket()]);
    let about = |line: &&str| {
        line.to_ascii_lowercase().contains("multipart") || line.to_ascii_lowercase().contains("unfinished")
    };
    info.lines().filter(about).collect()
}

#[test]
fn a_large_object_goes_in_parts_and_comes_back_unchanged() {
    let server = S3Server::start_plain();
    let proxy = HttpProxy::before(server.endpoint());
    let storage = open(
        &server.location_at(&proxy.endpoint(), "p"),
        &with(&server.settings(), &SMALL_PARTS),
    );
    let bytes = random::bytes(1, (45 << 20) + 17);
    create(&storage, "packs/large", &bytes).unwrap();
    let parts = proxy
        .seen()
        .iter()
        .filter(|request| request.target().contains("partNumber="))
        .count();
    assert_eq!(parts, 5);
    assert_eq!(
        storage.stat("packs/large").unwrap().size_bytes,
        bytes.len() as u64
    );
    proxy.reset();
    assert_eq!(storage.get("packs/large", 0, 50 << 20).unwrap(), bytes);
    assert!(proxy.counts()["GET"] > 1, "a large range is read in pieces");
    assert_eq!(
        storage.get("packs/large", 20 << 20, 30 << 20).unwrap(),
        &bytes[20 << 20..]
    );
    assert_eq!(
        create(&storage, "packs/large", &bytes).unwrap_err().kind,
        Kind::AlreadyExists
    );
    let other = random::bytes(2, 17 << 20);
    put(&storage, "packs/large", &other, PutMode::Replace).unwrap();
    assert_eq!(storage.get("packs/large", 0, 50 << 20).unwrap(), other);
}

#[test]
fn an_upload_that_fails_is_ended() {
    let server = S3Server::garage();
    let proxy = HttpProxy::before(server.endpoint());
    let storage = open(
        &server.location_at(&proxy.endpoint(), "p"),
        &with(&server.settings(), &SMALL_PARTS),
    );
    let bytes = random::bytes(3, 40 << 20);
    let completed = Fault::Answer(Box::new(reply(
        200,
        &[],
        "\n<Error><Code>InternalError</Code><Message>Later</Message></Error>",
    )));
    for (method, part, fault) in [
        (
            "PUT",
            "partNumber=2",
            Fault::Answer(Box::new(refusal(503, "SlowDown", &["Retry-After: 3"]))),
        ),
        ("PUT", "partNumber=4", Fault::ResetBefore),
        ("PUT", "partNumber=1", Fault::ResetAfter),
        (
            "POST",
            "uploadId=",
            Fault::Answer(Box::new(refusal(500, "InternalError", &[]))),
        ),
        ("POST", "uploadId=", completed),
    ] {
        proxy.reset();
        proxy.add(Rule::new(method, part, fault.clone()));
        let error = create(&storage, "packs/large", &bytes).unwrap_err();
        assert_eq!(error.kind, Kind::Transient, "{fault:?}: {}", one_line(&error));
        let ended = |request: &plakar_testkit::http_message::Message| {
            request.method() == "DELETE" && request.target().contains("uploadId=")
        };
        assert!(proxy.seen().iter().any(ended), "{fault:?}");
        assert_eq!(unfinished(&server), "", "{fault:?}");
        assert_eq!(storage.stat("packs/large").unwrap_err().kind, Kind::NotFound);
    }
    proxy.reset();
    create(&storage, "packs/large", &bytes).unwrap();
}

#[test]
fn an_upload_that_is_cancelled_is_ended() {
    let server = S3Server::garage();
    let proxy = HttpProxy::before(server.endpoint());
    let settings = with(&server.settings(), &SMALL_PARTS);
    let storage = Arc::new(open(&server.location_at(&proxy.endpoint(), "p"), &settings));
    proxy.add(Rule::new("PUT", "partNumber=2", Fault::Silence));
    let error = thread::scope(|scope| {
        let writer = Arc::clone(&storage);
        let putting =
            scope.spawn(move || create(writer.as_ref(), "packs/large", &random::bytes(4, 40 << 20)));
        wait_until("the request is seen", || {
            proxy
                .seen()
                .iter()
                .any(|request| request.target().contains("partNumber=2"))
        });
        assert_ne!(unfinished(&server), "", "the upload has begun");
        storage.cancel();
        putting.join().unwrap().unwrap_err()
    });
    assert_eq!(error.kind, Kind::Cancelled, "{}", one_line(&error));
    assert_eq!(unfinished(&server), "");
}

#[test]
fn uploads_that_killed_processes_left_are_ended_after_a_day() {
    let fake = S3Fake::start();
    let upload = |name: &str, begun: &str| {
        (
            name.to_owned(),
            begun.to_owned(),
            std::collections::BTreeMap::new(),
        )
    };
    let leave = || {
        let mut state = fake.state();
        let pack = "0123456789abcdef".repeat(4);
        for (id, name, begun) in [
            (
                "ours-old",
                format!("p/packs/01/{pack}"),
                "2020-01-01T00:00:00.000Z",
            ),
            (
                "ours-new",
                format!("p/packs/02/{pack}"),
                "2999-01-01T00:00:00.000Z",
            ),
            ("foreign-name", "p/Holiday.MP4".into(), "2020-01-01T00:00:00.000Z"),
            // A name that a key could have, in an upload that has been going on for days.
            ("foreign-small", "p/packs/dump".into(), "2020-01-01T00:00:00.000Z"),
            (
                "foreign-place",
                format!("q/packs/01/{pack}"),
                "2020-01-01T00:00:00.000Z",
            ),
        ] {
            state.uploads.insert(id.to_owned(), upload(&name, begun));
        }
    };
    let left = || fake.state().uploads.keys().cloned().collect::<Vec<_>>();
    let kept = ["foreign-name", "foreign-place", "foreign-small", "ours-new"];
    let storage = open(&fake.location("p"), &fake_settings(&SMALL_PARTS));
    leave();
    storage.init().unwrap();
    assert_eq!(left(), kept);
    leave();
    storage.probe().unwrap();
    assert_eq!(left(), kept);
    leave();
    create(&storage, "packs/small", b"x").unwrap();
    assert_eq!(left().len(), 5, "a small object is no reason to look");
    create(&storage, "packs/large", &random::bytes(5, 17 << 20)).unwrap();
    assert_eq!(left(), kept);
}

#[test]
fn a_server_that_can_create_only_is_found_out_and_used() {
    let fake = S3Fake::start();
    let settings = fake_settings(&[("multipart_threshold_mib", "5"), ("multipart_part_mib", "5")]);
    let report = plugin::check(
        &registry(),
        &fake.location("p"),
        &settings,
        &HostOptions::default(),
    )
    .unwrap();
    assert!(report.passed(), "{report}");
    let skipped = report.to_string().matches("skip ").count();
    assert_eq!(skipped, 1, "only `space` is not told: {report}");
    assert!(
        fake.state().objects.is_empty(),
        "{:?}",
        fake.state().objects.keys()
    );

    let storage = open(&fake.location("p"), &settings);
    assert!(
        !storage.capabilities().exclusive_create,
        "nothing is promised before it was tried"
    );
    create(&storage, "config", b"1").unwrap();
    fake.state().seen.clear();
    assert_eq!(
        create(&storage, "config", b"2").unwrap_err().kind,
        Kind::AlreadyExists
    );
    assert_eq!(
        fake.state().seen.len(),
        1,
        "no look before, and nothing tried out again"
    );
}

#[test]
fn who_may_not_delete_leaves_one_trace_and_not_one_a_run() {
    let fake = S3Fake::start();
    let proxy = HttpProxy::before(&fake.endpoint());
    proxy.add(Rule::new(
        "DELETE",
        "",
        Fault::Answer(Box::new(refusal(403, "AccessDenied", &[]))),
    ));
    let location = format!("s3://{}/bucket/p", proxy.endpoint());
    for key in ["a", "b", "c"] {
        let storage = open(&location, &fake_settings(&[]));
        create(&storage, key, b"sealed").unwrap();
        let listed = storage.list("", "", 10).unwrap().objects;
        assert_eq!(listed.last().unwrap().key, key);
    }
    let names: Vec<_> = fake.state().objects.keys().cloned().collect();
    assert_eq!(names, ["p/.probe", "p/a", "p/b", "p/c"]);
}

#[test]
fn a_large_object_that_lost_the_race_is_not_stored() {
    let fake = S3Fake::start();
    let proxy = HttpProxy::before(&fake.endpoint());
    let location = format!("s3://{}/bucket/p", proxy.endpoint());
    let storage = open(&location, &fake_settings(&SMALL_PARTS));
    proxy.add(Rule::new(
        "POST",
        "uploadId=",
        Fault::Delay(Duration::from_secs(2)),
    ));
    thread::scope(|scope| {
        let putting = scope.spawn(|| create(&storage, "packs/large", &random::bytes(6, 20 << 20)));
        wait_until("the request is seen", || {
            proxy
                .seen()
                .iter()
                .any(|request| request.target().contains("uploadId=") && request.method() == "POST")
        });
        fake.state()
            .objects
            .insert("p/packs/large".to_owned(), b"winner".to_vec());
        assert_eq!(putting.join().unwrap().unwrap_err().kind, Kind::AlreadyExists);
    });
    assert_eq!(fake.state().objects["p/packs/large"], b"winner");
    assert!(fake.state().uploads.is_empty());
}

#[test]
fn objects_are_locked_where_that_is_wanted_and_possible() {
    let lock = [
        ("object_lock_mode", "GOVERNANCE"),
        ("object_lock_days", "30"),
        ("storage_class", "STANDARD_IA"),
    ];
    let fake = S3Fake::start();
    let settings = with(&fake_settings(&SMALL_PARTS), &lock);
    let storage = open(&fake.location("p"), &settings);
    for error in [
        storage.init().unwrap_err(),
        storage.probe().unwrap_err(),
        create(&storage, "config", b"x").unwrap_err(),
    ] {
        assert!(
            error.kind == Kind::Config && error.message.contains("object lock"),
            "{}",
            one_line(&error)
        );
    }
    assert!(fake.state().objects.is_empty());

    fake.state().locks = true;
    storage.init().unwrap();
    create(&storage, "config", b"sealed").unwrap();
    create(&storage, "packs/large", &random::bytes(8, 20 << 20)).unwrap();
    let seen = std::mem::take(&mut fake.state().seen);
    let stores = seen.iter().filter(|request| match request.method() {
        "PUT" => !request.target().contains(".probe") && !request.target().contains("uploadId"),
        "POST" => request.target().contains("uploads"),
        _ => false,
    });
    let stores: Vec<_> = stores.collect();
    assert_eq!(stores.len(), 2);
    for request in stores {
        assert_eq!(request.header("x-amz-object-lock-mode"), Some("GOVERNANCE"));
        assert_eq!(request.header("x-amz-storage-class"), Some("STANDARD_IA"));
        let until = request.header("x-amz-object-lock-retain-until-date").unwrap();
        assert!(until.ends_with('Z') && until.len() == 20, "{until}");
    }
    let bodies = seen
        .iter()
        .filter(|request| request.method() == "PUT" && !request.target().contains(".probe"));
    for request in bodies {
        assert!(
            request.header("x-amz-checksum-sha256").is_some(),
            "{}",
            request.target()
        );
        let signed = request.header("authorization").unwrap();
        assert!(signed.contains("x-amz-checksum-sha256"), "{signed}");
    }
    // The real server cannot lock, and says nothing about it when it is only asked to store.
    let server = S3Server::start_plain();
    let storage = open(&server.location("p"), &with(&server.settings(), &lock));
    let error = create(&storage, "config", b"x").unwrap_err();
    assert_eq!(error.kind, Kind::Config, "{}", one_line(&error));
}
