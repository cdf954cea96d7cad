#!/usr/bin/env bash
# Builds plakar and installs it: program, connectors and their registry, shell completions and manual pages.
#
#   PREFIX=~/.local ./install.sh
#
# Nothing is written outside PREFIX and cargo's target folder. The installed program needs neither this source tree nor
# configuration. Each file is put in its place in one step, so a program that is running goes on undisturbed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=tests/setup.sh
source "$root/tests/setup.sh"

[ $# -eq 0 ] || fail "it takes no arguments; the place is given as in \`PREFIX=~/.local ./install.sh\`"
prefix=${PREFIX:-${HOME:?neither PREFIX nor HOME is set}/.local}
mkdir -p "$prefix" 2>/dev/null || fail "$prefix cannot be created"
[ -w "$prefix" ] || fail "$prefix is not writable; choose another PREFIX, or run this as root"
prefix=$(cd "$prefix" && pwd -P)

need_compilers
connectors=()
for manifest in "$root"/connectors/*/Cargo.toml; do
    connectors+=("$(basename "$(dirname "$manifest")")")
done

say "building plakar and its connectors (${connectors[*]})"
(cd "$root" && cargo build --release --locked -p plakar "${connectors[@]/#/-pplakar-connector-}")
built=$(target_folder release)

# Everything is made in one folder on the same file system, then moved file by file.
stage=$(mktemp -d "$prefix/.plakar-install.XXXXXX")
trap 'rm -rf "$stage"' EXIT
trap 'exit 130' INT TERM

# Debugging information goes, where `strip` is there.
stripped() {
    install -m "$1" "$2" "$3"
    strip --strip-"$4" "$3" 2>/dev/null || true
}

mkdir -p "$stage"/{bin,lib/plakar/connectors,share/man/man1,share/zsh/site-functions,home} \
    "$stage"/share/bash-completion/completions "$stage"/share/fish/vendor_completions.d
stripped 0755 "$built/plakar" "$stage/bin/plakar" all
plakar() { env -u PLAKAR_REPOSITORY HOME="$stage/home" XDG_CONFIG_HOME="$stage/home" "$stage/bin/plakar" "$@"; }

# The registry: the program itself loads each connector and pins what it is. Beside its registry a library has no path.
registry=$stage/lib/plakar/connectors/connectors.toml
for name in "${connectors[@]}"; do
    library=libplakar_connector_$name.so
    stripped 0644 "$built/$library" "$stage/lib/plakar/connectors/$library" unneeded
    plakar -connectors "$registry" connector add "$stage/lib/plakar/connectors/$library" >/dev/null ||
        fail "$library could not be registered"
done
{
    echo "# The connectors that come with plakar, pinned when they were installed. Written anew by each installation:"
    echo "# register your own with \`plakar connector add FILE\`."
    sed "s|^library = .*/\\(libplakar_connector_[^/]*\\)[\"']\$|library = \"\\1\"|" "$registry"
} >"$stage/registry"
! grep -q "^library = [\"']/" "$stage/registry" || fail "the registry names a library by its path"
mv -f "$stage/registry" "$registry"

plakar man "$stage/share/man/man1" >/dev/null
plakar completions bash >"$stage/share/bash-completion/completions/plakar"
plakar completions zsh >"$stage/share/zsh/site-functions/_plakar"
plakar completions fish >"$stage/share/fish/vendor_completions.d/plakar.fish"
rm -rf "${stage:?}/home"
find "$stage" -mindepth 1 -type d -exec chmod 0755 {} +
find "$stage" -type f ! -path "$stage/bin/*" -exec chmod 0644 {} +

say "installing in $prefix"
# The registry after its libraries, the program last: whoever starts it finds the rest in place.
files=$(cd "$stage" && find lib share -type f ! -name connectors.toml && find lib -name connectors.toml && find bin -type f)
while IFS= read -r file; do
    mkdir -p "$prefix/$(dirname "$file")"
    mv -f "$stage/$file" "$prefix/$file" || fail "$prefix/$file could not be written"
    echo "$prefix/$file"
done <<<"$files"

version=$(env -u PLAKAR_REPOSITORY "$prefix/bin/plakar" version | head -n 1)
echo
echo "install: $version is in $prefix"
case ":$PATH:" in
*":$prefix/bin:"*) ;;
*) echo "install: add it to the path: export PATH=\"$prefix/bin:\$PATH\"" ;;
esac
