#!/bin/sh
# The committed corpus and what libFuzzer makes of it, for a short time.
#   smoke.sh FUZZER FUZZ-CORPUS FILE.hex SECONDS
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/corpus"
[ ! -f "$3" ] || "$2" unpack "$3" "$work/corpus"
"$2" dictionary > "$work/dictionary"
cd "$work"
"$1" -max_total_time="$4" -max_len=600 -timeout=20 -dict="$work/dictionary" -artifact_prefix="$work/" -print_final_stats=1 "$work/corpus" 2>&1 | {
    # Its own status is lost in a pipe: the last line of a good run says so.
    tee out | grep -v -E '	(NEW|REDUCE|pulse) ' | tail -40
    grep -q '^#.*DONE' out
}
