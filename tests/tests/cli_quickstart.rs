//! The quick start as a new user types it: the same commands, the same prompts, lines of the same shape.

use std::fs;

use plakar_testkit::lab::PASSPHRASE;
use plakar_testkit::terminal::converse;
use plakar_testkit::tree::mixed;
use plakar_testkit::{Image, Lab, assert_same};

const ASK: &str = "repository passphrase:";
const CONFIRM: &str = "repository passphrase (confirm):";

/// Whether `text` has the shape: `#` is a digit, `%` a hexadecimal digit, `*` anything at all up to what follows.
fn has_shape(text: &str, shape: &str) -> bool {
    match (shape.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            let rest = &shape[1..];
            (0..=text.len())
                .filter(|at| text.is_char_boundary(*at))
                .any(|at| has_shape(&text[at..], rest))
        }
        (Some(wanted), Some(found)) => {
            let fits = match wanted {
                '#' => found.is_ascii_digit(),
                '%' => found.is_ascii_hexdigit(),
                _ => wanted == found,
            };
            fits && has_shape(&text[found.len_utf8()..], &shape[wanted.len_utf8()..])
        }
        _ => false,
    }
}

#[track_caller]
fn assert_shape(text: &str, shape: &str) {
    assert!(has_shape(text, shape), "{text:?} has not the shape {shape:?}");
}

#[test]
fn the_quick_start_works_as_it_is_written() {
    let lab = Lab::new();
    let tree = mixed(lab.path("etc"));
    let source = tree.root().to_str().unwrap();

    let version = lab.plain(["version"]).ok();
    assert!(version.stdout.starts_with("plakar/v"), "{}", version.stdout);

    let created = converse(&lab, &["create"], &[(ASK, PASSPHRASE), (CONFIRM, PASSPHRASE)]);
    assert_eq!(created.code, Some(0), "{}", created.shown);
    assert_eq!(
        created.shown.split_whitespace().collect::<Vec<_>>().join(" "),
        format!("{ASK} {CONFIRM}")
    );
    assert!(!created.shown.contains(PASSPHRASE), "the passphrase is shown");

    let run = |words: &[&str]| {
        let conversation = converse(&lab, words, &[(ASK, PASSPHRASE)]);
        assert_eq!(conversation.code, Some(0), "{}", conversation.shown);
        conversation.shown
    };
    run(&["-no-progress", "backup", source]);
    // Away from the terminal the lines are as they are, without what redraws them.
    let plain = |words: &[&str]| lab.plakar(words).env("PLAKAR_PASSPHRASE", PASSPHRASE).ok().stdout;
    let backup = plain(&["backup", source]);
    let lines: Vec<&str> = backup.lines().collect();
    let id = lines[0].split(':').next().unwrap().to_owned();
    assert_shape(&id, "%%%%%%%%");
    for line in &lines[..lines.len() - 1] {
        assert!(line.starts_with(&format!("{id}: OK ✓ /")), "{line}");
    }
    assert!(
        lines.contains(&format!("{id}: OK ✓ {source}/folder/random").as_str()),
        "{backup}"
    );
    assert_eq!(lines[lines.len() - 2], format!("{id}: OK ✓ /"));
    let last = lines[lines.len() - 1];
    assert!(
        ["*ms", "*s", "*µs"].iter().any(|unit| has_shape(
            last,
            &format!("backup: created unsigned snapshot {id} of size #.# MB in #{unit}")
        )),
        "{last}"
    );

    let list = plain(&["ls"]);
    assert_eq!(list.lines().count(), 2);
    assert_shape(
        list.lines().next().unwrap(),
        &format!("####-##-##T##:##:##Z {id} #.# MB #s {source}"),
    );

    let check = plain(&["check", &id]);
    assert!(
        check
            .lines()
            .any(|line| line == format!("{id}: ✓ {source}/small")),
        "{check}"
    );
    assert_eq!(
        check.lines().last().unwrap(),
        format!("check: verification of {id}:{source} completed successfully")
    );

    let target = lab.path("restore");
    let restore = plain(&["restore", "-to", target.to_str().unwrap(), &id]);
    assert!(
        restore
            .lines()
            .any(|line| line == format!("{id}: OK ✓ {source}/folder/deeper/large")),
        "{restore}"
    );
    let last = format!(
        "restore: restoration of {id}:{source} at {} completed successfully",
        target.display()
    );
    assert_eq!(restore.lines().last().unwrap(), last);
    assert_same(&Image::of(tree.root()), &Image::of(&target));
}

