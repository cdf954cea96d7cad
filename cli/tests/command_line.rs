//! The command line itself, where no repository is needed: grammar, help, mistakes, configuration.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::{World, finish};

#[test]
fn version_prints_program_format_and_abi() {
    let text = World::new().run("version").fine();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("plakar/v0."), "{text}");
    assert_eq!(lines[1..], ["repository format 1", "plugin ABI 1.0"]);
    assert_eq!(World::new().run("-version").fine(), text);
    let json = World::new().run("version -json").fine();
    assert!(
        json.starts_with("{\"event\":\"version\",\"version\":\"v0."),
        "{json}"
    );
}

#[test]
fn every_command_has_help_with_examples() {
    let world = World::new();
    let commands =
        "create backup ls check restore cat info passphrase store connector completions man version";
    for command in commands.split(' ') {
        let text = world.run(&format!("help {command}")).fine();
        assert!(
            text.contains("Usage: ") && text.contains("Examples:"),
            "{command}: {text}"
        );
        assert_eq!(world.run(&format!("{command} --help")).fine(), text);
        assert_eq!(world.run(&format!("{command} -help")).fine(), text);
        assert!(world.run(&format!("{command} -h")).fine().contains("Examples:"));
        let brief = text.find("Choosing snapshots:").map(|at| text.split_at(at));
        assert!(
            brief.is_none_or(|(before, _)| before.contains("Arguments:")),
            "{command}: {text}"
        );
    }
    assert!(
        world
            .run("help")
            .fine()
            .contains("plakar [OPTIONS] [at REPOSITORY] COMMAND")
    );
}

#[test]
fn mistakes_are_one_line_and_exit_64() {
    let world = World::new();
    let mistakes = [
        ("", "no command given; see `plakar help`"),
        ("at", "`at` needs a repository; see `plakar help`"),
        (
            "at x at y ls",
            "`at REPOSITORY` is given twice; see `plakar help`",
        ),
        ("at x", "no command given; see `plakar help`"),
        (
            "bckup",
            "no such command `bckup` (did you mean `backup`?); see `plakar help`",
        ),
        (
            "restore -too x",
            "restore: unknown option `--too` (did you mean `--to`?); see `plakar help restore`",
        ),
        (
            "restore -to",
            "restore: `--to <DIR>` needs a value; see `plakar help restore`",
        ),
        ("ls a b", "ls: unexpected argument `b`; see `plakar help ls`"),
        ("cat", "cat: missing <ID:PATH>...; see `plakar help cat`"),
        ("cat 9abc", "cat: `9abc` names no file; write 9abc:PATH"),
        (
            "ls -since yesterday",
            "-since: `yesterday` is not a time; write 2026-01-31, 2026-01-31T10:00:00Z, or an age like 30d or 2h30m",
        ),
        (
            "ls -latest 9abc",
            "ls: a snapshot is named and options choose others as well; use one or the other",
        ),
        (
            "backup -force-timestamp 9999-01-01",
            "backup: -force-timestamp: 9999-01-01 is in the future; give a time in the past",
        ),
        (
            "backup -stdin a/b",
            "backup: -stdin: the name must be that of a file, without `/`; for example `plakar backup -stdin dump.sql`",
        ),
    ];
    for (words, message) in mistakes {
        assert_eq!(world.run(words).refused(64), message, "{words}");
    }
    let malformed = world.run("ls ../x").refused(64);
    assert!(malformed.starts_with("`../x` is not a snapshot"), "{malformed}");
}

#[test]
fn with_json_an_error_is_an_event_as_well() {
    let run = World::new().run("ls -json zz");
    assert_eq!(run.code, 64);
    assert!(
        run.stdout
            .starts_with("{\"event\":\"error\",\"code\":64,\"message\":\"`zz` is not a snapshot"),
        "{run:?}"
    );
    assert!(
        run.stderr.starts_with("plakar: `zz` is not a snapshot"),
        "{run:?}"
    );
}

#[test]
fn a_missing_ignore_file_is_an_error() {
    let run = World::new().run("backup -ignore-file none .").refused(78);
    assert!(run.starts_with("cannot use the patterns of none: "), "{run}");
}

#[test]
fn a_full_disk_behind_standard_output_is_an_error() {
    let world = World::new();
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("Linux has it");
    let run = world
        .program()
        .arg("version")
        .stdout(full)
        .output()
        .expect("it runs");
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&run.stderr).contains("cannot write the output"));
}

#[test]
fn completions_and_manual_pages_are_made() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            world
                .run(&format!("completions {shell}"))
                .fine()
                .contains("plakar")
        );
    }
    // What a shell sees as the first word may be `at`, and the command comes later.
    for shell in ["zsh", "fish"] {
        let script = world.run(&format!("completions {shell}")).fine();
        assert!(script.contains("Name the repository"), "{shell}");
    }
    world.run("man pages").fine();
    for page in ["plakar.1", "plakar-backup.1", "plakar-passphrase-add.1"] {
        assert!(world.path("pages").join(page).is_file(), "{page}");
    }
}

