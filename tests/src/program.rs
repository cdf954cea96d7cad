//! Finds the program beside the test that runs, and builds it when it is not there or older than its sources.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The program and the connector that it loads by itself.
const FILES: [&str; 2] = ["plakar", "libplakar_connector_fs.so"];

/// The program that belongs to the test that runs: same target folder, same profile.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().expect("a test knows its own path");
        let folder = test
            .ancestors()
            .nth(2)
            .expect("tests lie in target/PROFILE/deps")
            .to_owned();
        if is_stale(&folder) {
            build(&folder);
        }
        folder.join("plakar")
    })
}

/// Whether the program is missing or older than its sources: a test of an old program proves nothing.
fn is_stale(folder: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    let oldest = FILES
        .iter()
        .map(|file| modified(&folder.join(file)))
        .min_by_key(|time| time.as_ref().ok().copied());
    let Some(Ok(built)) = oldest else { return true };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests lie in the workspace");
    let mut folders: Vec<PathBuf> = ["core/src", "cli/src", "plugin-api/src", "connectors/fs/src"]
        .iter()
        .map(|path| workspace.join(path))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if modified(&path).is_ok_and(|time| time > built) {
                return true;
            }
        }
    }
    false
}

fn build(folder: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "-p",
        "plakar",
        "-p",
        "plakar-connector-fs",
        "--target-dir",
    ]);
    command.arg(folder.parent().expect("a profile lies in the target folder"));
    command.current_dir(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("tests lie in the workspace"),
    );
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let built = command.status().expect("cargo runs").success();
    assert!(
        built && FILES.iter().all(|file| folder.join(file).exists()),
        "cannot build the program in {folder:?}"
    );
}
