//! TLS of the S3 connector: it is the default, it is verified, and what is wrong with it is said with what to do.

mod s3_support;

use plakar_core::plugin::{HostOptions, Registry};
use plakar_core::storage::{Storage, StorageErrorKind as Kind};
use plakar_testkit::random;
use plakar_testkit::s3_server::S3Server;
use plakar_testkit::tls_front::TlsFront;
use s3_support::{Settings, built, create, one_line, open, try_open, with};

/// Without `tls`, which is on by default.
fn secure(server: &S3Server) -> Settings {
    let mut settings = server.settings();
    settings.remove("tls");
    settings
}

#[test]
fn a_server_with_a_certificate_of_our_own_authority_works() {
    let server = S3Server::start();
    let front = TlsFront::before(server.endpoint(), &["localhost", "127.0.0.1"]);
    let authority = front.authority();
    let settings = with(&secure(&server), &[("tls_ca_file", authority.to_str().unwrap())]);
    for host in ["localhost", "127.0.0.1"] {
        let storage = open(&server.location_at(&front.endpoint(host), host), &settings);
        storage.init().unwrap();
        let bytes = random::bytes(1, 5 << 20);
        create(&storage, "packs/aa", &bytes).unwrap();
        assert_eq!(storage.get("packs/aa", 0, 6 << 20).unwrap(), bytes);
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused_with_what_to_do() {
    let server = S3Server::start();
    let front = TlsFront::before(server.endpoint(), &["localhost"]);
    let storage = open(
        &server.location_at(&front.endpoint("localhost"), "p"),
        &secure(&server),
    );
    let error = storage.list("", "", 1).unwrap_err();
    let text = one_line(&error);
    assert!(
        error.kind == Kind::Config && text.contains("tls_ca_file"),
        "{:?} {text}",
        error.kind
    );
}

#[test]
fn a_certificate_for_another_name_or_of_another_authority_is_refused() {
    let server = S3Server::start();
    let front = TlsFront::before(server.endpoint(), &["somewhere.example"]);
    let other = TlsFront::before(server.endpoint(), &["localhost"]);
    for (endpoint, authority) in [
        (front.endpoint("localhost"), front.authority()),
        (other.endpoint("localhost"), front.authority()),
    ] {
        let settings = with(&secure(&server), &[("tls_ca_file", authority.to_str().unwrap())]);
        let error = open(&server.location_at(&endpoint, "p"), &settings)
            .list("", "", 1)
            .unwrap_err();
        let text = one_line(&error);
        assert!(
            error.kind == Kind::Config && text.contains("certificate"),
            "{:?} {text}",
            error.kind
        );
    }
}

#[test]
fn plain_http_must_be_asked_for_and_tls_must_not_be_taken_for_it() {
    let server = S3Server::start();
    let error = open(&server.location("p"), &secure(&server))
        .list("", "", 1)
        .unwrap_err();
    let text = one_line(&error);
    assert!(
        error.kind == Kind::Config && text.contains("tls = false"),
        "{:?} {text}",
        error.kind
    );
    let front = TlsFront::before(server.endpoint(), &["localhost"]);
    let plain = open(
        &server.location_at(&front.endpoint("localhost"), "p"),
        &server.settings(),
    );
    let error = plain.list("", "", 1).unwrap_err();
    let text = one_line(&error);
    assert!(
        matches!(error.kind, Kind::Config | Kind::Transient),
        "{:?} {text}",
        error.kind
    );
    assert!(text.contains("HTTP"), "{text}");
    let missing = with(&secure(&server), &[("tls_ca_file", "/nonexistent/ca.pem")]);
    let text = one_line(&try_open(&server.location("p"), &missing).err().unwrap());
    assert!(text.contains("/nonexistent/ca.pem"), "{text}");
}

#[test]
fn two_libraries_with_tls_and_a_runtime_of_their_own_work_at_the_same_time() {
    let server = S3Server::start_plain();
    let front = TlsFront::before(server.endpoint(), &["localhost"]);
    let authority = front.authority();
    let settings = with(&secure(&server), &[("tls_ca_file", authority.to_str().unwrap())]);
    // Another file is another library, with statics, threads and TLS of its own.
    let folder = tempfile::tempdir().unwrap();
    let name = "libplakar_connector_s3.so";
    std::fs::copy(built().join(name), folder.path().join(name)).unwrap();
    let other = Registry::load(&[], &[folder.path().to_owned()]).unwrap();
    let location = |prefix: &str| server.location_at(&front.endpoint("localhost"), prefix);
    let one = open(&location("one"), &settings);
    let two = other
        .open_connector(&location("two"), &settings, &HostOptions::default())
        .unwrap();
    let use_it = |storage: &dyn Storage, seed: u64| {
        for number in seed..seed + 4 {
            let (key, bytes) = (format!("packs/{number}"), random::bytes(number, 3 << 20));
            create(storage, &key, &bytes).unwrap();
            assert_eq!(storage.get(&key, 0, 4 << 20).unwrap(), bytes);
        }
    };
    std::thread::scope(|scope| {
        for seed in [0, 10, 20] {
            let (one, two) = (&one, &two);
            scope.spawn(move || use_it(one, seed));
            scope.spawn(move || use_it(two, seed));
        }
    });
    drop(one);
    use_it(&two, 100);
}
