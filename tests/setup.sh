# shellcheck shell=bash
# What the scripts of this repository share: messages, missing packages, and where cargo and its target folder are.
# It is read by them (`source`), not run. It never asks anything.

exec </dev/null
umask 022
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Runs something as root, without a question.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

can_be_root() {
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

# Installs Debian packages. Gives 1 when that cannot be done here.
install_packages() {
    command -v apt-get >/dev/null && can_be_root || return 1
    printf '+ apt-get install %s\n' "$*"
    local quietly=(apt-get -qq -y -o Dpkg::Use-Pty=0)
    as_root "${quietly[@]}" install --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    as_root "${quietly[@]}" update >/dev/null || true
    as_root env DEBIAN_FRONTEND=noninteractive "${quietly[@]}" install --no-install-recommends "$@" >/dev/null
}

# need PROGRAM PACKAGE...: sees to it that a program is there.
need() {
    local program=$1
    shift
    command -v "$program" >/dev/null && return 0
    install_packages "$@" && command -v "$program" >/dev/null && return 0
    fail "$program is missing and could not be installed: as root, run \`apt-get install $*\`, then run this again"
}

# Cargo and a C compiler, for the C code of zstd and for linking.
need_compilers() {
    if ! command -v cargo >/dev/null && [ -r "${CARGO_HOME:-${HOME:-/root}/.cargo}/env" ]; then
        # shellcheck source=/dev/null
        source "${CARGO_HOME:-${HOME:-/root}/.cargo}/env"
    fi
    command -v cargo >/dev/null || fail "cargo is missing: install Rust 1.95 or newer from https://rustup.rs, then run this again"
    need cc gcc libc6-dev
    if ! printf '#include <stdlib.h>\nint main(void) { return 0; }\n' | cc -x c -o /dev/null - 2>/dev/null; then
        install_packages gcc libc6-dev || fail "the C compiler does not work: as root, run \`apt-get install gcc libc6-dev\`"
    fi
}

# The target folder of a profile (`debug`, `release`), as cargo sees it from the repository's root.
target_folder() {
    local folder=${CARGO_TARGET_DIR:-$root/target}
    [[ $folder = /* ]] || folder=$root/$folder
    printf '%s/%s\n' "$folder" "$1"
}

# The S3 server of the tests: built once into the target folder, and kept there. Sets PLAKAR_TEST_GARAGE.
need_garage() {
    local version=2.5.0 tools program
    tools=$(target_folder tools)
    for program in "${PLAKAR_TEST_GARAGE:-}" "$tools/bin/garage" "$(command -v garage || true)"; do
        [ -n "$program" ] && "$program" --version >/dev/null 2>&1 || continue
        export PLAKAR_TEST_GARAGE=$program
        return 0
    done
    echo "building the S3 server garage $version, once (some minutes)"
    CARGO_PROFILE_DEV_DEBUG=0 cargo install garage --quiet --locked --version "$version" --debug --no-default-features \
        --features sqlite,bundled-libs --root "$tools" --target-dir "$tools/garage-build" ||
        fail "the S3 server garage cannot be built: install garage $version, put it on the PATH or name it in PLAKAR_TEST_GARAGE, then run this again"
    rm -rf "$tools/garage-build"
    export PLAKAR_TEST_GARAGE=$tools/bin/garage
}
