#!/usr/bin/env bash
# Compares plakar with whatever is installed among restic, rustic, borg, `tar | zstd -3 -T2` and `cp -a`, in turns in one run.
#
#   tests/bench.sh [CORPUS]     a folder; it is copied, not touched. Default: the sources of Linux 6.1, a Debian package
#   tests/bench.sh --scale      plakar alone: a 10 GB file, 1,000,000 small files, 200,000 entries in one folder, an index of 100,000,000 blobs
#   tests/bench.sh --remote [CORPUS]   plakar and restic, over SFTP and S3, and 256 MiB by OpenSSH's sftp and by our connector
#
#   REPEAT=3                    how many turns
#   BENCH_DIR=/dev/shm          where everything is kept: a tmpfs, because disks vary more than programs do
#   ROUND_TRIPS="0 20 50"       how far away the servers are, in ms there and back
#   BENCH_RESULTS=bench-results.md   (bench-results-scale.md, bench-results-remote.md)
#   BENCH_TOOLS="plakar restic" only these; PLAKAR=/path/to/plakar instead of building it
#
# Figures compare within one run only. Memory is the peak of the largest process, as the kernel counts it.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=tests/setup.sh
source "$root/tests/setup.sh"

scale=false
remote=false
corpus=
for argument in "$@"; do
    case $argument in
    --scale) scale=true ;;
    --remote) remote=true ;;
    -*) fail "unknown option $argument; see the top of $0" ;;
    *) corpus=$argument ;;
    esac
done
[ -z "$corpus" ] || corpus=$(cd "$corpus" 2>/dev/null && pwd -P) || fail "$corpus is not a folder"
repeat=${REPEAT:-3}
[[ $repeat =~ ^[1-9][0-9]*$ ]] || fail "REPEAT must be a number from 1, not $repeat"
results=$root/bench-results.md
if $scale; then results=$root/bench-results-scale.md; fi
if $remote; then results=$root/bench-results-remote.md; fi
results=${BENCH_RESULTS:-$results}

need python3 python3-minimal
if [ -z "${PLAKAR:-}" ]; then
    need_compilers
    say "building plakar"
    packages=(-p plakar -p plakar-connector-fs)
    ! $remote || packages+=(-p plakar-connector-sftp -p plakar-connector-s3)
    if $remote || $scale; then packages+=(-p plakar-testkit); fi
    (cd "$root" && cargo build --release --locked "${packages[@]}")
    PLAKAR=$(target_folder release)/plakar
elif $remote || $scale; then
    (cd "$root" && cargo build --release --locked -p plakar-testkit -p plakar-connector-fs -p plakar-connector-sftp)
fi
TOOLS=$(target_folder release)
[ -x "$PLAKAR" ] || fail "$PLAKAR is not a program"

mkdir -p "${BENCH_DIR:=/dev/shm}"
work=$(mktemp -d "$BENCH_DIR/plakar-bench.XXXXXX")
trap 'chmod -R u+rwx "$work" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

export HOME=$work/home XDG_CONFIG_HOME=$work/home/config XDG_CACHE_HOME=$work/cache
export PLAKAR_PASSPHRASE=bench-of-backup-programs-5582
export RESTIC_PASSWORD=$PLAKAR_PASSPHRASE RUSTIC_PASSWORD=$PLAKAR_PASSPHRASE BORG_PASSPHRASE=$PLAKAR_PASSPHRASE
export BORG_BASE_DIR=$work/home/borg BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes
mkdir -p "$HOME" "$XDG_CACHE_HOME"
unset PLAKAR_REPOSITORY PLAKAR_TAGS

