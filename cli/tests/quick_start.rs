//! The quick start and its mistakes, through the real program, a real folder and the real connector.

mod support;

use std::fs;
use std::path::Path;

use support::{PASSPHRASE, Run, World, build_connector, finish};

/// A world with a source of three entries and a repository in `r`.
fn world() -> World {
    build_connector();
    let world = World::new();
    world.write("src/a.txt", "one\n");
    world.write("src/sub/b.txt", "two\n");
    world.unlocked("at r create").fine();
    world
}

fn id_of(world: &World) -> String {
    let line = world.unlocked("at r ls -latest").fine();
    line.split(' ').nth(1).expect("time, id").to_owned()
}

fn matches(line: &str, shape: &[&str]) -> bool {
    let words: Vec<_> = line.split(' ').collect();
    words.len() == shape.len()
        && words
            .iter()
            .zip(shape)
            .all(|(word, shape)| *shape == "*" || word == shape)
}

#[test]
fn the_quick_start_prints_the_promised_lines() {
    let world = world();
    let source = world.path("src").canonicalize().expect("it is there");
    let source = source.to_str().expect("text");
    let backup = world.unlocked("at r backup src").fine();
    let lines: Vec<_> = backup.lines().collect();
    let id = lines[0].split(':').next().expect("an id");
    assert!(
        id.len() == 8 && id.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "{backup}"
    );
    for name in ["/a.txt", "/sub/b.txt", "/sub", ""] {
        assert!(
            lines.contains(&format!("{id}: OK ✓ {source}{name}").as_str()),
            "{backup}"
        );
    }
    assert_eq!(lines[lines.len() - 2], format!("{id}: OK ✓ /"));
    let shape = [
        "backup:", "created", "unsigned", "snapshot", id, "of", "size", "8", "B", "in", "*",
    ];
    assert!(matches(lines[lines.len() - 1], &shape), "{backup}");

    let list = world.unlocked("at r ls").fine();
    assert!(
        matches(list.trim_end(), &["*", id, "8", "B", "0s", source]) && list.contains("Z "),
        "{list}"
    );

    let check = world.unlocked(&format!("at r check {id}")).fine();
    assert!(
        check.contains(&format!("{id}: ✓ {source}/sub/b.txt\n")),
        "{check}"
    );
    assert!(
        check.ends_with(&format!(
            "check: verification of {id}:{source} completed successfully\n"
        )),
        "{check}"
    );

    let target = world.path("out");
    let restore = world
        .unlocked(&format!("at r restore -to {} {id}", target.display()))
        .fine();
    assert!(
        restore.contains(&format!("{id}: OK ✓ {source}/a.txt\n")),
        "{restore}"
    );
    let last = format!(
        "restore: restoration of {id}:{source} at {} completed successfully\n",
        target.display()
    );
    assert!(restore.ends_with(&last), "{restore}");
    assert_eq!(fs::read(target.join("sub/b.txt")).expect("restored"), b"two\n");
}

#[test]
fn passphrases_are_asked_for_on_the_terminal() {
    build_connector();
    let world = World::new();
    let typed = format!("{PASSPHRASE}\n{PASSPHRASE}\n");
    let create = world.on_terminal("at r create", &typed);
    assert_eq!(create.code, 0, "{create:?}");
    assert!(create.stdout.contains("repository passphrase:"), "{create:?}");
    assert!(
        create.stdout.contains("repository passphrase (confirm):"),
        "{create:?}"
    );
    world.unlocked("at r ls").fine();
    let second_try = world.on_terminal("at r ls", &format!("wrong\n{PASSPHRASE}\n"));
    assert!(
        second_try.code == 0 && second_try.stdout.contains("wrong passphrase, try again"),
        "{second_try:?}"
    );
    let given_up = world.on_terminal("at r ls", "a\nb\nc\n");
    assert!(
        given_up.code == 77 && given_up.stdout.contains("wrong passphrase for"),
        "{given_up:?}"
    );
    let weak = world.on_terminal("at r2 create", "password\nqwerty\n12345678\n");
    assert!(
        weak.code == 77 && weak.stdout.contains("passphrase refused: "),
        "{weak:?}"
    );
}

