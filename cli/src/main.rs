//! The `plakar` program: everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    plakar_cli::main(std::env::args_os().skip(1).collect())
}
