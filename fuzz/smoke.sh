#!/bin/sh
# SPDX-License-Identifier: MIT
# The committed corpus and what libFuzzer makes of it: as many executions as smoke.tsv says, for about a minute of a processor; $NVMX_FUZZ_SECONDS changes that in
# proportion. Counted in executions, from one seed ($NVMX_FUZZ_SEED, or 1) and one order of the corpus, it is the same run on every machine: only a change of the sources can
# make it fail. New inputs are for fuzz/run.
#   smoke.sh FOLDER HARNESS FILE.hex
# FOLDER has fuzz-HARNESS and fuzz-corpus.
set -eu
here=$(dirname "$(readlink -f "$0")")
seconds=${NVMX_FUZZ_SECONDS:-60}
case $seconds in
'' | *[!0-9]* | 0*)
    echo "smoke.sh: NVMX_FUZZ_SECONDS is to be a whole number from 1, not '$seconds'" >&2
    exit 2 ;;
esac
minute=$(awk -v harness="$2" '$1 == harness { print $2 }' "$here/smoke.tsv")
[ -n "$minute" ] || { echo "smoke.sh: smoke.tsv has no row for '$2': add one, with the executions of a minute" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/corpus"
"$1/fuzz-corpus" unpack "$3" "$work/corpus"
"$1/fuzz-corpus" dictionary "$2" > "$work/dictionary"
cd "$work"
printf '%s,' corpus/* | sed 's/,$//' > inputs # in an order that no file system decides
status=0
"$1/fuzz-$2" -seed="${NVMX_FUZZ_SEED:-1}" -runs=$((minute * seconds / 60)) -seed_inputs=@inputs -entropic=0 -use_cmp=0 -max_len=600 -timeout=30 -dict=dictionary \
    -artifact_prefix="$work/finding-" -print_final_stats=1 > out 2>&1 || status=$?
grep -v -E '	(NEW|REDUCE|pulse) ' out | tail -40
for finding in "$work"/finding-*; do
    [ ! -f "$finding" ] || echo "the input, as hexadecimal: $(od -An -v -tx1 "$finding" | tr -d ' \n')"
done
exit $status
