//! Sees to it that what a test runs or loads is built, and from the sources that stand here: a test of an old library proves nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use plakar_core::plugin::{PluginError, Registry};

/// Set by whoever has just built the whole workspace: then nothing is built again. Single packages are built with other features of
/// their dependencies than all together, which would take minutes.
const BUILT: &str = "PLAKAR_TESTS_BUILT";

/// Builds packages beside the test that runs (same target folder, same profile) unless all is built, and gives the folder with their
/// programs and libraries.
pub fn packages(packages: &[&str]) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let folder = test
        .ancestors()
        .nth(2)
        .expect("tests lie in target/PROFILE/deps")
        .to_owned();
    if std::env::var_os(BUILT).is_none() {
        build(&folder, packages);
    }
    for package in packages {
        let (library, program) = (format!("lib{}.so", package.replace('-', "_")), *package);
        assert!(
            folder.join(&library).exists() || folder.join(program).exists(),
            "{BUILT} is set, but neither {library} nor {program} is in {}",
            folder.display()
        );
    }
    folder
}

/// The connectors that were built beside the program that runs.
pub fn connectors_beside() -> Result<Registry, PluginError> {
    let program = std::env::current_exe().expect("a program knows its own path");
    let folder = program.parent().expect("it lies in a folder");
    Registry::load(&[], &[folder.to_owned()])
}

fn build(folder: &Path, packages: &[&str]) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .parent()
                .expect("tests lie in the workspace"),
        )
        .args(["build", "--quiet", "--target-dir"])
        .arg(folder.parent().expect("a profile lies in the target folder"));
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    for package in packages {
        cargo.args(["-p", package]);
    }
    assert!(
        cargo.status().expect("cargo runs").success(),
        "{packages:?} cannot be built"
    );
}