#[test]
fn without_a_terminal_a_missing_wrong_or_weak_passphrase_is_exit_77() {
    let world = world();
    let none = world.run("at r ls").refused(77);
    assert!(
        none.starts_with("no passphrase was given and there is no terminal"),
        "{none}"
    );
    let wrong = finish(
        world
            .program()
            .args(["at", "r", "ls"])
            .env("PLAKAR_PASSPHRASE", "wrong"),
    )
    .refused(77);
    assert!(
        wrong.starts_with("wrong passphrase for the repository at "),
        "{wrong}"
    );
    let weak = finish(
        world
            .program()
            .args(["at", "r2", "create"])
            .env("PLAKAR_PASSPHRASE", "password"),
    )
    .refused(77);
    assert!(weak.starts_with("the new passphrase is too weak: "), "{weak}");
    assert!(!world.path("r2").exists(), "nothing was created");
    let allowed = ["at", "r2", "create", "-weak-passphrase"];
    finish(world.program().args(allowed).env("PLAKAR_PASSPHRASE", "password")).fine();
}

#[test]
fn a_keyfile_and_the_configuration_give_the_passphrase() {
    let world = world();
    world.write("key", format!("{PASSPHRASE}\n"));
    world.run("at r ls -keyfile key").fine();
    finish(world.program().args([
        "store",
        "add",
        "-default",
        "mine",
        "r",
        "passphrase_command=cat key",
    ]))
    .fine();
    world.run("ls").fine();
    world.run("at @mine ls").fine();
    fs::write(world.path("key"), "wrong").expect("written");
    world.run("ls").refused(77);
    fs::remove_file(world.path("key")).expect("removed");
    let failed = world.run("ls");
    assert!(
        failed.code == 77
            && failed
                .stderr
                .contains("line 5, `passphrase_command`: the command failed"),
        "{failed:?}"
    );
}

#[test]
fn passphrases_are_changed_without_rewriting_data() {
    let world = world();
    world.unlocked("at r backup src").fine();
    let other = "another one that nobody guesses";
    let new = |words: &str| {
        let mut program = world.program();
        finish(
            program
                .args(words.split(' '))
                .env("PLAKAR_PASSPHRASE", PASSPHRASE)
                .env("PLAKAR_NEW_PASSPHRASE", other),
        )
    };
    new("at r passphrase add -label second").fine();
    let slots = world.unlocked("at r passphrase ls").fine();
    assert!(slots.lines().count() == 2 && slots.contains("second"), "{slots}");
    let first = slots
        .lines()
        .find(|line| line.contains('*'))
        .expect("the slot in use is marked");
    let first = first
        .split(' ')
        .nth(1)
        .expect("time, slot")
        .trim_end_matches('*')
        .to_owned();
    let with_other = |words: &str| {
        finish(
            world
                .program()
                .args(words.split(' '))
                .env("PLAKAR_PASSPHRASE", other),
        )
    };
    with_other(&format!("at r passphrase rm {first}")).fine();
    world.unlocked("at r ls").refused(77);
    let second = with_other("at r passphrase ls").fine();
    let second = second
        .split(' ')
        .nth(1)
        .expect("time, slot")
        .trim_end_matches('*')
        .to_owned();
    assert!(
        with_other(&format!("at r passphrase rm {second}"))
            .refused(1)
            .contains("last")
    );
    let mut program = world.program();
    program.args(["at", "r", "passphrase", "change"]);
    finish(
        program
            .env("PLAKAR_PASSPHRASE", other)
            .env("PLAKAR_NEW_PASSPHRASE", PASSPHRASE),
    )
    .fine();
    with_other("at r ls").refused(77);
    assert_eq!(world.unlocked("at r check -quiet").fine().lines().count(), 1);
}

