//! The quick start by the real program, with the repository on a real SFTP server.

mod sftp_support;

use std::fs;

use plakar_testkit::lab::PASSPHRASE;
use plakar_testkit::proxy::Proxy;
use plakar_testkit::sshd::Sshd;
use plakar_testkit::tree::mixed;
use plakar_testkit::{Image, Lab, assert_same, names_below};
use sftp_support::built;

#[test]
fn a_tree_comes_back_from_a_server_as_it_was() {
    built();
    let server = Sshd::start();
    let proxy = Proxy::to(server.port());
    let lab = Lab::new();
    let tree = mixed(lab.path("etc"));
    fs::create_dir(lab.path("home/.ssh")).unwrap();
    fs::copy(
        server.known_hosts(proxy.port()),
        lab.path("home/.ssh/known_hosts"),
    )
    .unwrap();
    fs::copy(server.identity(), lab.path("home/.ssh/id_ed25519")).unwrap();
    let location = server.url_at(proxy.port(), &server.data().join("repository"));
    let run = |words: &[&str]| {
        let words = ["at", &location].into_iter().chain(words.iter().copied());
        lab.plain(words).env("PLAKAR_PASSPHRASE", PASSPHRASE).ok()
    };
    run(&["create"]);
    let source = tree.root().to_str().unwrap();
    let first = run(&["backup", "-quiet", source]).snapshot();
    // The second backup, to a server that lost all connections of the first, stores little.
    proxy.drop_all();
    let stored = names_below(&server.data()).len();
    let second = run(&["backup", "-quiet", source]).snapshot();
    assert!(names_below(&server.data()).len() <= stored + 4);
    let before = proxy.accepted();
    let listed = run(&["ls"]).stdout;
    assert_eq!(
        proxy.accepted() - before,
        1,
        "what only waits for answers shares one connection: to open another takes longer"
    );
    assert!(listed.contains(&first) && listed.contains(&second), "{listed}");
    run(&["check", "-quiet"]);
    for id in [&first, &second] {
        let target = lab.path(format!("restored-{id}"));
        run(&["restore", "-quiet", "-to", target.to_str().unwrap(), id]);
        assert_same(&Image::of(tree.root()), &Image::of(&target));
    }
    assert!(
        names_below(&server.data())
            .iter()
            .all(|name| !name.contains(".tmp-"))
    );
}

#[test]
fn an_unknown_server_is_told_in_one_line() {
    built();
    let server = Sshd::start();
    let lab = Lab::new();
    let location = server.url(&server.data());
    lab.plain(["at", &location, "ls"])
        .fails(77, &server.fingerprint("ed25519"));
    lab.plain(["at", "sftp://me:swordfish@127.0.0.1/x", "ls"])
        .fails(78, "`password`");
}
