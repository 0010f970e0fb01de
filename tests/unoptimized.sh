#!/bin/sh
# SPDX-License-Identifier: MIT
# lib/ compiles without a warning with -O0, too, as in a user's Debug build: there gcc warns of annotations that it ignores.
#   unoptimized.sh SOURCE CC WARNING...
set -u
source=$1 cc=$2 failed=0 seen=0
shift 2
for file in "$source"/lib/*.c "$source"/lib/*/*.c; do
    seen=$((seen + 1))
    "$cc" -std=c11 -O0 "$@" -Werror -I"$source/include" -I"$source/lib" -c "$file" -o /dev/null || failed=1
done
[ "$seen" -gt 0 ] || { echo "no sources in $source/lib"; exit 1; }
[ $failed = 0 ] && echo "$seen sources compile with -O0"
exit $failed