#[test]
fn what_is_not_there_is_exit_66_and_what_is_in_the_way_73() {
    let world = world();
    world.unlocked("at r backup src").fine();
    let id = id_of(&world);
    assert!(
        world
            .unlocked("at none ls")
            .refused(66)
            .contains("create one with `plakar at ")
    );
    fs::create_dir(world.path("empty")).expect("made");
    assert!(
        world
            .unlocked("at empty ls")
            .refused(66)
            .contains("the place is empty")
    );
    assert!(
        world
            .unlocked("at src ls")
            .refused(78)
            .contains("not a repository of this program")
    );
    assert!(
        world
            .unlocked("at r ls 00000000ff")
            .refused(66)
            .starts_with("no snapshot `00000000ff`")
    );
    assert!(
        world
            .unlocked(&format!("at r ls {id}:/none"))
            .refused(66)
            .starts_with("the snapshot has no /none")
    );
    assert!(
        world
            .unlocked(&format!("at r cat {id}:none"))
            .refused(66)
            .contains("none")
    );
    assert!(
        world
            .unlocked(&format!("at r restore -to out {id}:/none"))
            .refused(66)
            .contains("/none")
    );
    assert!(
        world
            .unlocked("at r create")
            .refused(73)
            .contains("one is there already")
    );
    assert!(
        world
            // Before anybody is asked for a passphrase.
            .run("at src create")
            .refused(73)
            .contains("it is not empty")
    );
    assert!(
        world
            .unlocked("at r backup none")
            .refused(1)
            .contains("none: No such file")
    );
    world.write("out/a.txt", "precious");
    let in_the_way = world.unlocked(&format!("at r restore -to out {id}")).refused(73);
    assert!(in_the_way.contains("-overwrite"), "{in_the_way}");
    assert_eq!(
        fs::read(world.path("out/a.txt")).expect("it is there"),
        b"precious"
    );
    assert!(!world.path("out/sub").exists(), "nothing was written");
    world
        .unlocked(&format!("at r restore -to out -overwrite always {id}"))
        .fine();
    assert_eq!(fs::read(world.path("out/a.txt")).expect("it is there"), b"one\n");
}

#[test]
fn what_cannot_be_saved_is_named_and_the_rest_is_saved() {
    let world = world();
    let run = world.unlocked("at r backup none src");
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.starts_with("backup: ✘ none: No such file"), "{run:?}");
    assert!(run.stdout.trim_end().ends_with(", with 1 error"), "{run:?}");
    assert_eq!(world.unlocked("at r ls").fine().lines().count(), 1);
}

#[test]
fn snapshots_are_chosen_by_tag_name_root_and_time() {
    let world = world();
    world
        .unlocked("at r backup -tag a,b -name nightly -force-timestamp 2020-01-02 src")
        .fine();
    world.unlocked("at r backup -tag b src/sub").fine();
    let count = |words: &str| world.unlocked(&format!("at r ls {words}")).fine().lines().count();
    assert_eq!(
        (count(""), count("-tag b"), count("-tag a,b"), count("-tag c")),
        (2, 2, 1, 0)
    );
    assert_eq!(
        (
            count("-name nightly"),
            count("-before 30d"),
            count("-since 2h30m"),
            count("-latest")
        ),
        (1, 1, 1, 1)
    );
    assert_eq!(
        count(&format!(
            "-root {}",
            world.path("src").canonicalize().expect("there").display()
        )),
        1
    );
    assert!(
        world
            .unlocked("at r ls -tags -name nightly")
            .fine()
            .trim_end()
            .ends_with(" tags=a,b")
    );
    assert!(
        world
            .unlocked("at r restore -to out -tag c")
            .refused(66)
            .contains("no snapshot matches the options")
    );
    world.unlocked("at r restore -to out -name nightly").fine();
    assert!(world.path("out/a.txt").is_file());
}

#[test]
fn ignored_files_are_left_out_and_dry_runs_store_nothing() {
    let world = world();
    world.write("src/c.o", "");
    world.write("ignored", "# objects\n*.o\n");
    let backup = world
        .unlocked("at r backup -ignore-file ignored -ignore sub/ src")
        .fine();
    assert!(
        backup.contains("/a.txt") && !backup.contains("c.o") && !backup.contains("/sub"),
        "{backup}"
    );
    let planned = world.unlocked("at r backup -dry-run src").fine();
    assert!(
        planned.contains("plan ✓ ") && planned.trim_end().ends_with("nothing was stored"),
        "{planned}"
    );
    assert_eq!(world.unlocked("at r ls").fine().lines().count(), 1);
    let id = id_of(&world);
    let planned = world
        .unlocked(&format!("at r restore -dry-run -to out {id}"))
        .fine();
    assert!(
        planned.trim_end().ends_with("nothing was written") && !world.path("out").exists(),
        "{planned}"
    );
}

