#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# An L1 whose L2 counts and checks its memory goes on where it was: on another machine, and from a checkpoint, as often as wanted. Links that break
# at any place leave it where it was, and nothing runs twice. Files and streams that are damaged, and CPUs that lack something, are refused.
# NVMX_FULL=1: more places to break the link at.
. "$(dirname "$0")/common" "$@"

full=${NVMX_FULL:-}
steady=$build_folder/tests/steady/nvmx-steady.elf
machine=(--ips 1000000 --memory 64 --timeout 600)
children=()
trap 'kill "${children[@]}" 2>/dev/null; wait; rm -rf "$scratch"' EXIT

# What L1 said, without L0's lines, which may stand in the middle of one of L1's.
said() { # NAME...
    local name
    for name in "$@"; do
        tr -d '\r' <"$scratch/$name.out"
    done | sed -E ':a; /nvmx: /{ s/nvmx: .*//; N; s/\n//; ba }' | grep -E '^(l1|exit-status): '
}
start() { # NAME, option...: in the background
    local name=$1
    shift
    "$boot" "$@" >"$scratch/$name.out" 2>"$scratch/$name.err" </dev/null &
    children+=($!)
    eval "pid_$name=$!"
}
ends() { # NAME, EXPECTED-STATUS
    local pid status=0
    eval "pid=\$pid_$1"
    wait "$pid" || status=$?
    [ "$status" -eq "$2" ] || { tail -n 20 "$scratch/$1.out" "$scratch/$1.err"; fail "$1: exit status $status instead of $2"; }
}
says() { # NAME TEXT
    grep -a -q -e "$2" "$scratch/$1.out" "$scratch/$1.err" || { tail -n 20 "$scratch/$1.out" "$scratch/$1.err"; fail "$1 does not say '$2'"; }
}
wait_for() { # NAME TEXT
    local n
    for ((n = 0; n < 3000; n++)); do
        grep -a -q -e "$2" "$scratch/$1.out" && return
        eval "kill -0 \$pid_$1" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 20 "$scratch/$1.out" "$scratch/$1.err"
    fail "$1 never says '$2'"
}

# -- a checkpoint, resumed twice ----------------------------------------------------------------------------------

run plain 0 --direct --memory 64 --timeout 200 "$steady" count 300
run taken 0 "${machine[@]}" --checkpoint "$scratch/file" --when 'count 5 ' "$steady" count 300
says taken 'nvmx: checkpoint taken'
said plain >"$scratch/plain.report"
[ "$(wc -l <"$scratch/plain.report")" -eq 301 ] || fail 'the undisturbed run is not whole'
said taken | diff -u "$scratch/plain.report" - || fail 'L1 noticed that a checkpoint was taken'
for again in first second; do
    start $again "${machine[@]}" --resume "$scratch/file"
done
for again in first second; do
    ends $again 0
    says $again 'nvmx: move: L1 goes on here'
    said $again >"$scratch/$again.report"
done
diff -u "$scratch/first.report" "$scratch/second.report" || fail 'resumed twice, and not twice the same'
lines=$(wc -l <"$scratch/first.report")
[ "$lines" -ge 10 ] && [ "$lines" -le 296 ] || fail "resumed: $lines lines"
tail -n "$lines" "$scratch/plain.report" | diff -u - "$scratch/first.report" || fail 'resumed somewhere else'
printf 'checkpoint of %d bytes: resumed twice, %d lines are those of the undisturbed run\n' "$(stat -c %s "$scratch/file")" "$lines"

# -- files that are none ------------------------------------------------------------------------------------------

refuses() { # TEXT, option...
    run refused 2 "${@:2}"
    [ "$(wc -l <"$scratch/refused.err")" -eq 1 ] || fail "boot ${*:2}: not one line"
    says refused "$1"
    sed 's/^/refused: /' "$scratch/refused.err"
}
size=$(stat -c %s "$scratch/file")
head -c $((size / 2)) "$scratch/file" >"$scratch/half"
head -c $((size - 32)) "$scratch/file" >"$scratch/nearly"
cp "$scratch/file" "$scratch/damaged"
printf '\125' | dd of="$scratch/damaged" bs=1 seek=$((size / 3)) conv=notrunc status=none
refuses 'is truncated' --resume "$scratch/half"
refuses 'is truncated' --resume "$scratch/nearly"
refuses 'is damaged' --resume "$scratch/damaged"
refuses 'is not a checkpoint' --resume "$steady"
refuses 'No such file' --resume "$scratch/nothing"
refuses 'no such folder' --checkpoint "$scratch/nothing/file" "$steady"
refuses 'no address' --move-to nowhere "$steady"
refuses 'no IMAGE' --resume "$scratch/file" "$steady"

