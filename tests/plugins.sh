#!/usr/bin/env bash
# What somebody else's connector goes through: the walk in the README of plugin-api against the packaged crate, the examples, every
# command on a third-party storage, and the plugin boundary as it was frozen at 1.0.0.
#
#   bash tests/plugins.sh
#
# It builds what it needs below the target folder, and changes nothing of the user's.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=tests/setup.sh
source "$root/tests/setup.sh"
cd "$root"

need_compilers
need git git
need python3 python3-minimal
need diff diffutils

cargo_home=${CARGO_HOME:-$HOME/.cargo}
work=$(mktemp -d "${TMPDIR:-/tmp}/plakar-plugins.XXXXXX")
# What cargo keeps of the registry of this run, by the name of its folder.
clean_up() {
    rm -rf "$cargo_home"/registry/{index,cache,src}/"$(basename "$work")"-*
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
step="set-up"
trap 'echo "plugins.sh: FAILED: $step" >&2' ERR
begin() {
    step=$1
    say "$step ($SECONDS s)"
}

target=$(target_folder plugins)
unset PLAKAR_REPOSITORY PLAKAR_PEER_PASSPHRASE PLAKAR_TAGS CARGO_TARGET_DIR
export PLAKAR_PASSPHRASE=somebody-elses-connector-4417
export XDG_CONFIG_HOME XDG_CACHE_HOME CARGO_HOME=$cargo_home RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
# Another user, who has nothing yet: new_home NAME.
new_home() {
    export HOME=$work/$1
    XDG_CONFIG_HOME=$HOME/config XDG_CACHE_HOME=$HOME/cache
    mkdir -p "$HOME"
}
# says TEXT COMMAND...: the command works, and what it prints has the text.
says() {
    local text=$1
    shift
    "$@" >"$work/output" 2>&1 || { cat "$work/output" >&2 && fail "\`$*\` failed"; }
    grep -qF -- "$text" "$work/output" || { cat "$work/output" >&2 && fail "\`$*\` does not say \"$text\""; }
}
# refuses CODE TEXT COMMAND...: the command ends with that exit code and one line that has the text.
refuses() {
    local wanted=$1 text=$2 code=0
    shift 2
    "$@" >"$work/output" 2>&1 || code=$?
    if [ "$code" -ne "$wanted" ] || ! grep -qF -- "$text" "$work/output" || grep -q panicked "$work/output"; then
        cat "$work/output" >&2
        fail "\`$*\` ended with $code; it should end with $wanted and say \"$text\""
    fi
}

begin "plakar"
# Unless all was just built together: alone, the same sources are compiled once more.
if [ -z "${PLAKAR_TESTS_BUILT:-}" ]; then
    CARGO_TARGET_DIR=${target%/plugins} cargo build -q --locked -p plakar -p plakar-connector-fs -p plakar-connector-sftp \
        -p plakar-connector-s3 -p plakar-hostile-odd-scheme -p plakar-hostile-wrong-abi
fi
program=${target%/plugins}/debug
PATH=$program:$PATH

begin "the packaged plugin-api, in a registry of its own"
CARGO_TARGET_DIR=$target cargo package -q -p plakar-plugin-api --allow-dirty --no-verify
mkdir -p "$work/crates" "$work/index"
package=$(find "$target/package" -maxdepth 1 -name 'plakar-plugin-api-*.crate' -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-)
cp "$package" "$work/crates"
tar -xzf "$package" -C "$work"
python3 - "$work" "$work/crates/$(basename "$package")" <<'PYTHON'
import hashlib, json, pathlib, subprocess, sys

work, package = map(pathlib.Path, sys.argv[1:])
manifest = work / package.stem / "Cargo.toml"
metadata = subprocess.check_output(["cargo", "metadata", "--no-deps", "--format-version=1", "--manifest-path", manifest])
crate = json.loads(metadata)["packages"][0]
entry = {
    "name": crate["name"], "vers": crate["version"], "v": 2, "features": {}, "features2": crate["features"],
    "cksum": hashlib.sha256(package.read_bytes()).hexdigest(), "yanked": False,
    "deps": [{
        "name": one["name"], "req": one["req"], "features": one["features"], "optional": one["optional"],
        "default_features": one["uses_default_features"], "target": one["target"], "kind": one["kind"] or "normal",
        "registry": "https://github.com/rust-lang/crates.io-index",
    } for one in crate["dependencies"] if one["kind"] != "dev"],
}
name = crate["name"]
file = work / "index" / name[:2] / name[2:4] / name
file.parent.mkdir(parents=True)
file.write_text(json.dumps(entry) + "\n")
(work / "index" / "config.json").write_text(json.dumps({"dl": f"file://{work}/crates/{{crate}}-{{version}}.crate"}))
PYTHON
mv "$work/index" "$work/$(basename "$work")"
index=$work/$(basename "$work")
git -C "$index" init -q
git -C "$index" add .
git -C "$index" -c user.name=tests -c user.email=tests@localhost commit -q -m index

begin "the walk through the README of plugin-api, from an empty folder"
new_home walk
# The page as a script: shell blocks as they are, other blocks as the files that the line before them names.
python3 - "$work"/plakar-plugin-api-*/README.md >"$work/walk.sh" <<'PYTHON'
import re, sys

lines = iter(open(sys.argv[1], encoding="utf-8").read().split("## What to know")[0].splitlines())
file, blocks = None, 0
print("set -euxo pipefail")
for line in lines:
    if re.search(r"`[^`]+\.(rs|toml)`", line):
        file = re.findall(r"`([^`]+\.(?:rs|toml))`", line)[-1]
    if not line.startswith("```"):
        continue
    language, block = line[3:], []
    for inner in lines:
        if inner == "```":
            break
        block.append(inner)
    blocks += 1
    if language == "sh":
        print("\n".join(block))
    else:
        print(f"mkdir -p \"$(dirname {file})\"")
        print(f"cat {'>>' if file.endswith('.toml') else '>'}{file} <<'END-OF-BLOCK'")
        print("\n".join(block) + "\nEND-OF-BLOCK")
assert blocks >= 6, f"only {blocks} blocks"
PYTHON
# Another run's crate has the same name and version, and other bytes.
find "$target/walk" -depth -name '*plakar*' -exec rm -rf {} + 2>/dev/null || true
begun=$SECONDS
(
    cd "$HOME"
    export CARGO_REGISTRIES_WALK_INDEX="file://$index" CARGO_REGISTRY_DEFAULT=walk CARGO_BUILD_BUILD_DIR="$target/walk"
    bash "$work/walk.sh"
) >"$work/walk.log" 2>&1 || { cat "$work/walk.log" >&2 && fail "the walk through plugin-api/README.md ends in an error"; }
diff -r "$HOME/plakar-connector-shelf/src" "$HOME/restored"
grep -q "behaviours" "$work/walk.log" || fail "the walk ran no suite"
grep -q 'registry+file://' "$HOME/plakar-connector-shelf/Cargo.lock" || fail "the walk did not use the packaged crate"
[ "$(find "$HOME/backups/packs" -type f | wc -l)" -gt 0 ] || fail "the shelf that the walk made holds no packs"
template=examples/connector-template
for file in src/lib.rs tests/conformance.rs; do
    diff "$template/$file" "$HOME/plakar-connector-shelf/$file" || fail "$template/$file is not what the README says"
done
echo "from \`cargo new\` to a restored backup in $((SECONDS - begun)) s of machine time"

begin "the examples pass their own tests"
CARGO_TARGET_DIR=$target/examples cargo test -q --locked --manifest-path "$template/Cargo.toml"
tests=()
[ "$(id -u)" -eq 0 ] || tests=(-- --skip needs_root)
CARGO_TARGET_DIR=$target/examples cargo test -q --locked --manifest-path examples/connector-sqlite/Cargo.toml "${tests[@]}"
CARGO_TARGET_DIR=$target/examples cargo build -q --locked --manifest-path examples/connector-sqlite/Cargo.toml
sqlite=$target/examples/debug/libplakar_connector_sqlite.so

begin "a third party's storage: added, checked, used by every command"
new_home sqlite
file=$HOME/one.db
location=sqlite://$file
refuses 69 "unknown scheme \`sqlite\`" plakar at "$location" create
grep -q "known are file, fs.*add one with \`plakar connector add FILE\`" "$work/output" || fail "it does not say what is known"
says "Schemes: sqlite" plakar connector add "$sqlite"
says "connector: added in $HOME/config/plakar/connectors.toml" plakar connector add "$sqlite"
grep -q "^blake3 = \"[0-9a-f]\{64\}\"$" "$HOME/config/plakar/connectors.toml"
[ "$(grep -c '^\[\[connector\]\]' "$HOME/config/plakar/connectors.toml")" -eq 1 ] || fail "adding twice made two entries"
says "Version: 0.3.0" plakar connector show sqlite
says "sqlite $sqlite pinned in $HOME/config/plakar/connectors.toml" plakar connector list
refuses 78 "after \`//\` comes an absolute path" plakar at sqlite://relative.db create
refuses 66 "one.db" plakar at "$location" ls

mkdir -p "$HOME/source/sub"
cp -r core/src "$HOME/source/code"
head -c 30000000 /dev/urandom >"$HOME/source/big"
ln "$HOME/source/big" "$HOME/source/sub/linked"
plakar at "$location" create >/dev/null
[ "$(stat -c %a "$file")" = 600 ] || fail "others can read the database"
refuses 73 "one.db" plakar at "$location" create
says "backup: created" plakar at "$location" backup "$HOME/source"
says "$HOME/source" plakar at "$location" ls
snapshot=$(plakar at "$location" ls | cut -d' ' -f2)
says "big" plakar at "$location" ls "$snapshot"
plakar at "$location" cat "$snapshot:big" | cmp - "$HOME/source/big"
says "completed successfully" plakar at "$location" check
says "$location" plakar at "$location" info
says "" env PLAKAR_NEW_PASSPHRASE=another-passphrase-8831 plakar at "$location" passphrase add
says "completed successfully" env PLAKAR_PASSPHRASE=another-passphrase-8831 plakar at "$location" check "$snapshot"
refuses 77 "passphrase" env PLAKAR_PASSPHRASE=wrong plakar at "$location" ls
says "completed successfully" plakar at "$location" restore -to "$HOME/restored" "$snapshot"
diff -r "$HOME/source" "$HOME/restored"
# Two programs that write at once, and one that reads.
for number in 1 2; do
    mkdir "$HOME/source-$number"
    head -c 20000000 /dev/urandom >"$HOME/source-$number/other"
    plakar at "$location" backup "$HOME/source-$number" >"$work/backup-$number" 2>&1 &
    backups[number]=$!
done
plakar at "$location" check "$snapshot" >/dev/null
for number in 1 2; do
    wait "${backups[number]}" || { cat "$work/backup-$number" >&2 && fail "one of two backups at once failed"; }
done
[ "$(plakar at "$location" ls | wc -l)" -eq 3 ] || fail "two backups at once did not make two snapshots"
says "completed successfully" plakar at "$location" check
[ "$(find "$HOME" -maxdepth 1 -name 'one.db*' | wc -l)" -eq 1 ] || fail "there is more than one file"
echo "not a database, but a file of some length" >"$HOME/text.db"
refuses 78 "is no SQLite database" plakar at "sqlite://$HOME/text.db" ls

begin "connector check: every connector there is, through the boundary"
mkdir "$HOME/folder"
says "conforms in" plakar connector check "$location"
[ "$(plakar at "$location" ls | wc -l)" -eq 3 ] || fail "the check changed the repository"
says "conforms in" plakar connector check "$HOME/folder"
[ -z "$(grep -v '^✓ ' "$work/output" | grep -v '^connector:')" ] || { cat "$work/output" && fail "a verdict is missing"; }
plakar -json connector check "$HOME/folder" >"$work/output"
python3 - "$work/output" <<'PYTHON'
import json, sys

verdicts = [json.loads(line) for line in open(sys.argv[1])]
verdicts, last = verdicts[:-1], verdicts[-1]
assert all(one["outcome"] == "pass" and one["duration_nanoseconds"] >= 0 for one in verdicts), verdicts
assert last["behaviours"] == len(verdicts) >= 28 and last["failed"] == 0, last
for words in ("readable as soon", "listed as soon", "all of an object or nothing", "ranges", "byte order", "pages", "durable",
              "Create leaves", "many threads", "cancelled", "as large as a pack", "valid key", "while others write", "init"):
    assert any(words in one["behaviour"] for one in verdicts), words
PYTHON
refuses 66 "" plakar connector check "$HOME/nowhere"

begin "connectors that are not what they should be"
changed=$HOME/changed.so
cp "$sqlite" "$changed"
plakar connector add "$changed" >/dev/null
printf x >>"$changed"
refuses 69 "its BLAKE3 is" plakar at "$location" ls
rm "$changed"
refuses 69 "changed.so" plakar at "$location" ls
says "connector: removed sqlite" plakar connector remove sqlite
refuses 1 "no connector serves \`sqlite\`" plakar connector remove sqlite
# By its library, and by the name it gives itself; a scheme that another takes over is told.
plakar connector add "$sqlite" >/dev/null
name=$(plakar connector show sqlite | sed -n 's/^Name: //p')
says "Schemes: sqlite" plakar connector show "$name"
refuses 69 "unknown scheme \`no-such-name\`" plakar connector show no-such-name
says "which served sqlite" plakar connector remove "$(basename "$sqlite")"
plakar connector add "$sqlite" >/dev/null
cp "$sqlite" "$changed"
says "connector: $sqlite no longer serves sqlite" plakar connector add "$changed"
sed -i 's/schemes = \["sqlite"\]/schemes = ["sqlite", "other"]/' "$HOME/config/plakar/connectors.toml"
says "connector: $changed no longer serves sqlite" plakar connector add "$sqlite"
says "other $changed pinned" plakar connector list
says "connector: removed $name, which served sqlite" plakar connector remove "$name"
says "connector: removed $name, which served other" plakar connector remove "$name"
refuses 1 "or is called so" plakar connector remove "$name"
refuses 69 "unknown scheme" plakar at "$location" ls
refuses 69 "cannot be the scheme of a URL" plakar connector add "$program/libplakar_hostile_odd_scheme.so"
refuses 69 "another layout" plakar connector add "$program/libplakar_hostile_wrong_abi.so"
refuses 69 "not a shared library" plakar connector add "$root/install.sh"
refuses 1 "nothing.so" plakar connector add "$HOME/nothing.so"
mkdir -m 777 "$HOME/open"
cp "$sqlite" "$HOME/open/x.so"
refuses 69 "can be written by others" plakar connector add "$HOME/open/x.so"
says "file,fs" plakar connector list

begin "the boundary as it was frozen at 1.0.0"
new_home frozen
CARGO_TARGET_DIR=$target/frozen cargo build -q --locked --manifest-path tests/fixtures/plugin-api-1.0.0/Cargo.toml
plakar connector add "$target/frozen/debug/libplakar_frozen_connector.so" >/dev/null
says "Plugin ABI: 1.0" plakar connector show frozen
mkdir "$HOME/try"
says "conforms in" plakar connector check "frozen://$HOME/try"
plakar at "frozen://$HOME/backups" create >/dev/null
says "backup: created" plakar at "frozen://$HOME/backups" backup "$root/cli/src"
says "completed successfully" plakar at "frozen://$HOME/backups" restore -to "$HOME/restored"
diff -r "$root/cli/src" "$HOME/restored"
# Today's connectors in the program of then; those of servers are only loaded.
shelf=$work/walk/plakar-connector-shelf/target/release/libplakar_connector_shelf.so
for pair in "$program/libplakar_connector_fs.so=fs://$HOME/fs" "$sqlite=sqlite://$HOME/x.db" "$shelf=shelf://$HOME/shelf"; do
    says "${pair#*=} works" "$target/frozen/debug/plakar-frozen-host" "${pair%%=*}" "${pair#*=}"
done
for name in sftp s3; do
    says "serves [\"$name\"]" "$target/frozen/debug/plakar-frozen-host" "$program/libplakar_connector_$name.so"
done
refuses 1 "another layout" "$target/frozen/debug/plakar-frozen-host" "$program/libplakar_hostile_wrong_abi.so"

say "done ($SECONDS s)"
echo "tests/plugins.sh: OK: the walk, the examples, a storage by somebody else, and the boundary of 1.0.0"
