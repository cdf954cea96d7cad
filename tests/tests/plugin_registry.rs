//! Which library is chosen for a location, and which are refused before a line of them runs.

mod plugin_support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use plakar_core::plugin::{self, HostOptions, PluginError, Registry, inspect, pin_of};
use plakar_core::storage::StorageErrorKind;
use plugin_support::{Folder, built, entry, impatient, library, message, misbehaving, put, settings};

const FS: &str = "plakar-connector-fs";
const BAD: &str = "plakar-hostile-misbehaving";

fn open(registry: &Registry, location: &str) -> Result<(), PluginError> {
    registry
        .open(location, &settings(&[]), &HostOptions::default())
        .map(drop)
}

/// A folder of bundled libraries with the fs connector.
fn bundled() -> (Folder, Registry) {
    let folder = Folder::new();
    folder.copy(FS, "libplakar_connector_fs.so");
    let registry = Registry::load(&[], &[folder.path().to_owned()]).unwrap();
    (folder, registry)
}

#[test]
fn the_bundled_fs_connector_needs_no_set_up() {
    let (_folder, registry) = bundled();
    assert_eq!(registry.schemes(), ["file", "fs"]);
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("repository");
    let path = root.to_str().unwrap();
    let storage = registry
        .open(path, &settings(&[]), &HostOptions::default())
        .unwrap();
    assert_eq!(
        storage.list("", "", 1).unwrap_err().kind,
        StorageErrorKind::NotFound
    );
    storage.init().unwrap();
    put(storage.as_ref(), "packs/ab/abcd", b"sealed").unwrap();
    for location in [path.to_owned(), format!("fs://{path}"), format!("file://{path}")] {
        let again = registry
            .open(&location, &settings(&[]), &HostOptions::default())
            .unwrap();
        assert_eq!(again.location(), location);
        assert_eq!(again.get("packs/ab/abcd", 2, 100).unwrap(), b"aled");
        assert_eq!(again.get("packs/ab/abcd", 0, u64::MAX).unwrap(), b"sealed");
        let page = again.list("pa", "", 10).unwrap();
        assert_eq!((page.objects.len(), page.more), (1, false));
        assert_eq!(page.objects[0].size_bytes, 6);
        assert!(again.space().unwrap().is_some());
        again.delete("missing").unwrap();
    }
    let error = put(storage.as_ref(), "packs/ab/abcd", b"other").unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::AlreadyExists);
    assert!(
        error.to_string().starts_with("cannot write packs/ab/abcd: "),
        "{error}"
    );
}

#[test]
fn the_build_folder_serves_as_a_bundle() {
    let registry = Registry::load(&[], &[built().to_owned()]).unwrap();
    let info = registry.info("fs").unwrap();
    assert_eq!((info.name.as_str(), info.abi.as_str()), ("fs", "1.0"));
    assert_eq!(info.schemes, ["fs", "file"]);
    assert_eq!(info.blake3, pin_of(&info.library).unwrap());
}

#[test]
fn the_suite_passes_through_the_boundary() {
    let (_folder, registry) = bundled();
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let report = plugin::check(
        &registry,
        place.path().to_str().unwrap(),
        &settings(&[]),
        &HostOptions::default(),
    );
    let report = report.unwrap();
    assert!(report.passed(), "{report}");
    assert!(!report.to_string().contains("skip"), "{report}");
    assert_eq!(
        fs::read_dir(place.path())
            .unwrap()
            .flat_map(|entry| fs::read_dir(entry.unwrap().path()))
            .count(),
        1
    );
}

#[test]
fn errors_of_the_location_keep_their_kind() {
    let (_folder, registry) = bundled();
    let error = registry
        .open("fs://relative/path", &settings(&[]), &HostOptions::default())
        .unwrap_err();
    assert!(
        matches!(
            error,
            PluginError::Open {
                kind: StorageErrorKind::Config,
                ..
            }
        ),
        "{error}"
    );
    let error = registry
        .open("/x", &settings(&[("fsync", "no")]), &HostOptions::default())
        .unwrap_err();
    assert!(message::<()>(Err(error)).contains("`fsync`"));
}

#[test]
fn an_unknown_scheme_says_which_are_known() {
    let (_folder, registry) = bundled();
    let text = message(open(&registry, "gopher://x"));
    assert_eq!(
        text,
        "unknown scheme `gopher`: known are file, fs; add one with `plakar connector add FILE`"
    );
    assert!(message(open(&Registry::default(), "/x")).contains("known are none"));
}

#[test]
fn the_first_file_that_has_a_scheme_wins() {
    let (first, second) = (misbehaving(), misbehaving());
    first.register(
        "hostile",
        "bad.so",
        "[connector.defaults]\nfault = \"refuse-open\"",
    );
    let files = |one: &Folder, two: &Folder| {
        let files = [
            one.path().join("connectors.toml"),
            "/nonexistent/connectors.toml".into(),
            two.path().join("connectors.toml"),
        ];
        Registry::load(&files, &[]).unwrap()
    };
    assert!(message(open(&files(&first, &second), "hostile://x")).contains("the password is wrong"));
    open(&files(&second, &first), "hostile://x").unwrap();
    assert_eq!(files(&first, &second).entries().len(), 2);
}

