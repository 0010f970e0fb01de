#!/bin/sh
# clang-tidy over lib/, with the checks of .clang-tidy; anything it says fails.
#   tidy.sh SOURCE CLANG_TIDY
set -u
source=$1 tidy=$2
cd "$source" || exit 1
# decode_zydis.c needs Zydis' headers, which Debian has in the default path.
find lib -name '*.c' -print0 | sort -z |
    xargs -0 -n 6 "$tidy" --quiet --warnings-as-errors='*' 2>/dev/null -- -std=c11 -Iinclude -Ilib -DNVMX_HAVE_ZYDIS=1 -DNVMX_HAVE_XXHASH=1