# The megabytes that may be used: a tmpfs can promise more than there is memory.
free_megabytes() {
    local there memory
    there=$(df -BM --output=avail "$work" | tail -n 1 | tr -dc 0-9)
    if [ "$(stat -f -c %T "$work")" = tmpfs ]; then
        memory=$(($(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1024 - 2048))
        [ "$memory" -ge "$there" ] || there=$memory
    fi
    echo "$there"
}

# measure TOOL STEP COMMAND...: runs it in the current folder and notes seconds, processor seconds and peak memory.
measure() {
    local tool=$1 operation=$2
    shift 2
    python3 - "$work/records" "$tool" "$operation" "$@" <<'PYTHON' || fail "$tool failed at \"$operation\": $*"
import os, sys, time
records, tool, operation, *command = sys.argv[1:]
begun = time.monotonic()
child = os.fork()
if child == 0:
    out = os.open(records + ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error}\n".encode())
    os._exit(127)
_, status, usage = os.wait4(child, 0)
wall = time.monotonic() - begun
code = os.waitstatus_to_exitcode(status)
if code != 0:
    with open(records + ".log", errors="replace") as log:
        sys.stderr.write("".join(log.readlines()[-10:]))
    sys.exit(1)
cpu = usage.ru_utime + usage.ru_stime
with open(records, "a") as out:
    out.write(f"{tool}\t{operation}\t{wall}\t{cpu}\t{usage.ru_maxrss / 1024}\n")
print(f"  {tool:12} {operation:18} {wall:8.2f} s  {cpu:8.2f} s CPU  {usage.ru_maxrss / 1024:7.0f} MB", flush=True)
PYTHON
}

# note TOOL WHAT NUMBER: something else to be shown, as the size of a repository.
note() { printf '%s\t%s\t%s\n' "$@" >>"$work/notes"; }

bytes_in() { du -sb --apparent-size "$1" | cut -f1; }

plakar() { "$PLAKAR" -quiet "$@"; }

# Where the figures were taken.
machine() {
    local model
    model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
    echo "$(nproc) cores (${model:-unknown}), Linux $(uname -r), $(stat -f -c %T "$work"), load $(cut -d' ' -f1 /proc/loadavg) at the start"
}

# ---------------------------------------------------------------------------------------------------------------------
# Each program: make a repository, back up the current folder, restore the latest into $work/out, check everything.

plakar_create() { plakar at "$work/plakar" create; }
plakar_backup() { measure plakar "$1" "$PLAKAR" -quiet at "$work/plakar" backup .; }
plakar_restore() { measure plakar restore "$PLAKAR" -quiet at "$work/plakar" restore -to "$work/out"; }
plakar_check() { measure plakar check "$PLAKAR" -quiet at "$work/plakar" check; }
plakar_version() { "$PLAKAR" version | head -n 1; }

restic_create() { restic -q -r "$work/restic" init; }
restic_backup() { measure restic "$1" restic -q -r "$work/restic" backup .; }
restic_restore() { measure restic restore restic -q -r "$work/restic" restore latest --target "$work/out"; }
restic_check() { measure restic check restic -q -r "$work/restic" check --read-data; }
restic_version() { restic version | cut -d' ' -f1,2; }

rustic_create() { rustic -r "$work/rustic" init; }
rustic_backup() { measure rustic "$1" rustic -r "$work/rustic" backup .; }
rustic_restore() { measure rustic restore rustic -r "$work/rustic" restore latest "$work/out"; }
rustic_check() { measure rustic check rustic -r "$work/rustic" check --read-data; }
rustic_version() { rustic --version; }

borg_create() { borg init -e repokey-blake2 "$work/borg"; }
borg_backup() { measure borg "$1" borg create -C zstd,3 "$work/borg::${1//[ %]/-}" .; }
borg_restore() { (cd "$work/out" && measure borg restore borg extract "$work/borg::1---changed"); }
borg_check() { measure borg check borg check --verify-data "$work/borg"; }
borg_version() { borg --version; }

tar_create() { mkdir "$work/tar"; }
tar_backup() { [ "$1" != "first backup" ] || measure tar "$1" bash -c "set -o pipefail; tar -cf - . | zstd -q -3 -T2 -o '$work/tar/archive'"; }
# The archive is of the unchanged files.
tar_restore() { measure tar restore bash -c "set -o pipefail; zstd -q -dc '$work/tar/archive' | tar -xf - -C '$work/out'"; }
tar_check() { measure tar check zstd -q -t "$work/tar/archive"; }
tar_version() { echo "tar \\| zstd $(zstd --version | grep -o 'v[0-9.]*' | head -n 1)"; }

cp_create() { mkdir "$work/cp"; }
cp_backup() { [ "$1" != "first backup" ] || measure cp "$1" cp -a . "$work/cp/copy"; }
cp_restore() { measure cp restore cp -a "$work/cp/copy" "$work/out/"; }
cp_check() { :; }
cp_version() { cp --version | head -n 1; }

# ---------------------------------------------------------------------------------------------------------------------

# Appends a line to every 100th file, or takes it away again. The sizes before are kept.
change() {
    python3 - "$1" "$work/corpus" "$work/sizes" <<'PYTHON'
import os, sys
action, corpus, sizes = sys.argv[1:]
if action == "append":
    files = []
    for folder, _, names in os.walk(os.fsencode(corpus)):
        files += [os.path.join(folder, name) for name in names]
    files = sorted(file for file in files if os.path.isfile(file) and not os.path.islink(file))
    with open(sizes, "wb") as kept:
        for file in files[::100]:
            status = os.stat(file)
            kept.write(b"%d %d %s\0" % (status.st_size, status.st_mtime_ns, file))
            os.chmod(file, status.st_mode | 0o200)
            with open(file, "ab") as out:
                out.write(b"\n/* a line more, as an edit would leave it: %d */\n" % status.st_size)
            os.chmod(file, status.st_mode)
else:
    with open(sizes, "rb") as kept:
        for record in kept.read().split(b"\0")[:-1]:
            size, time, file = record.split(b" ", 2)
            os.truncate(file, int(size))
            os.utime(file, ns=(int(time), int(time)))
PYTHON
}

make_corpus() {
    local wanted
    mkdir "$work/corpus"
    if [ -n "$corpus" ]; then
        say "copying $corpus"
        cp -a "$corpus/." "$work/corpus/"
    else
        local archive=/usr/src/linux-source-6.1.tar.xz
        [ -r "$archive" ] || install_packages linux-source-6.1 ||
            fail "$archive is missing and could not be installed; name a folder: \`tests/bench.sh FOLDER\`"
        command -v xz >/dev/null || need xz xz-utils
        say "unpacking $archive"
        tar -xJf "$archive" -C "$work/corpus"
    fi
    megabytes=$(($(bytes_in "$work/corpus") / 1000000))
    files=$(find "$work/corpus" -type f | wc -l)
    # The corpus again in `cp` and while restoring, and a repository for each program.
    wanted=$((megabytes * 4))
    [ "$(free_megabytes)" -ge "$wanted" ] ||
        fail "$BENCH_DIR has $(free_megabytes) MB free and this takes $wanted MB more; choose another BENCH_DIR or a smaller CORPUS"
}

compare_tools() {
    local tools=() tool turn out
    for tool in ${BENCH_TOOLS:-plakar restic rustic borg tar cp}; do
        if [ "$tool" = plakar ] || command -v "$tool" >/dev/null; then
            tools+=("$tool")
        fi
    done
    if [[ " ${tools[*]} " = *" tar "* ]]; then need zstd zstd; fi
    make_corpus
    local place
    place="$files files of $megabytes MB together (${corpus:-Linux 6.1 sources}), $repeat turns; $(machine)"
    echo "$place"
    for turn in $(seq "$repeat"); do
        say "turn $turn of $repeat"
        cd "$work/corpus"
        for tool in "${tools[@]}"; do
            "${tool}_create" >"$work/create.log" 2>&1 || { tail -n 5 "$work/create.log" >&2 && fail "$tool cannot make a repository"; }
        done
        for tool in "${tools[@]}"; do
            "${tool}_backup" "first backup"
            note "$tool" "repository" "$(bytes_in "$work/$tool")"
        done
        for tool in "${tools[@]}"; do
            "${tool}_backup" "unchanged backup"
            [ "$tool" != plakar ] || note plakar "unchanged" "$(bytes_in "$work/plakar")"
        done
        change append
        for tool in "${tools[@]}"; do
            "${tool}_backup" "1 % changed"
            note "$tool" "changed" "$(bytes_in "$work/$tool")"
        done
        for tool in "${tools[@]}"; do
            rm -rf "$work/out"
            mkdir "$work/out"
            "${tool}_restore"
            case $tool in
            cp | tar) continue ;; # theirs are the files before the change
            *) out=$work/out ;;
            esac
            [ ! -d "$out$work/corpus" ] || out=$out$work/corpus # where absolute paths are restored
            if [ "$turn" -eq 1 ]; then
                diff -r --no-dereference "$work/corpus" "$out" >"$work/differences" ||
                    { head -n 5 "$work/differences" >&2 && fail "$tool did not restore what was backed up"; }
            fi
        done
        rm -rf "$work/out"
        for tool in "${tools[@]}"; do "${tool}_check"; done
        change undo
        cd "$work"
        for tool in "${tools[@]}"; do rm -rf "${work:?}/$tool"; done
        rm -rf "$XDG_CACHE_HOME" "$BORG_BASE_DIR"
        mkdir "$XDG_CACHE_HOME"
    done
    local versions=
    for tool in "${tools[@]}"; do versions+="${versions:+, }$("${tool}_version")"; done
    report "$place" "$versions" >"$results"
}