#[test]
fn a_repository_without_encryption_asks_nothing_and_says_nothing() {
    let lab = Lab::new();
    let created = lab.plakar(["create", "-no-encryption"]).ok();
    assert_eq!((created.stdout.as_str(), created.stderr.as_str()), ("", ""));
    assert_eq!(converse(&lab, &["ls"], &[]).shown, "");
}

#[test]
fn passphrases_that_differ_are_asked_for_again_and_nothing_is_created_after_three_tries() {
    let lab = Lab::new();
    let answers = [(ASK, PASSPHRASE), (CONFIRM, "something else entirely")].repeat(3);
    let created = converse(&lab, &["create"], &answers);
    assert_eq!(created.code, Some(77), "{}", created.shown);
    assert!(!lab.repository().exists() || fs::read_dir(lab.repository()).unwrap().next().is_none());
    let answers = [
        (ASK, PASSPHRASE),
        (CONFIRM, "wrong"),
        (ASK, PASSPHRASE),
        (CONFIRM, PASSPHRASE),
    ];
    assert_eq!(converse(&lab, &["create"], &answers).code, Some(0));
}

#[test]
fn a_wrong_passphrase_may_be_corrected_twice() {
    let lab = Lab::new();
    lab.plakar(["create"]).env("PLAKAR_PASSPHRASE", PASSPHRASE).ok();
    let right = [(ASK, "wrong"), (ASK, "wrong again"), (ASK, PASSPHRASE)];
    assert_eq!(converse(&lab, &["ls"], &right).code, Some(0));
    let wrong = converse(&lab, &["ls"], &[(ASK, "one"), (ASK, "two"), (ASK, "three")]);
    assert_eq!(wrong.code, Some(77), "{}", wrong.shown);
    assert!(!wrong.shown.contains("three"), "the passphrase is shown");
}

#[test]
fn passphrases_are_changed_added_and_removed_without_touching_data() {
    let lab = Lab::new();
    lab.plakar(["create"]).env("PLAKAR_PASSPHRASE", PASSPHRASE).ok();
    let tree = mixed(lab.path("source"));
    let id = lab
        .plakar(["backup", tree.root().to_str().unwrap()])
        .env("PLAKAR_PASSPHRASE", PASSPHRASE)
        .ok()
        .snapshot();
    let packs = Image::of(&lab.repository().join("packs"));
    let new = "another long and good passphrase";
    let answers = [
        (ASK, PASSPHRASE),
        ("new repository passphrase:", new),
        ("new repository passphrase (confirm):", new),
    ];
    let changed = converse(&lab, &["passphrase", "change"], &answers);
    assert_eq!(changed.code, Some(0), "{}", changed.shown);
    lab.plakar(["ls"])
        .env("PLAKAR_PASSPHRASE", PASSPHRASE)
        .fails(77, "wrong passphrase");
    lab.plakar(["check", &id]).env("PLAKAR_PASSPHRASE", new).ok();
    assert_same(&packs, &Image::of(&lab.repository().join("packs")));
}

#[test]
fn a_prompt_that_is_interrupted_ends_the_program_and_says_so_once() {
    let lab = Lab::new();
    lab.plakar(["create"]).env("PLAKAR_PASSPHRASE", PASSPHRASE).ok();
    for _ in 0..10 {
        let stopped = converse(&lab, &["ls"], &[(ASK, "\u{3}")]);
        assert_eq!(stopped.code, Some(130), "{}", stopped.shown);
        assert_eq!(
            stopped.shown.matches("plakar: interrupted").count(),
            1,
            "{}",
            stopped.shown
        );
    }
}