#[test]
fn the_configuration_is_edited_with_its_comments_and_shown_without_secrets() {
    let world = World::new();
    let file = world.write(
        "home/.config/plakar/config.toml",
        "# mine\n[repositories.home]\nlocation = \"/b\" # here\n",
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("allowed");
    world
        .run("store add nas sftp://me@h/p connections=4 password=hunter2")
        .fine();
    world.run("store set home location=/c").fine();
    let text = fs::read_to_string(&file).expect("it is there");
    assert!(
        text.contains("# mine") && text.contains("location = \"/c\" # here"),
        "{text}"
    );
    let shown = world.run("store show").fine();
    assert_eq!(
        shown,
        "@home\n  location = /c\n@nas\n  location = sftp://me@h/p\n  connections = 4\n  password = ********\n"
    );
    assert!(world.run("store show -secrets nas").fine().contains("hunter2"));
    assert!(
        world
            .run("store add nas /x")
            .refused(73)
            .contains("exists already")
    );
    world.run("store unset nas password").fine();
    world.run("store rm home").fine();
    assert_eq!(
        world.run("store show").fine(),
        "@nas\n  location = sftp://me@h/p\n  connections = 4\n"
    );
    assert!(
        world
            .run("at @home ls")
            .refused(66)
            .contains("no repository is called `home`")
    );
}

#[test]
fn a_mistake_in_the_configuration_names_file_and_line() {
    let world = World::new();
    world.write(
        "c.toml",
        "[repositories.home]\nlocation = \"/b\"\n\n[repository.x]\n",
    );
    assert_eq!(
        world.run("-config c.toml ls").refused(78),
        "c.toml, line 4: unknown key `repository`"
    );
    assert!(
        world
            .run("-config none.toml ls")
            .refused(78)
            .contains("cannot read the configuration none.toml")
    );
    world.write("d.toml", "[repositories.x]\n\nlocation = \"nope://h/p\"\n");
    let unknown = world.run("-config d.toml at @x ls").refused(78);
    assert!(
        unknown.starts_with("d.toml, line 3, `location`: unknown scheme `nope`"),
        "{unknown}"
    );
    assert!(
        world
            .run("at nope://h/p ls")
            .refused(69)
            .starts_with("unknown scheme `nope`")
    );
}

#[test]
fn a_secret_that_others_can_read_is_warned_about() {
    let world = World::new();
    let file = world.write(
        "c.toml",
        "[repositories.x]\nlocation = \"/b\"\npassphrase = \"p\"\n",
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("allowed");
    let run = world.run("-config c.toml store show");
    assert_eq!(run.code, 0);
    assert!(
        run.stderr
            .starts_with("plakar: warning: other users can read c.toml"),
        "{run:?}"
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("allowed");
    finish(world.program().args(["-config", "c.toml", "store", "show"])).fine();
}

#[test]
fn help_is_an_event_with_json_and_plain_where_the_terminal_is_dumb() {
    let world = World::new();
    for words in ["help -json", "-json backup -h", "ls -help -json"] {
        let text = world.run(words).fine();
        let event: serde_json::Value = serde_json::from_str(&text).expect("one line of JSON");
        assert_eq!(event["event"], "help");
        assert!(
            event["text"]
                .as_str()
                .is_some_and(|text| text.contains("Usage: ")),
            "{text}"
        );
    }
    let shown = |variable: &str, value: &str| {
        let program = env!("CARGO_BIN_EXE_plakar");
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &format!("{program} help"), "/dev/null"]);
        finish(
            script
                .env_remove("NO_COLOR")
                .env("TERM", "xterm")
                .env(variable, value),
        )
        .stdout
    };
    assert!(shown("TERM", "xterm").contains('\u{1b}'));
    assert!(!shown("TERM", "dumb").contains('\u{1b}'));
    assert!(!shown("NO_COLOR", "1").contains('\u{1b}'));
}

#[test]
fn edits_at_the_same_time_are_all_kept() {
    let world = World::new();
    let mut editors: Vec<_> = (0..16)
        .map(|number| {
            let mut program = world.program();
            program.args(["store", "add", &format!("r{number}"), "/x"]);
            program
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("it runs")
        })
        .collect();
    for editor in &mut editors {
        assert!(editor.wait().expect("it ends").success());
    }
    let text = fs::read_to_string(world.path("home/.config/plakar/config.toml")).expect("it is there");
    assert_eq!(text.matches("[repositories.r").count(), 16, "{text}");
}

#[test]
fn a_configuration_behind_a_link_is_changed_where_it_is_and_a_new_one_is_private() {
    let world = World::new();
    fs::create_dir_all(world.path("home/.config/plakar")).expect("made");
    fs::create_dir(world.path("dotfiles")).expect("made");
    let link = world.path("home/.config/plakar/config.toml");
    // The file behind the link does not exist yet.
    std::os::unix::fs::symlink("../../../dotfiles/plakar.toml", &link).expect("made");
    world.run("store add a /x").fine();
    world.run("store add b /y").fine();
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    let file = world.path("dotfiles/plakar.toml");
    let text = fs::read_to_string(&file).expect("it is there");
    assert!(
        text.contains("[repositories.a]") && text.contains("[repositories.b]"),
        "{text}"
    );
    assert_eq!(
        fs::metadata(&file).expect("there").permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_command_for_a_setting_that_prints_without_end_is_refused() {
    let world = World::new();
    world.write(
        "c.toml",
        "[repositories.x]\nlocation = \"/b\"\nuser_command = \"yes\"\n",
    );
    let refused = world.run("-config c.toml at @x ls").refused(77);
    assert_eq!(
        refused,
        "c.toml, line 3, `user_command`: the command printed more than 64 KiB"
    );
}
