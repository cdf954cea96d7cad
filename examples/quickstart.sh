#!/usr/bin/env bash
# Backs up a real folder into a temporary repository, lists, checks and restores it, and compares the two trees byte for byte
# and by metadata.
#
#   bash examples/quickstart.sh [FOLDER]...      default: the sources of plakar, and /etc for root
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=tests/setup.sh
source "$root/tests/setup.sh"

# Left out of the default folder and of the comparison: what builds leave behind.
ignore=target

folders=()
for folder in "$@"; do
    [ -d "$folder" ] || fail "$folder is not a folder"
    folders+=("$(cd "$folder" && pwd -P)")
done
if [ ${#folders[@]} -eq 0 ]; then
    folders=("$root")
    [ "$(id -u)" -ne 0 ] || folders+=(/etc)
fi

need_compilers
need find findutils
need diff diffutils

say "building plakar and its connector for folders"
(cd "$root" && cargo build --release --locked -p plakar -p plakar-connector-fs)
PATH=$(target_folder release):$PATH

work=$(mktemp -d "${TMPDIR:-/tmp}/plakar-quickstart.XXXXXX")
trap 'chmod -R u+rwx "$work" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
# Nothing of the user is read or changed: no configuration, no caches.
export XDG_CONFIG_HOME=$work/config XDG_CACHE_HOME=$work/cache
export PLAKAR_PASSPHRASE=${PLAKAR_PASSPHRASE:-correct-horse-battery-staple-$RANDOM$RANDOM}
repository=$work/backups

# Shows a command as one would type it, and runs it. Long output is shown in part, `$work/output` has all of it.
run() {
    printf '\n$'
    printf ' %q' "$@"
    echo
    local code=0
    "$@" >"$work/output" || code=$?
    if [ "$(wc -l <"$work/output")" -gt 12 ]; then
        head -n 4 "$work/output"
        echo "  … $(($(wc -l <"$work/output") - 8)) lines more"
        tail -n 4 "$work/output"
    else
        cat "$work/output"
    fi
    [ "$code" -eq 0 ] || fail "\`$1 ${*:2:3} …\` failed with exit code $code"
}

# One record for each item below a folder: name, kind, mode, owner, times in nanoseconds, size, link target.
# The size of a folder is the file system's own affair.
listing() {
    local owner=' %U:%G'
    [ "$(id -u)" -eq 0 ] || owner='' # only root can give files away
    (cd "$1" && find . -name "$ignore" -prune -o \
        -type d -printf "%P %y %m$owner %T@\\0" -o \
        -printf "%P %y %m$owner %T@ %s %l\\0") | sort -z | tr '\0' '\n'
}

attributes() {
    (cd "$1" && find . -name "$ignore" -prune -o -print0 | sort -z |
        xargs -0 -r getfattr --no-dereference --dump --match=- --encoding=hex -- 2>/dev/null) || true
}

compare() {
    local from=$1 to=$2
    # diff calls two FIFOs, sockets or devices different, whatever they are: those are compared by their metadata.
    diff -r --no-dereference --exclude="$ignore" "$from" "$to" >"$work/differences" 2>&1 || true
    grep -Ev '^File .* is a (fifo|socket|character special file|block special file) while file .* is a \1$' \
        "$work/differences" >"$work/contents" || true
    if [ -s "$work/contents" ]; then
        head -n 20 "$work/contents" >&2
        fail "the contents of $from and what was restored differ"
    fi
    if ! diff <(listing "$from") <(listing "$to") >"$work/differences"; then
        head -n 20 "$work/differences" >&2
        fail "the metadata of $from and of what was restored differ"
    fi
    if command -v getfattr >/dev/null && ! diff <(attributes "$from") <(attributes "$to") >"$work/differences"; then
        head -n 20 "$work/differences" >&2
        fail "the extended attributes of $from and of what was restored differ"
    fi
    items=$((items + $(listing "$to" | wc -l)))
}

say "the quick start"
run plakar version
run plakar at "$repository" create

items=0
number=0
for folder in "${folders[@]}"; do
    number=$((number + 1))
    restored=$work/restored-$number
    say "$folder"
    run plakar at "$repository" backup -ignore "$ignore" "$folder"
    # "backup: created unsigned snapshot 9abc3294 of size …"
    snapshot=$(sed -n 's/^backup: created .*snapshot \([0-9a-f]\{4,\}\) .*/\1/p' "$work/output")
    [ -n "$snapshot" ] || fail "the backup of $folder did not say which snapshot it made"
    run plakar at "$repository" ls
    run plakar at "$repository" ls "$snapshot"
    run plakar at "$repository" check "$snapshot"
    run plakar at "$repository" restore -to "$restored" "$snapshot"
    compare "$folder" "$restored"
    echo "compared: $folder and $restored are the same"

    before=$(du -sk "$repository" | cut -f1)
    run plakar at "$repository" backup -ignore "$ignore" "$folder"
    echo "the second backup of $folder took $(($(du -sk "$repository" | cut -f1) - before)) KiB more in the repository"
done
run plakar at "$repository" info
run plakar at "$repository" check

echo
echo "quickstart: OK: ${folders[*]} backed up, listed, checked and restored; $items items are the same, byte for byte and by metadata"
