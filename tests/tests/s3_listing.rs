//! Listings of the S3 connector: many objects, other people's objects, and places side by side in one bucket.

mod s3_support;

use std::thread;

use plakar_core::storage::{Storage, StorageErrorKind as Kind};
use plakar_testkit::http_message::{refusal, reply};
use plakar_testkit::http_proxy::{Fault, HttpProxy, Rule};
use plakar_testkit::s3_fake::S3Fake;
use plakar_testkit::s3_server::S3Server;
use s3_support::{Settings, create, keys, one_line, open, with};

fn fake_settings() -> Settings {
    with(
        &Settings::new(),
        &[("anonymous", "true"), ("tls", "false"), ("region", "r")],
    )
}

#[test]
fn thousands_of_objects_are_listed_in_order_in_pages_of_any_size() {
    const OBJECTS: usize = 2500;
    let server = S3Server::start_plain();
    let storage = open(&server.location("many"), &server.settings());
    let mut wanted: Vec<String> = (0..OBJECTS)
        .map(|number| {
            let digest = blake3::hash(&number.to_le_bytes()).to_hex();
            format!("packs/{}/{}", &digest[..2], &digest[2..30])
        })
        .collect();
    thread::scope(|scope| {
        for share in wanted.chunks(OBJECTS.div_ceil(8)) {
            let storage = &storage;
            scope.spawn(move || share.iter().for_each(|key| create(storage, key, b"x").unwrap()));
        }
    });
    wanted.sort();
    assert_eq!(keys(&storage, "", 10_000), wanted);
    assert_eq!(keys(&storage, "packs/", 1000), wanted);
    assert_eq!(keys(&storage, "packs/", 333), wanted);
    let some: Vec<_> = wanted
        .iter()
        .filter(|key| key.starts_with("packs/a"))
        .cloned()
        .collect();
    assert_eq!(keys(&storage, "packs/a", 7), some);
    let page = storage.list("packs/", &wanted[1233], 1000).unwrap();
    assert_eq!(page.objects[0].key, wanted[1234]);
    assert!(page.more && page.objects.len() == 1000);
    let page = storage.list("packs/", &wanted[OBJECTS - 2], 1000).unwrap();
    assert!(page.objects.len() == 1 && !page.more);
    // A page that does not come whole is no page, and comes when it is asked for again.
    let proxy = HttpProxy::before(server.endpoint());
    let storage = open(&server.location_at(&proxy.endpoint(), "many"), &server.settings());
    storage.list("", "", 1).unwrap(); // the first call asks for the region before
    for fault in [
        Fault::CutBody(50_000),
        Fault::ResetAfter,
        Fault::Answer(Box::new(refusal(503, "SlowDown", &[]))),
    ] {
        proxy.add(Rule::new("GET", "list-type", fault).times(1));
        let failed = storage.list("packs/", &wanted[999], 1000).err();
        assert_eq!(failed.map(|error| error.kind), Some(Kind::Transient));
        let page = storage.list("packs/", &wanted[999], 1000).unwrap();
        let listed: Vec<_> = page.objects.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(listed, wanted[1000..2000]);
    }
}

#[test]
fn places_side_by_side_do_not_see_each_other() {
    let server = S3Server::start();
    let places = ["shared", "shared/inner", "shared2", "sharec"];
    let storages: Vec<_> = places
        .iter()
        .map(|place| open(&server.location(place), &server.settings()))
        .collect();
    for (number, storage) in storages.iter().enumerate() {
        create(storage, &format!("config-{number}"), b"x").unwrap();
        create(storage, "packs/aa", &[b'x'; 3][..number.min(3)]).unwrap();
    }
    assert_eq!(
        keys(&storages[0], "", 100),
        ["config-0", "inner/config-1", "inner/packs/aa", "packs/aa"],
        "what lies deeper belongs to both"
    );
    for (number, storage) in storages.iter().enumerate().skip(1) {
        assert_eq!(
            keys(storage, "", 100),
            [format!("config-{number}"), "packs/aa".to_owned()]
        );
        assert_eq!(storage.stat("packs/aa").unwrap().size_bytes, number.min(3) as u64);
    }
    storages[2].delete("packs/aa").unwrap();
    assert_eq!(storages[3].stat("packs/aa").unwrap().size_bytes, 3);
}

#[test]
fn what_others_keep_in_the_bucket_is_passed_over() {
    let fake = S3Fake::start();
    let settings = fake_settings();
    {
        let mut state = fake.state();
        for number in 0..2500 {
            state
                .objects
                .insert(format!("p/PHOTO-{number:04}.JPG"), b"jpeg".to_vec());
        }
        for name in ["p/", "p/.hidden", "p/a//b", "p/zz/", "q/config", "other"] {
            state.objects.insert(name.to_owned(), Vec::new());
        }
        for name in ["p/config", "p/packs/aa", "p/zz/top"] {
            state.objects.insert(name.to_owned(), b"sealed".to_vec());
        }
    }
    let storage = open(&fake.location("p"), &settings);
    assert_eq!(keys(&storage, "", 1000), ["config", "packs/aa", "zz/top"]);
    assert_eq!(keys(&storage, "", 1), ["config", "packs/aa", "zz/top"]);
    assert_eq!(keys(&storage, "pa", 10), ["packs/aa"]);
}

#[test]
fn a_server_that_lists_late_is_refused() {
    let fake = S3Fake::start();
    let storage = open(&fake.location("p"), &fake_settings());
    fake.state().stale = Some(std::collections::BTreeMap::new());
    let error = storage.init().unwrap_err();
    assert!(
        error.kind == Kind::Unsupported && one_line(&error).contains("at once"),
        "{:?} {error}",
        error.kind
    );
    assert!(!storage.probe().unwrap().strongly_consistent);
    assert!(fake.state().objects.is_empty(), "what it tried out is removed");
    fake.state().stale = None;
    storage.init().unwrap();
    assert!(storage.probe().unwrap().strongly_consistent);
    assert!(fake.state().objects.is_empty(), "what it tried out is removed");
}

#[test]
fn a_listing_out_of_order_or_in_circles_is_refused() {
    let fake = S3Fake::start();
    let proxy = HttpProxy::before(&fake.endpoint());
    let storage = open(&format!("s3://{}/bucket/p", proxy.endpoint()), &fake_settings());
    let object = |key: &str| format!("<Contents><Key>p/{key}</Key><Size>1</Size></Contents>");
    // As a server lists that keeps objects as files: folder by folder.
    let by_folder = [object("packs/aa"), object("packs-old")].concat();
    let cut = "<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>";
    for (inside, words) in [
        (by_folder, "order of their names"),
        ([object("aa"), object("aa")].concat(), "order of their names"),
        (cut.to_owned(), "circles"),
    ] {
        proxy.reset();
        let page = reply(200, &[], format!("<ListBucketResult>{inside}</ListBucketResult>"));
        proxy.add(Rule::new("GET", "list-type=2", Fault::Answer(Box::new(page))));
        let error = storage.list("", "", 10).unwrap_err();
        assert!(
            error.kind == Kind::Unsupported && one_line(&error).contains(words),
            "{:?} {error}",
            error.kind
        );
    }
}