# The tables, as Markdown.
report() {
    python3 - "$work/records" "$work/notes" "$@" <<'PYTHON'
import sys
from statistics import median
records, notes, place, versions = sys.argv[1:]
NAMES = {"tar": "tar \\| zstd -3 -T2", "cp": "cp -a"}
STEPS = ["first backup", "unchanged backup", "1 % changed", "restore", "check"]
PEERS = ["restic", "rustic", "borg"]
runs, tools = {}, []
for line in open(records):
    tool, step, *numbers = line.rstrip("\n").split("\t")
    runs.setdefault((step, tool), []).append([float(number) for number in numbers])
    if tool not in tools:
        tools.append(tool)
sizes = {}
for line in open(notes):
    tool, what, number = line.rstrip("\n").split("\t")
    sizes.setdefault((what, tool), []).append(int(number))

def size(what, tool):
    return f"{median(sizes[what, tool]) / 1e6:.1f}" if (what, tool) in sizes else ""

def wall(step, tool):
    return [run[0] for run in runs[step, tool]]

print("# Benchmark\n")
print(f"{place}.\n\n{versions}. Wall time is the least and the median of all turns; the rest is of the quickest turn.\n")
print("| | program | wall min, s | wall median, s | CPU, s | CPU / wall | peak memory, MB | repository, MB |")
print("|---|---|---:|---:|---:|---:|---:|---:|")
for step in STEPS:
    label = step
    for tool in tools:
        if (step, tool) not in runs:
            continue
        best = min(runs[step, tool])
        stored = {"first backup": "repository", "1 % changed": "changed"}.get(step)
        print(f"| {label} | {NAMES.get(tool, tool)} | {best[0]:.2f} | {median(wall(step, tool)):.2f} | {best[1]:.2f} | "
              f"{best[1] / best[0]:.2f} | {best[2]:.0f} | {size(stored, tool) if stored else ''} |")
        label = ""
if "plakar" in tools:
    print("\nRatios of the least wall times; below 1 plakar is quicker.\n")
    print("| | plakar, s | / tar \\| zstd | / best peer | best peer |")
    print("|---|---:|---:|---:|---|")
    for step in STEPS:
        ours = min(wall(step, "plakar"))
        tar = f"{ours / min(wall(step, 'tar')):.2f}" if (step, "tar") in runs else ""
        peers = [(min(wall(step, tool)), tool) for tool in PEERS if (step, tool) in runs]
        peer = f"{ours / min(peers)[0]:.2f} | {min(peers)[1]}" if peers else " | "
        print(f"| {step} | {ours:.2f} | {tar} | {peer} |")
    stored = [(median(sizes["repository", tool]), tool) for tool in PEERS if ("repository", tool) in sizes]
    ours = median(sizes["repository", "plakar"])
    tar = f"{ours / median(sizes['repository', 'tar']):.2f}" if ("repository", "tar") in sizes else ""
    peer = f"{ours / min(stored)[0]:.2f} | {min(stored)[1]}" if stored else " | "
    print(f"| size of the repository | {ours / 1e6:.1f} MB | {tar} | {peer} |")
    grown = median(sizes["unchanged", "plakar"]) - ours
    print(f"\nThe unchanged backup of plakar added {grown / 1024:.1f} KiB to its repository.")
PYTHON
}