#[test]
fn quiet_is_one_line_and_json_is_one_object_a_line() {
    let world = world();
    let quiet = world.unlocked("at r backup -quiet src").fine();
    assert!(
        quiet.lines().count() == 1 && quiet.starts_with("backup: created"),
        "{quiet}"
    );
    let id = id_of(&world);
    for command in [
        "backup src",
        "ls",
        &format!("ls -recursive {id}"),
        &format!("check {id}"),
        "info",
        &format!("info {id}"),
        &format!("restore -to out {id}"),
        &format!("cat {id}:a.txt"),
        "passphrase ls",
    ] {
        let text = world.unlocked(&format!("-json at r {command}")).fine();
        assert!(!text.is_empty(), "{command}");
        for line in text.lines() {
            let event: serde_json::Value = serde_json::from_str(line).expect("every line is JSON");
            assert!(event.get("event").is_some(), "{line}");
        }
    }
}

#[test]
fn cat_writes_the_bytes_and_names_what_failed() {
    let world = world();
    world.unlocked("at r backup src").fine();
    let id = id_of(&world);
    assert_eq!(
        world
            .unlocked(&format!("at r cat {id}:a.txt {id}:sub/b.txt"))
            .fine(),
        "one\ntwo\n"
    );
    let Run { stdout, stderr, code } = world.unlocked(&format!("at r cat {id}:a.txt {id}:sub"));
    assert_eq!((stdout.as_str(), code), ("one\n", 3));
    assert!(stderr.contains("is a directory, not a file"), "{stderr}");
}

#[test]
fn hostile_names_are_shown_escaped() {
    let world = world();
    world.write("src/\u{1b}[31mred", "");
    let backup = world.unlocked("at r backup src").fine();
    assert!(
        !backup.contains('\u{1b}') && backup.contains("\\x1b[31mred'"),
        "{backup}"
    );
    assert!(
        !world
            .unlocked(&format!("at r ls {}", id_of(&world)))
            .fine()
            .contains('\u{1b}')
    );
}

#[test]
fn standard_input_is_saved_under_a_name() {
    let world = world();
    let input = fs::File::open(world.path("src/a.txt")).expect("it is there");
    let mut program = world.program();
    program
        .args(["at", "r", "backup", "-stdin", "dump.sql"])
        .env("PLAKAR_PASSPHRASE", PASSPHRASE)
        .stdin(input);
    assert!(program.status().expect("it runs").success());
    assert_eq!(
        world
            .unlocked(&format!("at r cat {}:/dump.sql", id_of(&world)))
            .fine(),
        "one\n"
    );
}

#[test]
fn damage_is_found_named_and_not_restored() {
    let world = world();
    world.write(
        "src/big",
        (0..200_000_u32)
            .flat_map(|number| number.wrapping_mul(number).to_le_bytes())
            .collect::<Vec<_>>(),
    );
    world.unlocked("at r backup src").fine();
    let largest = largest_below(&world.path("r/packs")).expect("there is a pack");
    let mut bytes = fs::read(&largest).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).expect("writable");
    let check = world.unlocked("at r check");
    assert!(
        check.code == 65 && check.stderr.contains("/src/big: ") && check.stderr.contains("✘ packs/"),
        "{check:?}"
    );
    let restore = world.unlocked("at r restore -to out");
    assert!(
        restore.code == 65 && restore.stderr.contains("/src/big: "),
        "{restore:?}"
    );
    assert_eq!(
        fs::read(world.path("out/a.txt")).expect("the rest is restored"),
        b"one\n"
    );
}

fn largest_below(folder: &Path) -> Option<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).ok()?.flatten() {
        match entry.metadata().ok()? {
            metadata if metadata.is_dir() => files.extend(largest_below(&entry.path())),
            _ => files.push(entry.path()),
        }
    }
    files
        .into_iter()
        .max_by_key(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()))
}

