//! The `plakar` program: everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    give_memory_back();
    plakar_cli::main(std::env::args_os().skip(1).collect())
}

/// Has large buffers come from the system and go back to it at once.
///
/// Left alone, glibc raises its threshold to the largest buffer that was ever freed, keeps packs and frames in the arenas of all
/// threads, and a backup ends up with twice the memory that it uses.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "the allocator of the C library has no other way to be told"
)]
fn give_memory_back() {
    const LARGE_BYTES: libc::c_int = 1 << 20;
    // SAFETY: no other thread runs yet, and the call changes a number of the allocator. It fails without harm.
    let _accepted = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES) } == 1;
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_memory_back() {}
