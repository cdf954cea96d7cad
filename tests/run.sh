#!/usr/bin/env bash
# Installs what the tests need, builds everything, runs every test, tries the installation, and lints.
#
#   bash tests/run.sh
#
# FUZZ_SECONDS is for how long each decoder is fuzzed (default 5, 0 leaves fuzzing out).
# PLAKAR_TEST_S3_ENDPOINT and its companions name another S3 server than Garage: see tests/src/s3_server.rs.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=tests/setup.sh
source "$root/tests/setup.sh"
cd "$root"

# Tests that mount, or give files away, take root. Root uses no library that others own, so it has a target folder of its own.
if [ "$(id -u)" -ne 0 ] && can_be_root; then
    cargo_home=${CARGO_HOME:-$HOME/.cargo}
    code=0
    elsewhere=()
    for name in "${!PLAKAR_TEST_S3_@}"; do
        elsewhere+=("$name=${!name}")
    done
    as_root env "PATH=$PATH" "HOME=$HOME" "CARGO_HOME=$cargo_home" "RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}" \
        "CARGO_TARGET_DIR=$(target_folder as-root)" "FUZZ_SECONDS=${FUZZ_SECONDS:-}" \
        "PLAKAR_TEST_GARAGE=${PLAKAR_TEST_GARAGE:-}" "${elsewhere[@]}" bash "$root/tests/run.sh" || code=$?
    as_root find "$cargo_home" -uid 0 -exec chown -h "$(id -u):$(id -g)" {} + || true
    exit "$code"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/plakar-tests.XXXXXX")
trap 'chmod -R u+rwx "$work" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
# Nothing of the user changes what the tests see.
export XDG_CONFIG_HOME=$work/config XDG_CACHE_HOME=$work/cache
unset "${!AWS_@}" "${!S3_REPOSITORY_@}"
export NO_PROXY=${NO_PROXY:+$NO_PROXY,}127.0.0.1,localhost
export no_proxy=$NO_PROXY
unset PLAKAR_REPOSITORY PLAKAR_PASSPHRASE PLAKAR_PEER_PASSPHRASE PLAKAR_TAGS

summary=()
step=
# begin STEP: says what is done, and ends the step before.
begin() {
    end
    step=$1
    SECONDS=0
    say "$step"
}
end() { [ -z "$step" ] || summary+=("$(printf '%4d s  %s' "$SECONDS" "$step")"); }
trap 'echo "run.sh: FAILED: ${step:-set-up}" >&2' ERR

begin "what the tests need"
need_compilers
need mount mount
need unshare util-linux
need script bsdutils
need setsid util-linux
# The server of the SFTP tests: started by them, on loopback, with files of its own.
PATH=$PATH:/usr/sbin need sshd openssh-server
need ssh-agent openssh-client
for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 && continue
    { command -v rustup && rustup component add "$component"; } >/dev/null 2>&1 ||
        fail "$component is missing: run \`rustup component add $component\`, then run this again"
done
cargo --version
cargo fetch --locked
need_garage

begin "build everything, bad plugins included"
cargo build --workspace --all-targets
export PLAKAR_TESTS_BUILT=1

begin "every test"
if [ "$(id -u)" -eq 0 ]; then
    cargo test --workspace --no-fail-fast
else
    echo "neither root nor sudo without a password: tests named needs_root are left out, others that need root will fail"
    cargo test --workspace --no-fail-fast -- --skip needs_root
fi

begin "plugin-api packages, and builds alone"
cargo package -q -p plakar-plugin-api --allow-dirty --no-verify
packages=$(target_folder package)
package=$(find "$packages" -maxdepth 1 -name 'plakar-plugin-api-*.crate' -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-)
tar -xzf "$package" -C "$work"
(cd "$work"/plakar-plugin-api-*/ && CARGO_TARGET_DIR=$(target_folder alone) cargo build --all-features)

begin "connectors by others"
bash tests/plugins.sh