#[test]
fn settings_win_over_the_defaults_of_the_registry() {
    let folder = misbehaving();
    folder.register(
        "hostile",
        "bad.so",
        "[connector.defaults]\nfault = \"refuse-open\"\ndefault = 4",
    );
    let registry = folder.registry();
    assert!(open(&registry, "hostile://x").is_err());
    registry
        .open("hostile://x", &settings(&[("fault", "none")]), &impatient())
        .unwrap();
}

#[test]
fn a_registry_file_wins_over_the_bundle() {
    let folder = misbehaving();
    folder.copy(BAD, "fake.so");
    let pin = pin_of(&folder.path().join("fake.so")).unwrap();
    folder.write(
        "connectors.toml",
        entry("fs", "fake.so", &format!("blake3 = \"{pin}\"")),
    );
    let (bundle, _) = bundled();
    let registry = Registry::load(
        &[folder.path().join("connectors.toml")],
        &[bundle.path().to_owned()],
    )
    .unwrap();
    let text = message(open(&registry, "/x"));
    assert!(text.contains("does not serve `fs` but hostile"), "{text}");
}

#[test]
fn a_registry_beside_bundled_libraries_pins_them() {
    let (folder, _) = bundled();
    folder.register("fs", "libplakar_connector_fs.so", "");
    let load = || Registry::load(&[], &[folder.path().to_owned()]).unwrap();
    open(&load(), "/x").unwrap();
    assert_eq!(
        load().schemes(),
        ["fs"],
        "what the registry does not name is not served"
    );
    let mut bytes = fs::read(library(FS)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    folder.write("libplakar_connector_fs.so", bytes);
    assert!(message(open(&load(), "/x")).contains("pinned is"));
}

#[test]
fn a_bare_name_is_found_in_the_bundled_folder() {
    let (bundle, _) = bundled();
    let folder = Folder::new();
    let pin = pin_of(&bundle.path().join("libplakar_connector_fs.so")).unwrap();
    let more = format!("blake3 = \"{pin}\"");
    let file = folder.write("connectors.toml", entry("fs", "libplakar_connector_fs.so", &more));
    let registry = Registry::load(&[file], &[bundle.path().to_owned()]).unwrap();
    open(&registry, "/x").unwrap();
    assert_eq!(registry.entries()[0].library.parent(), Some(bundle.path()));
}

#[test]
fn a_missing_library_says_where_it_was_looked_for() {
    let folder = misbehaving();
    let registry = folder.registry();
    fs::remove_file(folder.path().join("bad.so")).unwrap();
    let text = message(open(&registry, "hostile://x"));
    assert!(
        text.contains("bad.so") && text.contains(folder.path().to_str().unwrap()),
        "{text}"
    );
    folder.write(
        "connectors.toml",
        entry(
            "hostile",
            "/nonexistent/bad.so",
            &format!("blake3 = \"{}\"", "0".repeat(64)),
        ),
    );
    assert!(message(open(&folder.registry(), "hostile://x")).contains("/nonexistent/bad.so"));
}

#[test]
fn a_library_that_changed_since_it_was_pinned_is_refused() {
    let folder = misbehaving();
    let registry = folder.registry();
    let path = folder.path().join("bad.so");
    let original = fs::read(&path).unwrap();
    for position in [0, original.len() / 2, original.len() - 1] {
        let mut bytes = original.clone();
        bytes[position] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let text = message(open(&registry, "hostile://x"));
        assert!(
            text.contains("its BLAKE3 is") && text.contains("plakar connector add"),
            "{text}"
        );
    }
    fs::write(&path, &original).unwrap();
    open(&registry, "hostile://x").unwrap();
}

#[test]
fn a_library_cut_short_is_an_error_even_without_a_pin() {
    let whole = fs::read(library(FS)).unwrap();
    for length in [0, 10, 64, 4096, whole.len() / 2, whole.len() - 1] {
        let folder = Folder::new();
        folder.write("libplakar_connector_fs.so", &whole[..length]);
        let registry = Registry::load(&[], &[folder.path().to_owned()]).unwrap();
        let text = message(open(&registry, "/x"));
        assert!(
            text.starts_with("cannot load ") && text.contains("short"),
            "{length}: {text}"
        );
    }
}

#[test]
fn files_that_are_no_connectors_are_named_for_what_they_are() {
    let folder = Folder::new();
    let text = folder.write(
        "text.so",
        "#!/bin/sh\necho I am a script, and longer than the header of a library is\n",
    );
    assert!(message(inspect(&text, &impatient())).contains("not a shared library"));
    let maths = [
        "/lib/x86_64-linux-gnu/libm.so.6",
        "/lib/aarch64-linux-gnu/libm.so.6",
        "/lib64/libm.so.6",
        "/usr/lib/libm.so.6",
    ];
    let other = maths
        .iter()
        .find_map(|path| fs::read(path).ok())
        .expect("there is a mathematics library");
    let other = folder.write("other.so", other);
    assert!(message(inspect(&other, &impatient())).contains("not a plakar connector"));
}

#[test]
fn what_others_can_write_is_refused() {
    let folder = misbehaving();
    let registry = folder.registry();
    let (library, file) = (
        folder.path().join("bad.so"),
        folder.path().join("connectors.toml"),
    );
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for mode in [0o664, 0o646] {
        set(&library, mode);
        assert!(message(open(&registry, "hostile://x")).contains("chmod go-w"));
        set(&library, 0o644);
        set(&file, mode);
        assert!(message(Registry::load(std::slice::from_ref(&file), &[])).contains("chmod go-w"));
        set(&file, 0o644);
    }
    for mode in [0o770, 0o777, 0o1777] {
        set(folder.path(), mode);
        assert!(message(open(&registry, "hostile://x")).contains("the folder can be written by others"));
    }
    set(folder.path(), 0o700);
    open(&registry, "hostile://x").unwrap();
}

#[test]
fn what_belongs_to_another_user_is_refused_needs_root() {
    let folder = misbehaving();
    let registry = folder.registry();
    std::os::unix::fs::chown(folder.path().join("bad.so"), Some(12345), None)
        .expect("giving a file away takes root: skip `needs_root` without it");
    let text = message(open(&registry, "hostile://x"));
    assert!(text.contains("belongs to user 12345"), "{text}");
}

#[test]
fn a_link_to_a_library_is_refused() {
    let folder = misbehaving();
    let registry = folder.registry();
    fs::rename(folder.path().join("bad.so"), folder.path().join("real.so")).unwrap();
    symlink("real.so", folder.path().join("bad.so")).unwrap();
    assert!(message(open(&registry, "hostile://x")).contains("symbolic link"));
}

#[test]
fn an_entry_without_a_pin_is_refused() {
    let folder = misbehaving();
    let file = folder.write("connectors.toml", entry("hostile", "bad.so", ""));
    let text = message(Registry::load(&[file], &[]));
    assert!(
        text.contains("connectors.toml:1: `blake3` is missing") && text.contains("plakar connector add"),
        "{text}"
    );
}

#[test]
fn another_layout_is_refused_before_anything_is_called() {
    let folder = Folder::new();
    folder.copy("plakar-hostile-wrong-abi", "wrong.so");
    folder.register("wrong", "wrong.so", "");
    let text = message(open(&folder.registry(), "wrong://x"));
    assert!(
        text.contains("another layout") && text.contains("plakar-plugin-api 1.x"),
        "{text}"
    );
}

#[test]
fn connectors_built_against_older_and_newer_boundaries_work() {
    for (name, abi) in [("older", "1.0"), ("newer", "1.7")] {
        let folder = Folder::new();
        let file = format!("{name}.so");
        folder.copy(&format!("plakar-hostile-{name}-abi"), &file);
        folder.register(name, &file, "");
        let registry = folder.registry();
        assert_eq!(registry.info(name).unwrap().abi, abi);
        let storage = registry
            .open(&format!("{name}://x"), &settings(&[]), &impatient())
            .unwrap();
        assert_eq!(storage.get("one", 0, 1).unwrap(), [7]);
        assert_eq!(storage.list("", "", 10).unwrap().objects[0].key, "one");
        let error = storage.stat("two").unwrap_err();
        assert!(error.message.contains("this is all there is"), "{error}");
        let kind = if name == "older" {
            StorageErrorKind::Cancelled
        } else {
            StorageErrorKind::Other
        };
        assert_eq!(error.kind, kind, "{name}");
    }
}

#[test]
fn a_library_replaced_between_two_loads_is_the_new_one() {
    let folder = Folder::new();
    for (package, name) in [
        ("older-abi", "older"),
        ("misbehaving", "misbehaving"),
        ("newer-abi", "newer"),
    ] {
        let path = folder.copy(&format!("plakar-hostile-{package}"), "same.so");
        assert_eq!(inspect(&path, &impatient()).unwrap().name, name);
    }
}

#[test]
fn the_order_in_which_connectors_are_loaded_does_not_matter() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let folder = Folder::new();
    for (round, order) in orders.into_iter().enumerate() {
        for number in order {
            let name = ["older-abi", "misbehaving", "newer-abi"][number];
            // A library of other bytes is another library: nothing is taken from what is loaded already.
            let mut bytes = fs::read(library(&format!("plakar-hostile-{name}"))).unwrap();
            bytes.extend(format!("round {round}").bytes());
            let path = folder.write(&format!("{name}-{round}.so"), bytes);
            assert_eq!(
                inspect(&path, &impatient()).map(|info| info.name).unwrap(),
                name.trim_end_matches("-abi")
            );
        }
    }
}

#[test]
fn inspecting_tells_what_a_library_is() {
    let path = misbehaving();
    let info = inspect(&path.path().join("bad.so"), &impatient()).unwrap();
    assert_eq!(
        (info.name.as_str(), info.version.as_str()),
        ("misbehaving", "1.2.3")
    );
    assert_eq!(info.schemes, ["hostile"]);
}
