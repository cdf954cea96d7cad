//! The program that belongs to the test that runs.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::built;

/// The program, with the connector that it loads by itself: same target folder, same profile as the test.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built::packages(&["plakar", "plakar-connector-fs"]).join("plakar"))
}
