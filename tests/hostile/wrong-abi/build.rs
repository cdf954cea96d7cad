//! Makes the types here appear, to the layout check, as those of the plugin boundary: it compares package names first,
//! and the test is about layouts.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=CARGO_PKG_NAME=plakar-plugin-api");
}
