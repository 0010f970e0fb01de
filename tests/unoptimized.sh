#!/bin/sh
# SPDX-License-Identifier: MIT
# lib/ compiles without a warning with -O0, too, as in a user's Debug build: there gcc warns of annotations that it ignores.
#   unoptimized.sh SOURCE CC
set -u
source=$1 cc=$2 failed=0 seen=0
for file in "$source"/lib/*.c "$source"/lib/*/*.c; do
    seen=$((seen + 1))
    "$cc" -std=c11 -O0 -Wall -Wextra -Wconversion -Wshadow -Wmissing-prototypes -Wvla -Werror -I"$source/include" -I"$source/lib" -c "$file" -o /dev/null || failed=1
done
[ "$seen" -gt 0 ] || { echo "no sources in $source/lib"; exit 1; }
[ $failed = 0 ] && echo "$seen sources compile with -O0"
exit $failed