fuzz_seconds=${FUZZ_SECONDS:-5}
if [ -f tests/fuzz/Cargo.toml ] && [ "$fuzz_seconds" -gt 0 ]; then
    begin "fuzz every decoder, $fuzz_seconds s each"
    need c++ g++
    # What \`cargo fuzz build --sanitizer none\` does, without having to install cargo-fuzz or a nightly compiler.
    fuzz_flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
    fuzz_flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
    fuzz_flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1"
    host=$(rustc -vV | sed -n 's/^host: //p')
    fuzz_target=$(target_folder fuzz)
    env RUSTFLAGS="$fuzz_flags" CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_TARGET_DIR="$fuzz_target" \
        cargo build --manifest-path tests/fuzz/Cargo.toml --release --bins --target "$host"
    while IFS= read -r source; do
        name=$(basename "$source" .rs)
        mkdir -p "$work/fuzz/$name"
        corpora=("$work/fuzz/$name")
        [ ! -d "tests/fuzz/corpus/$name" ] || corpora+=("tests/fuzz/corpus/$name")
        "$fuzz_target/$host/release/$name" -max_total_time="$fuzz_seconds" -rss_limit_mb=1024 -malloc_limit_mb=512 \
            -timeout=10 -artifact_prefix="$fuzz_target/$name-" "${corpora[@]}" >"$work/fuzz.log" 2>&1 ||
            { tail -n 40 "$work/fuzz.log" >&2 && fail "the decoder $name fails; its input was saved as $fuzz_target/$name-…"; }
        echo "$name: $(grep -E '^(Done|#[0-9]+.*DONE)' "$work/fuzz.log" | tail -n 1)"
    done < <(find tests/fuzz/fuzz_targets -maxdepth 1 -name '*.rs' | sort)
fi

begin "install, and use it with the source tree gone"
PREFIX=$work/prefix ./install.sh
# Another place, an empty environment, and nothing of the sources to be seen, where a mount can hide them.
mv "$work/prefix" "$work/moved"
cat >"$work/installed.sh" <<'SCRIPT'
set -euo pipefail
work=$1
shift
for folder in "$@"; do
    [ ! -d "$folder" ] || mount -t tmpfs none "$folder"
done
cd "$work/elsewhere"
plakar() { env -i HOME="$work/home" PLAKAR_PASSPHRASE=an-installed-program-7391 "$work/moved/bin/plakar" "$@"; }
plakar version
plakar connector list
plakar at "$work/backups" create
plakar at "$work/backups" backup "$work/moved/share"
plakar at "$work/backups" check
plakar at "$work/backups" restore -to "$work/restored"
diff -r "$work/moved/share" "$work/restored"
SCRIPT
mkdir -p "$work/home" "$work/elsewhere"
if unshare --mount true 2>/dev/null; then
    hidden=(unshare --mount)
elif unshare --map-root-user --mount true 2>/dev/null; then
    hidden=(unshare --map-root-user --mount)
else
    hidden=()
fi
places=("$root" "$(dirname "$(target_folder release)")")
[ ${#hidden[@]} -gt 0 ] || places=()
(cd / && "${hidden[@]}" bash "$work/installed.sh" "$work" "${places[@]}") >"$work/installed.log" 2>&1 ||
    { cat "$work/installed.log" >&2 && fail "the installed program does not work on its own"; }
grep -q "pinned in $work/moved/lib/plakar/connectors/connectors.toml" "$work/installed.log" ||
    { cat "$work/installed.log" >&2 && fail "the installed program does not use the connectors installed with it"; }
bash -n "$work/moved/share/bash-completion/completions/plakar"
for file in bin/plakar=755 lib/plakar/connectors/libplakar_connector_fs.so=644 lib/plakar/connectors/connectors.toml=644 \
    share/man/man1/plakar.1=644 share/zsh/site-functions/_plakar=644 share/fish/vendor_completions.d/plakar.fish=644; do
    [ "$(stat -c %a "$work/moved/${file%=*}")" = "${file#*=}" ] || fail "${file%=*} was not installed with mode ${file#*=}"
done
[ -z "$(find "$work/moved" -name '.plakar-install*')" ] || fail "the installation left its working folder behind"
echo "installed: works from another place with ${#places[@]} of its folders of origin hidden"

begin "lints"
cargo fmt --all --check
cargo clippy --workspace --all-targets -- -D warnings
bash -n install.sh examples/quickstart.sh tests/*.sh .ci/run
if command -v shellcheck >/dev/null; then
    shellcheck -x -P SCRIPTDIR -P . install.sh examples/quickstart.sh tests/*.sh .ci/run
fi
end
trap - ERR

say "done"
printf '%s\n' "${summary[@]}"
echo "tests/run.sh: OK: all tests and lints pass"
