#!/bin/sh
# SPDX-License-Identifier: MIT
# Build every fuzzer the way OSS-Fuzz and ClusterFuzzLite ask for it: $CC, $CFLAGS, $LIB_FUZZING_ENGINE, into $OUT, with seed corpora and dictionary.
set -eu
usage() {
    echo 'usage: OUT=FOLDER [WORK=FOLDER] [CC=...] [CXX=...] [CFLAGS=...] [CXXFLAGS=...] [LIB_FUZZING_ENGINE=...] fuzz/build.sh'
}
case "${1-}" in
'') ;;
-h | --help) usage; exit 0 ;;
*) usage >&2; exit 2 ;;
esac
[ -n "${OUT-}" ] || { echo 'fuzz/build.sh: OUT says where the fuzzers go' >&2; usage >&2; exit 2; }
source_dir=$(dirname "$(dirname "$(readlink -f "$0")")")
: "${CC:=clang}" "${CXX:=clang++}" "${CFLAGS:=-g -O1 -fsanitize=address,undefined,fuzzer-no-link}" "${LIB_FUZZING_ENGINE:=-fsanitize=fuzzer}"
work=${WORK-}
[ -n "$work" ] || { work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; trap 'exit 1' HUP INT TERM; }
mkdir -p "$OUT" "$work/objects"
OUT=$(cd "$OUT" && pwd) work=$(cd "$work" && pwd)
cd "$source_dir"
flags="-std=gnu11 -Iinclude -Ilib -Itests/sim -Ifuzz -Dmprotect=fuzz_mprotect"
# Not the values of comparisons (CMakeLists.txt says why), where the compiler knows them.
# shellcheck disable=SC2086
! $CC $CFLAGS -fno-sanitize-coverage=trace-cmp -Werror -x c -c /dev/null -o "$work/objects/empty.o" 2> /dev/null || flags="$flags -fno-sanitize-coverage=trace-cmp"

rm -f "$work"/objects/all-*.o
for file in lib/*.c lib/*/*.c tests/sim/*.c fuzz/support.c fuzz/machine.c fuzz/oracle.c fuzz/guard.c fuzz/mutate.c; do
    case $file in */decode_zydis*) continue ;; esac
    # shellcheck disable=SC2086
    $CC $CFLAGS $flags -c "$file" -o "$work/objects/all-$(echo "$file" | tr / _).o"
done
# The tool that makes the corpora runs here and now: neither engine nor sanitizers.
# shellcheck disable=SC2086
cc -std=gnu11 -Iinclude -Ilib -Itests/unit fuzz/corpus.c fuzz/corpus_checks.c fuzz/corpus_features.c tests/unit/check_states.c lib/vmcs/fields.c -o "$work/fuzz-corpus"

while read -r harness; do
    extra='' more=''
    case $harness in
    ept) extra="-Ifuzz/shim -Itests/unit" more=tests/unit/ept_world.c ;;
    explain) extra=-Ibindings/cli ;;
    esac
    rm -f "$work/objects/$harness"-*.o
    if [ "$harness" = explain ]; then # the tool's own sources: what they print and open is the harness's
        for file in bindings/cli/*.c; do
            [ "$file" != bindings/cli/main.c ] || continue
            # shellcheck disable=SC2086
            $CC $CFLAGS $flags -include fuzz/shim/quiet.h -c "$file" -o "$work/objects/$harness-cli-$(basename "$file").o"
        done
    fi
    for file in fuzz/$harness.c fuzz/"$harness"_*.c $more; do
        [ -f "$file" ] || continue # a harness of one file
        # shellcheck disable=SC2086
        $CC $CFLAGS $extra $flags -c "$file" -o "$work/objects/$harness-$(basename "$file").o"
    done
    # shellcheck disable=SC2086
    ${CXX} ${CXXFLAGS:-$CFLAGS} "$work/objects/$harness"-*.o "$work"/objects/all-*.o $LIB_FUZZING_ENGINE -o "$OUT/fuzz-$harness"
    rm -rf "$work/seeds" && mkdir "$work/seeds"
    "$work/fuzz-corpus" unpack "fuzz/corpus/$harness.hex" "$work/seeds"
    if command -v zip > /dev/null; then
        (cd "$work/seeds" && zip -q -r "$OUT/fuzz-${harness}_seed_corpus.zip" .)
    fi
    "$work/fuzz-corpus" dictionary "$harness" > "$OUT/fuzz-$harness.dict"
    # As fuzz/run has it: the frequencies of features, of which an input here has thousands, would cost more than the library.
    printf '[libfuzzer]\nentropic = 0\nmax_len = 600\n' > "$OUT/fuzz-$harness.options"
done < fuzz/harnesses