# ---------------------------------------------------------------------------------------------------------------------

# generate KIND FOLDER NUMBER: the same bytes in every run.
generate() {
    python3 - "$@" <<'PYTHON'
import os, random, sys
kind, folder, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
chance = random.Random(kind)
words = [bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(2000)]
text = b" ".join(chance.choices(words, k=1 << 20))
os.makedirs(folder)
if kind == "file":  # megabytes: by turns what cannot be compressed and what can, nothing of it twice
    with open(os.path.join(folder, "file"), "wb", buffering=0) as out:
        for block in range(number):
            if block % 2:
                part = bytearray(text[chance.randrange(len(text) - 1_000_000):][:1_000_000])
                for place in range(0, len(part), 500):
                    part[place:place + 8] = chance.randbytes(8)
            else:
                part = chance.randbytes(1_000_000)
            out.write(part)
else:  # files: 1000 to a folder, or all in one
    for index in range(number):
        if kind == "many" and index % 1000 == 0:
            inner = os.path.join(folder, f"{index // 1000:04}")
            os.mkdir(inner)
        place, most = (inner, 4096) if kind == "many" else (folder, 100)
        length = chance.randint(0, most)
        start = chance.randrange(len(text) - most)
        with open(os.path.join(place, f"{index:07}-{start:x}.txt"), "wb", buffering=0) as out:
            out.write(text[start:start + length])
PYTHON
}

