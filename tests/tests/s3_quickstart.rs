//! The quick start on an S3 server, with the real program: the same commands, credentials from the environment or an alias.

mod s3_support;

use std::fs;

use plakar_testkit::s3_server::S3Server;
use plakar_testkit::tree::mixed;
use plakar_testkit::{Image, Lab, Run, assert_same};
use s3_support::registry;

const PASSPHRASE: &str = "correct horse battery staple";

/// A lab whose configuration names the server `nas`, and says nothing of credentials.
fn lab(server: &S3Server) -> Lab {
    drop(registry()); // builds the connector beside the program
    let lab = Lab::new();
    let folder = lab.path("config/plakar");
    fs::create_dir_all(&folder).unwrap();
    let location = server.location("machines/laptop");
    fs::write(
        folder.join("config.toml"),
        format!("default = \"nas\"\n[repositories.nas]\nlocation = \"{location}\"\ntls = false\n"),
    )
    .unwrap();
    lab
}

fn run(lab: &Lab, server: &S3Server, words: &[&str]) -> Run {
    lab.plain(words)
        .env("S3_REPOSITORY_USER", server.access_key())
        .env("S3_REPOSITORY_PASSWORD", server.secret_key())
        .env("PLAKAR_PASSPHRASE", PASSPHRASE)
}

#[test]
fn create_backup_ls_check_restore() {
    let server = S3Server::start();
    let lab = lab(&server);
    let tree = mixed(lab.path("source"));
    let source = tree.root().to_str().unwrap();
    let run = |words: &[&str]| run(&lab, &server, words);
    run(&["at", "@nas", "create"]).ok();
    let backup = run(&["at", "@nas", "backup", source]).ok();
    let id = backup.snapshot();
    assert!(run(&["at", "@nas", "ls"]).ok().stdout.contains(&id));
    run(&["at", "@nas", "check"]).ok();
    let target = lab.path("restored");
    run(&["restore", "-to", target.to_str().unwrap(), &id]).ok();
    assert_same(&Image::of(tree.root()), &Image::of(&target));
    // A second backup of the same stores next to nothing and names what is there.
    let again = run(&["backup", source]).ok().snapshot();
    assert_ne!(again, id);
    assert_eq!(run(&["ls"]).ok().stdout.lines().count(), 2);
    let error = run(&["at", "@nas", "create"]).output();
    assert_ne!(error.code, Some(0), "there is a repository already");
}

#[test]
fn what_is_wrong_with_the_credentials_is_said_on_one_line() {
    let server = S3Server::start();
    let lab = lab(&server);
    let nobody = lab
        .plain(["at", "@nas", "ls"])
        .env("PLAKAR_PASSPHRASE", PASSPHRASE)
        .output();
    assert!(nobody.stderr.contains("S3_REPOSITORY_USER"), "{}", nobody.stderr);
    let wrong = run(&lab, &server, &["at", "@nas", "ls"])
        .env("S3_REPOSITORY_PASSWORD", "swordfish")
        .output();
    assert!(
        wrong.stderr.contains("secret access key is wrong") && !wrong.stderr.contains("swordfish"),
        "{}",
        wrong.stderr
    );
    for output in [nobody, wrong] {
        assert_ne!(output.code, Some(0));
        let lines = output
            .stderr
            .lines()
            .filter(|line| !line.starts_with("hint:"))
            .count();
        assert_eq!(lines, 1, "{}", output.stderr);
    }
}
