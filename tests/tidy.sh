#!/bin/sh
# SPDX-License-Identifier: MIT
# clang-tidy over lib/, with the checks of .clang-tidy; anything it says fails.
#   tidy.sh SOURCE CLANG_TIDY
set -u
source=$1 tidy=$2
cd "$source" || exit 1
flags='-std=c11 -Iinclude -Ilib -DNVMX_HAVE_ZYDIS=1 -DNVMX_HAVE_XXHASH=1'
failed=0
for file in lib/*.c lib/*/*.c; do
    # shellcheck disable=SC2086 # the flags are several words
    output=$("$tidy" --quiet --warnings-as-errors='*' "$file" -- $flags 2>&1) || {
        echo "$output" | grep -v ' warnings\? generated'
        failed=1
    }
done
exit $failed