# scale_case NAME KIND NUMBER MEGABYTES: all that is done with one corpus. MEGABYTES is the most that it takes at one time.
scale_case() {
    local name=$1 kind=$2 number=$3 wanted=$4 free
    free=$(free_megabytes)
    if [ "$free" -lt "$wanted" ]; then
        number=$((number * free * 95 / (wanted * 100)))
        name="$name, reduced to $number$([ "$kind" != file ] || echo ' MB') for want of space"
    fi
    say "$name"
    generate "$kind" "$work/corpus" "$number"
    sleep 3 # what changed in the last two seconds before a backup is read again by the next
    plakar at "$work/plakar" create
    cd "$work/corpus"
    measure "$name" "first backup" "$PLAKAR" -quiet at "$work/plakar" backup .
    local first
    first=$(bytes_in "$work/plakar")
    note "$name" repository "$first"
    measure "$name" "unchanged backup" "$PLAKAR" -quiet at "$work/plakar" backup .
    note "$name" grown "$(($(bytes_in "$work/plakar") - first))"
    mkdir "$work/out"
    measure "$name" restore "$PLAKAR" -quiet at "$work/plakar" restore -to "$work/out"
    measure "$name" check "$PLAKAR" -quiet at "$work/plakar" check
    diff -rq "$work/corpus" "$work/out" >"$work/differences" || { head -n 5 "$work/differences" >&2 && fail "$name: what was restored differs"; }
    cd "$work"
    rm -rf "$work/corpus" "$work/out" "$work/plakar" "$XDG_CACHE_HOME"
    mkdir "$XDG_CACHE_HOME"
}

