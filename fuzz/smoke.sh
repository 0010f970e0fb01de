#!/bin/sh
# The committed corpus and what libFuzzer makes of it, for a short time: $NVMX_FUZZ_SECONDS, or 5; 60 with NVMX_FULL. From one seed ($NVMX_FUZZ_SEED, or 1), so that a
# test that passed passes again: new inputs are for fuzz/run.
#   smoke.sh FOLDER HARNESS FILE.hex
# FOLDER has fuzz-HARNESS and fuzz-corpus.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/corpus"
"$1/fuzz-corpus" unpack "$3" "$work/corpus"
"$1/fuzz-corpus" dictionary "$2" > "$work/dictionary"
cd "$work"
status=0 seconds=5
[ -z "${NVMX_FULL:-}" ] || seconds=60
"$1/fuzz-$2" -seed="${NVMX_FUZZ_SEED:-1}" -reload=0 -entropic=0 -max_total_time="${NVMX_FUZZ_SECONDS:-$seconds}" -max_len=600 -timeout=30 -dict="$work/dictionary" -artifact_prefix="$work/finding-" \
    -print_final_stats=1 "$work/corpus" > out 2>&1 || status=$?
grep -v -E '	(NEW|REDUCE|pulse) ' out | tail -40
for finding in "$work"/finding-*; do
    [ ! -f "$finding" ] || echo "the input, as hexadecimal: $(od -An -v -tx1 "$finding" | tr -d ' \n')"
done
exit $status
