//! The `plakar` program: everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    give_memory_back();
    plakar_cli::main(std::env::args_os().skip(1).collect())
}

/// Has large buffers come from the system and go back to it at once, and smaller ones stay for the next of their kind.
///
/// Left alone, glibc raises its first threshold to the largest buffer that was ever freed, keeps packs and frames in the arenas of all
/// threads, and a backup ends up with twice the memory that it uses. Its second threshold gives back a sealed frame as soon as it is
/// freed, and the next one of the thread costs a fault for each of its pages.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "the allocator of the C library has no other way to be told"
)]
fn give_memory_back() {
    const LARGE_BYTES: libc::c_int = 1 << 20;
    const KEPT_BYTES: libc::c_int = 4 << 20;
    for (option, bytes) in [
        (libc::M_MMAP_THRESHOLD, LARGE_BYTES),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
    ] {
        // SAFETY: no other thread runs yet, and the call changes a number of the allocator. It fails without harm.
        let _accepted = unsafe { libc::mallopt(option, bytes) } == 1;
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_memory_back() {}