# A repository whose index names a hundred million blobs that are nowhere, and what is done in it with a few files.
large_index() {
    local name="an index of 100,000,000 blobs" free number=100000000
    free=$(free_megabytes)
    # The index, and its blocks once more where they are searched.
    if [ "$free" -lt 9000 ]; then
        number=$((free * 10000))
        name="an index of $number blobs, for want of space"
    fi
    say "$name"
    plakar at "$work/plakar" create
    generate many "$work/corpus" 2000
    sleep 3
    cd "$work/corpus"
    plakar at "$work/plakar" backup .
    "$TOOLS/grow-index" "$work/plakar" "$number"
    note "$name" repository "$(bytes_in "$work/plakar/index")"
    measure "$name" "ls" "$PLAKAR" -quiet at "$work/plakar" ls
    measure "$name" "ls -recursive, no summaries yet" "$PLAKAR" -quiet at "$work/plakar" ls -recursive :/
    measure "$name" "ls -recursive" "$PLAKAR" -quiet at "$work/plakar" ls -recursive :/
    measure "$name" "unchanged backup" "$PLAKAR" -quiet at "$work/plakar" backup .
    head -c 10M /dev/urandom >new
    measure "$name" "10 MB more" "$PLAKAR" -quiet at "$work/plakar" backup .
    head -c 300M /dev/urandom >new
    measure "$name" "300 MB more" "$PLAKAR" -quiet at "$work/plakar" backup .
    mkdir "$work/out"
    measure "$name" restore "$PLAKAR" -quiet at "$work/plakar" restore -to "$work/out"
    diff -rq "$work/corpus" "$work/out" >"$work/differences" || { head -n 5 "$work/differences" >&2 && fail "$name: what was restored differs"; }
    cd "$work"
    rm -rf "$work/corpus" "$work/out" "$work/plakar" "$XDG_CACHE_HOME"
    mkdir "$XDG_CACHE_HOME"
}

scale_report() {
    python3 - "$work/records" "$work/notes" "$@" <<'PYTHON'
import sys
records, notes, place, version = sys.argv[1:]
sizes = {}
for line in open(notes):
    name, what, number = line.rstrip("\n").split("\t")
    sizes[name, what] = int(number)
print(f"# Scale\n\n{place}. {version}.\n")
print("| | | wall, s | CPU, s | CPU / wall | peak memory, MB | |")
print("|---|---|---:|---:|---:|---:|---|")
last = None
for line in open(records):
    name, step, *numbers = line.rstrip("\n").split("\t")
    wall, cpu, memory = map(float, numbers)
    extra = ""
    if step == "ls":
        extra = f"index {sizes[name, 'repository'] / 1e6:.1f} MB"
    elif step == "first backup":
        extra = f"repository {sizes[name, 'repository'] / 1e6:.1f} MB"
    elif step == "unchanged backup" and (name, "grown") in sizes:
        extra = f"{sizes[name, 'grown'] / 1024:.1f} KiB more"
    print(f"| {name if name != last else ''} | {step} | {wall:.2f} | {cpu:.2f} | {cpu / wall:.2f} | {memory:.0f} | {extra} |")
    last = name
PYTHON
}

# ---------------------------------------------------------------------------------------------------------------------
# Over the network: real servers, each behind a line with a wanted round trip.

# remote_step TOOL STORE RTT STEP COMMAND...: measures, and notes how many requests reached the S3 server. Those to the SFTP server
# are noted in a turn of their own, which is not measured: counting them takes time.
remote_step() {
    local tool=$1 store=$2 rtt=$3 step=$4 requests
    echo >&"${servers[1]}"
    read -r requests <&"${servers[0]}"
    if [ -n "$counting" ]; then "${@:5}"; else measure "$tool" "$store, $rtt ms: $step" "${@:5}"; fi
    echo >&"${servers[1]}"
    read -r requests <&"${servers[0]}"
    if [ "$store" = s3 ] || [ -n "$counting" ]; then note "$tool" "$store, $rtt ms: $step" "$requests"; fi
}