# Whole as a file, but not what L0 can take: a blob that is none, behind checksums that are right.
python3 - "$source_folder/bindings/baremetal" "$scratch" <<'EOF'
import sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
from bootlib import stream
frames = stream.Checkpoint(sys.argv[2] + "/file").frames
kind = [kind for kind, _ in frames].index(stream.BLOB)
payload = bytearray(frames[kind][1])
payload[300] ^= 1
frames[kind] = (stream.BLOB, bytes(payload))
with open(sys.argv[2] + "/hostile", "wb") as file:
    for sequence, (kind, payload) in enumerate(frames, 1):
        file.write(stream.frame(kind, 0, sequence, payload))
EOF
start hostile "${machine[@]}" --resume "$scratch/hostile"
start memory "${machine[@]}" --memory 96 --resume "$scratch/file"
# Taken on a Skylake; Haswell has less.
start older "${machine[@]}" --cpu corei7_haswell_4770 --resume "$scratch/file"
for name in hostile memory older; do
    ends $name 4
done
says hostile 'nvmx: fatal: move: the nested state is refused: .*; nothing of it has run here'
says memory 'nvmx: fatal: move: this machine.s memory map differs'
says older 'nvmx: move: missing here: CPUID.7.0:EBX\[16\]'
says older 'nvmx: fatal: move: this machine lacks what L1 saw: .*'
grep -a -h 'nvmx: fatal' "$scratch"/{hostile,memory,older}.out | cut -c 1-160

# -- moves --------------------------------------------------------------------------------------------------------

# One source through all attempts: L1 must survive each that fails. Each line of L1 calls again.
start source "${machine[@]}" --cpu corei7_haswell_4770 --move-to "$scratch/call" --when 'xmm' "$steady" count 1000000
attempt() { # NUMBER WHERE TEXT-OF-TARGET TEXT-OF-SOURCE: one that fails while L1 is the source's
    local before
    start "target$1" "${machine[@]}" --move-from "$scratch/wait$1"
    "$source_folder/tests/boot/relay" "$scratch/call" "$scratch/wait$1" "$2" || fail "attempt at $2"
    ends "target$1" 4
    says "target$1" "$3"
    says "target$1" 'nothing of it has run here'
    said "target$1" | grep -q . && fail "attempt at $2: the target ran L1"
    wait_for source "$4"
    before=$(said source | wc -l)
    while [ "$(said source | wc -l)" -le $((before + 5)) ]; do
        kill -0 "$pid_source" 2>/dev/null || fail "attempt at $2: the source did not go on"
        sleep 0.1
    done
    printf 'link broken at %s: the source goes on; the target: %s\n' "$2" "$(grep -a -h -o 'move: .*; nothing' "$scratch/target$1.out")"
}
places=(bytes:$((size / 2)) before:READY)
[ -z "$full" ] || places+=(bytes:10 bytes:3000 bytes:7000 bytes:50000 bytes:$((size - 9000)) before:DONE damage:20 damage:6000 damage:$((size / 3)))
number=0
for place in "${places[@]}"; do
    number=$((number + 1))
    case $place in
    damage*) attempt $number "$place" 'the stream is damaged\|a frame is missing\|silent' 'L1 goes on here' ;;
    *) attempt $number "$place" 'the link is lost before L1 was given away' 'the link is lost: L1 goes on here' ;;
    esac
done
gone=$(grep -a -c 'L1 goes on here' "$scratch/source.out")
[ "$gone" -ge ${#places[@]} ] || fail "the source went on $gone times only"

start target "${machine[@]}" --move-from "$scratch/call"
wait_for target 'nvmx: move: L1 goes on here'
ends source 0
says source 'nvmx: moved: L1 is the other side.s now'
says source 'nvmx: move: L1 runs there'
while [ "$(said target | wc -l)" -le 50 ]; do
    kill -0 "$pid_target" 2>/dev/null || fail 'the target ended'
    sleep 0.1
done
kill "$pid_target"
ends target 143
said source target | sed '$d' | awk '{ if ($3 != NR || $7 != 0 || $9 != NR) { print "line " NR ": " $0; exit 1 } }' ||
    fail 'source and target together did not count without a gap'
printf 'moved from a Haswell to a Skylake: %d lines there, %d here, none missing and none twice\n' "$(said source | wc -l)" "$(said target | wc -l)"

# -- given away, and the word of it lost: it must run nowhere ------------------------------------------------------

start last "${machine[@]}" --move-to "$scratch/call2" --when 'xmm' "$steady" count 1000000
start nobody "${machine[@]}" --move-from "$scratch/wait-last"
"$source_folder/tests/boot/relay" "$scratch/call2" "$scratch/wait-last" before:GO || fail 'attempt at GO'
ends nobody 4
ends last 7
says last 'did not confirm'
said nobody | grep -q . && fail 'the target ran an L1 that nobody gave it'
printf 'given away without a word: it runs nowhere\n'