#[test]
fn a_repository_without_encryption_must_be_meant() {
    build_connector();
    let world = World::new();
    world.write("src/a", "x");
    world.run("at r create -no-encryption").fine();
    world.run("at r backup src").fine();
    world.write("key", PASSPHRASE);
    assert!(
        world
            .run("at r ls -keyfile key")
            .refused(77)
            .contains("is not encrypted")
    );
    let warned = world.unlocked("at r ls");
    assert!(
        warned.code == 0 && warned.stderr.contains("PLAKAR_PASSPHRASE is not used"),
        "{warned:?}"
    );
}

#[test]
fn a_closed_pipe_ends_a_listing_quietly() {
    let world = world();
    world.unlocked("at r backup src").fine();
    let program = env!("CARGO_BIN_EXE_plakar");
    let mut shell = std::process::Command::new("bash");
    shell.args([
        "-c",
        &format!(
            "{program} at r ls -recursive {}:/ | true; echo ${{PIPESTATUS[0]}}",
            id_of(&world)
        ),
    ]);
    shell
        .current_dir(world.path(""))
        .env("PLAKAR_PASSPHRASE", PASSPHRASE)
        .env("HOME", world.path("home"));
    let run = finish(&mut shell);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("0\n", ""));
}

#[test]
fn a_path_without_an_id_is_in_the_latest_snapshot_that_the_options_choose() {
    let world = world();
    world
        .unlocked("at r backup -tag old -force-timestamp 2020-01-02 src")
        .fine();
    world.write("src/a.txt", "changed\n");
    world.unlocked("at r backup src").fine();
    assert_eq!(world.unlocked("at r cat :a.txt").fine(), "changed\n");
    assert_eq!(world.unlocked("at r cat -tag old :a.txt").fine(), "one\n");
    let listed = world.unlocked("at r ls -before 30d :sub").fine();
    assert!(listed.ends_with(" b.txt\n"), "{listed}");
    world.unlocked("at r restore -tag old -to out :a.txt").fine();
    assert_eq!(fs::read(world.path("out/a.txt")).expect("restored"), b"one\n");
    let checked = world.unlocked("at r check -tag old :sub").fine();
    assert!(
        checked.ends_with("/src/sub completed successfully\n"),
        "{checked}"
    );
    let about = world.unlocked("at r info -tag old").fine();
    assert!(
        about.contains("Time: 2020-01-02T00:00:00Z") && about.contains("Tags: old\n"),
        "{about}"
    );
    assert_eq!(
        world
            .unlocked("at r info -since 2000-01-01")
            .fine()
            .matches("Snapshot: ")
            .count(),
        2
    );
    assert!(world.unlocked("at r info :a.txt").fine().contains("Type: file"));
    for words in [
        "cat -tag none :a.txt",
        "info -tag none",
        "check -tag none",
        "restore -tag none",
    ] {
        let refused = world.unlocked(&format!("at r {words}")).refused(66);
        assert!(
            refused.contains("no snapshot matches the options"),
            "{words}: {refused}"
        );
    }
    for words in [
        "cat -latest ab:a.txt",
        "info -latest ab",
        "check -latest ab",
        "restore -latest ab",
    ] {
        let refused = world.unlocked(&format!("at r {words}")).refused(64);
        assert!(
            refused.contains("a snapshot is named and options choose others"),
            "{words}: {refused}"
        );
    }
    assert!(
        world
            .unlocked("at r info -errors")
            .refused(64)
            .contains("needs a snapshot")
    );
}

#[test]
fn restoring_the_latest_snapshot_says_when_a_later_one_cannot_be_read() {
    let world = world();
    world
        .unlocked("at r backup -force-timestamp 2020-01-02 src")
        .fine();
    world.write("src/a.txt", "changed\n");
    world.unlocked("at r backup src").fine();
    let id = id_of(&world);
    let headers = fs::read_dir(world.path("r/snapshots"))
        .expect("snapshots are there")
        .flatten();
    let latest = headers.map(|folder| folder.path()).find(|folder| {
        folder
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&id))
    });
    let header = largest_below(&latest.expect("the latest is there")).expect("it has a header");
    let mut bytes = fs::read(&header).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&header, bytes).expect("writable");
    let restore = world.unlocked("at r restore -to out");
    assert!(restore.code == 65 && restore.stderr.contains(&id), "{restore:?}");
    assert_eq!(
        fs::read(world.path("out/a.txt")).expect("the older one is restored"),
        b"one\n"
    );
    let cat = world.unlocked("at r cat :a.txt");
    assert!(cat.code == 65 && cat.stdout == "one\n", "{cat:?}");
}