# The same files by OpenSSH's own program and by our connector alone.
same_objects() {
    local rtt=$1 ours theirs number turn
    if [ ! -d "$work/objects" ]; then
        mkdir "$work/objects"
        for number in 1 2 3 4 5 6 7 8; do head -c 32M /dev/urandom >"$work/objects/$number"; done
    fi
    ours=("sftp://127.0.0.1:$SFTP_PORT$SFTP_FOLDER/objects" "identity_file=$SFTP_IDENTITY"
        "known_hosts_file=$SFTP_KNOWN_HOSTS" ssh_config=none use_agent=false)
    theirs=(sftp -q -F none -P "$SFTP_PORT" -i "$SFTP_IDENTITY" -o IdentitiesOnly=yes
        -o "UserKnownHostsFile=$SFTP_KNOWN_HOSTS" -b "$work/batch" 127.0.0.1)
    mkdir -p "$SFTP_FOLDER/theirs" "$SFTP_FOLDER/objects"
    for turn in 1 2 3 4 5; do
        rm -rf "$SFTP_FOLDER/theirs"/* "$SFTP_FOLDER/objects"/* "$work/in"
        mkdir "$work/in"
        echo "put $work/objects/* $SFTP_FOLDER/theirs/" >"$work/batch"
        measure sftp "objects, $rtt ms: put" "${theirs[@]}"
        measure plakar "objects, $rtt ms: put" "$TOOLS/store-objects" put "${ours[0]}" "$work/objects" "${ours[@]:1}"
        diff -r "$work/objects" "$SFTP_FOLDER/objects/packs" || fail "our connector stored something else"
        echo "get $SFTP_FOLDER/theirs/* $work/in/" >"$work/batch"
        measure sftp "objects, $rtt ms: get" "${theirs[@]}"
        rm -rf "$work/in"
        mkdir "$work/in"
        measure plakar "objects, $rtt ms: get" "$TOOLS/store-objects" get "${ours[0]}" "$work/in" "${ours[@]:1}"
        diff -r "$work/objects" "$work/in" || fail "our connector fetched something else"
    done
    rm -rf "$work/in"
}

remote_turn() { # RTT [count]: both stores, both programs; or SFTP alone, with its requests counted
    local rtt=$1 counting=${2:-} line store stores=(sftp s3)
    [ -z "$counting" ] || stores=(sftp)
    coproc servers { exec "$TOOLS/remote-servers" "$work/servers-$rtt" "$rtt" ${counting:+"$counting"} 2>"$work/servers.log"; }
    mkdir -p "$work/servers-$rtt"
    while read -r line <&"${servers[0]}" && [ -n "$line" ]; do declare "$line"; done
    [ -n "${S3_SECRET:-}" ] || { cat "$work/servers.log" >&2 && fail "the servers did not start"; }
    cat >"$work/remote.toml" <<TOML
[repositories.sftp]
location = "sftp://127.0.0.1:$SFTP_PORT$SFTP_FOLDER/plakar"
identity_file = "$SFTP_IDENTITY"
known_hosts_file = "$SFTP_KNOWN_HOSTS"
ssh_config = "none"
use_agent = "false"
[repositories.s3]
location = "s3://$S3_ENDPOINT/$S3_BUCKET/plakar"
access_key_id = "$S3_KEY"
secret_access_key = "$S3_SECRET"
tls = false
TOML
    chmod 600 "$work/remote.toml"
    local ssh="ssh -F none -p $SFTP_PORT -i $SFTP_IDENTITY -o IdentitiesOnly=yes -o UserKnownHostsFile=$SFTP_KNOWN_HOSTS 127.0.0.1 -s sftp"
    export AWS_ACCESS_KEY_ID=$S3_KEY AWS_SECRET_ACCESS_KEY=$S3_SECRET AWS_DEFAULT_REGION=garage
    for store in "${stores[@]}"; do
        local plakar=("$PLAKAR" -quiet -config "$work/remote.toml" at "@$store")
        local restic=(restic -q -r "s3:http://$S3_ENDPOINT/$S3_BUCKET/restic")
        [ "$store" = s3 ] || restic=(restic -q -o "sftp.command=$ssh" -r "sftp:127.0.0.1:$SFTP_FOLDER/restic")
        "${plakar[@]}" create
        "${restic[@]}" init
        cd "$work/corpus"
        for tool in plakar restic; do
            local -n program=$tool
            remote_step $tool $store "$rtt" "first backup" "${program[@]}" backup .
            remote_step $tool $store "$rtt" "unchanged backup" "${program[@]}" backup .
            rm -rf "$work/out"
            mkdir "$work/out"
            if [ $tool = plakar ]; then
                remote_step plakar $store "$rtt" restore "${program[@]}" restore -to "$work/out"
                diff -r --no-dereference "$work/corpus" "$work/out" >"$work/differences" ||
                    { head -n 5 "$work/differences" >&2 && fail "plakar did not restore what was backed up"; }
            else
                remote_step restic $store "$rtt" restore "${program[@]}" restore latest --target "$work/out"
            fi
            rm -rf "$work/out"
        done
        cd "$work"
    done
    [ -n "$counting" ] || same_objects "$rtt"
    eval "exec ${servers[1]}>&-"
    wait "$servers_PID" 2>/dev/null || true
    rm -rf "$work/servers-$rtt"
}

remote_report() {
    python3 - "$work/records" "$work/notes" "$@" <<'PYTHON'
import sys
from statistics import median
records, notes, place, versions = sys.argv[1:]
requests = {}
for line in open(notes):
    tool, step, number = line.rstrip("\n").split("\t")
    requests[tool, step] = number
figures, seconds, steps = {}, {}, []
for line in open(records):
    tool, step, *numbers = line.rstrip("\n").split("\t")
    figures[tool, step] = [float(number) for number in numbers]
    seconds.setdefault((tool, step), []).append(float(numbers[0]))
    if step not in steps:
        steps.append(step)

def ratio(step, other, of=min):
    pair = seconds.get(("plakar", step)), seconds.get((other, step))
    return f"{of(pair[0]) / of(pair[1]):.2f}" if all(pair) else ""

print(f"# Remote\n\n{place}. {versions}. Requests are those that reached the server, over SFTP counted once, at 0 ms.\n")
print("| | plakar, s | CPU / wall | MB | requests | restic, s | MB | requests | plakar / restic |")
print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
for step in [step for step in steps if not step.startswith("objects")]:
    wall, cpu, memory = figures["plakar", step]
    cells = [f"{wall:.2f}", f"{cpu / wall:.2f}", f"{memory:.0f}", requests.get(("plakar", step), "")]
    wall, cpu, memory = figures.get(("restic", step), (float("nan"),) * 3)
    cells += [f"{wall:.2f}", f"{memory:.0f}", requests.get(("restic", step), "")]
    print(f"| {step} | {' | '.join(cells)} | {ratio(step, 'restic')} |")
print("\nEight files of 32 MiB as objects through the SFTP connector, durable, and by OpenSSH's `sftp`: least and median of five turns.\n")
print("| | connector, s | MB/s | sftp, s | MB/s | connector / sftp, least | median |")
print("|---|---:|---:|---:|---:|---:|---:|")
for step in [step for step in steps if step.startswith("objects")]:
    cells = []
    for tool in ("plakar", "sftp"):
        turns = seconds[tool, step]
        cells += [f"{min(turns):.2f}, {median(turns):.2f}", f"{8 * 32 * 1.048576 / min(turns):.0f}"]
    print(f"| {step} | {' | '.join(cells)} | {ratio(step, 'sftp')} | {ratio(step, 'sftp', median)} |")
PYTHON
}

if $remote; then
    need sshd openssh-server
    need restic restic
    need_garage
    make_corpus
    place="$files files of $megabytes MB together (${corpus:-Linux 6.1 sources}); $(machine)"
    touch "$work/notes"
    for rtt in ${ROUND_TRIPS:-0 20 50}; do
        say "$rtt ms there and back"
        remote_turn "$rtt"
    done
    say "requests over SFTP"
    remote_turn 0 count
    versions=$(plakar_version)
    versions+=", $(restic_version)"
    remote_report "$place" "$versions" >"$results"
elif $scale; then
    place=$(machine)
    # What is backed up, the same restored, and its repository; small files take a page and an inode each.
    large_index
    scale_case "200,000 entries in one folder" one 200000 3000
    scale_case "1,000,000 files of 0 to 4 KiB" many 1000000 13000
    scale_case "a file of 10 GB" file 10000 27500
    scale_report "$place" "$(plakar_version)" >"$results"
else
    compare_tools
fi
say "written to $results"
cat "$results"
