#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What can't be booted: one line that says why, on stderr, and an exit status that is not 0; nothing is left behind.
. "$(dirname "$0")/common" "$@"

mkdir "$scratch/tmp"
export TMPDIR=$scratch/tmp
printf 'not an image\n' >"$scratch/text"
: >"$scratch/empty"

refuses() { # what the line must say, arguments...
    local says=$1
    shift
    run refused 2 "$@"
    [ "$(wc -l <"$scratch/refused.err")" -eq 1 ] || { cat "$scratch/refused.err"; fail "boot $*: not one line"; }
    [ ! -s "$scratch/refused.out" ] || fail "boot $*: something on stdout"
    grep -i -q -E "$says" "$scratch/refused.err" || { cat "$scratch/refused.err"; fail "boot $*: does not say '$says'"; }
    [ -z "$(ls -A "$TMPDIR")" ] || fail "boot $*: left something in TMPDIR"
    sed 's/^/refused: /' "$scratch/refused.err"
}

refuses 'no IMAGE'
refuses 'missing|no such|not exist|not found' "$scratch/nothing"
refuses 'not bootable|neither|multiboot' "$scratch/text"
refuses 'empty|not bootable|neither|multiboot' "$scratch/empty"
refuses 'not a file|directory' "$scratch/tmp"
refuses 'module' --module "$scratch/nothing" "$l1"
refuses 'model|cpu' --cpu i8086 "$l1"
refuses 'memory' --memory 1 "$l1"
refuses 'memory' --memory many "$l1"
refuses 'timeout' --timeout 0 "$l1"
refuses 'cpus must be' --cpus 9 "$l1"
refuses 'exclude each other' --cpus 2 --levels 2 "$l1"
refuses 'one processor' --cpus 2 --checkpoint "$scratch/checkpoint" "$l1"
refuses 'stats' --direct --stats "$l1"
refuses 'trace' --direct --trace "$scratch/trace" "$l1"
refuses 'trace' --trace "$scratch/nowhere/trace" "$l1"
refuses 'L0' --l0 "$scratch/nothing" "$l1"

# Another Bochs (here the same one), named from where one stands (Bochs itself runs elsewhere), with a blank (which Bochs loses).
ln -s / "$scratch/an other"
status=0
(cd "$scratch" && NVMX_BOCHS="an other" "$boot" --direct --timeout 1 "$l1") >"$scratch/other.out" 2>"$scratch/other.err" </dev/null || status=$?
[ $status -eq 3 ] || { cat "$scratch/other.err"; fail "NVMX_BOCHS=an other: exit status $status instead of 3, at the time limit"; }

# Without Bochs (a PATH that has only what boot itself needs)
mkdir "$scratch/bin"
ln -s "$(python3 -c 'import sys; print(sys.executable)')" "$scratch/bin/python3"
status=0
env PATH="$scratch/bin" "$boot" "$l1" >"$scratch/tools.out" 2>"$scratch/tools.err" </dev/null || status=$?
[ $status -eq 5 ] || { cat "$scratch/tools.err"; fail "no Bochs: exit status $status instead of 5"; }
grep -q -i bochs "$scratch/tools.err" || { cat "$scratch/tools.err"; fail 'no Bochs: the line does not name it'; }
sed 's/^/refused: /' "$scratch/tools.err"