#[test]
fn a_passphrase_command_does_not_take_the_data_of_standard_input() {
    let world = world();
    world.write("key", PASSPHRASE);
    // It reads what it is given, as ssh does.
    world.write("ask.sh", "cat >/dev/null; cat key\n");
    finish(
        world
            .program()
            .args(["store", "add", "mine", "r", "passphrase_command=sh ask.sh"]),
    )
    .fine();
    let input = fs::File::open(world.path("src/a.txt")).expect("it is there");
    let mut program = world.program();
    program
        .args(["at", "@mine", "backup", "-stdin", "dump.sql"])
        .stdin(input);
    assert!(program.status().expect("it runs").success());
    assert_eq!(world.unlocked("at r cat :dump.sql").fine(), "one\n");
}

#[test]
fn a_mistake_in_the_settings_of_a_repository_names_their_line() {
    let world = world();
    let file = world.path("c.toml");
    let location = world.path("r");
    fs::write(
        &file,
        format!("[repositories.x]\nlocation = {location:?}\n\nfsync = \"never\"\n"),
    )
    .expect("written");
    let refused = world.run("-config c.toml at @x ls").refused(78);
    assert!(
        refused.starts_with("c.toml, line 4, `fsync`: ") && refused.contains("unknown setting `fsync`"),
        "{refused}"
    );
}

#[test]
fn a_relative_path_in_a_snapshot_of_one_file_starts_beside_the_file() {
    let world = world();
    world.unlocked("at r backup src/a.txt").fine();
    assert_eq!(world.unlocked("at r cat :a.txt").fine(), "one\n");
    assert!(
        world
            .unlocked("at r info :")
            .fine()
            .contains("/src/a.txt\nType: file")
    );
}

#[test]
fn a_root_may_be_named_from_the_current_folder_and_through_links() {
    let world = world();
    world.unlocked("at r backup src").fine();
    std::os::unix::fs::symlink("src", world.path("link")).expect("made");
    for root in ["src", "./src/", "link", "src/sub/.."] {
        let listed = world.unlocked(&format!("at r ls -root {root}")).fine();
        assert_eq!(listed.lines().count(), 1, "{root}");
    }
    assert_eq!(world.unlocked("at r ls -root sub").fine(), "");
}

#[test]
fn a_dry_run_calls_everything_planned_also_what_did_not_change() {
    let world = world();
    world.unlocked("at r backup src").fine();
    let planned = world.unlocked("at r backup -dry-run src").fine();
    assert!(
        planned.contains("plan ✓ ") && !planned.contains("OK ✓ "),
        "{planned}"
    );
}

#[test]
fn including_what_is_not_there_is_told() {
    let world = world();
    world.unlocked("at r backup src").fine();
    let refused = world.unlocked("at r restore -to out -include *.doc").refused(66);
    assert!(
        refused.contains("matches -include, so nothing was restored"),
        "{refused}"
    );
}

#[test]
fn who_forgets_the_sign_of_a_name_is_told() {
    let world = world();
    world.run("store add home r").fine();
    let refused = world.unlocked("at home ls").refused(66);
    assert!(
        refused.ends_with("the repository that is called home is `at @home`"),
        "{refused}"
    );
    let misspelt = world.run("store ping hmoe").refused(66);
    assert!(misspelt.contains("no repository is called `hmoe`"), "{misspelt}");
    assert!(
        world
            .run("store ping home")
            .fine()
            .contains("holds the encrypted repository")
    );
    assert!(
        world
            .run("store ping r")
            .fine()
            .contains("holds the encrypted repository")
    );
    assert!(
        world
            .run("store add other r location=/x")
            .refused(64)
            .contains("given twice")
    );
    let unable = world.unlocked("at r passphrase add").refused(77);
    assert!(
        unable.ends_with("use -new-keyfile FILE or PLAKAR_NEW_PASSPHRASE"),
        "{unable}"
    );
}
