#!/bin/sh
# SPDX-License-Identifier: MIT
# What a built library defines and needs.
#   symbols.sh archive|freestanding|shared FILE
# archive, freestanding: one object; all global names begin with nvmx_. freestanding: needs memcpy memmove memset memcmp at most, has no mutable
# data, and no instruction that touches an x87, MMX or SSE register. shared: exports nvmx_ names only.
set -u
kind=$1 file=$2 failed=0

complain() {
    echo "$file: $1"
    echo "$2" | sed 's/^/    /'
    failed=1
}

if [ "$kind" = shared ]; then
    globals=$(nm -D --defined-only "$file" | awk '{ print $3 }')
else
    globals=$(nm -g --defined-only "$file" | awk 'NF == 3 { print $3 }')
fi
echo "$globals" | grep -q '^nvmx_' || complain 'defines no nvmx_ function' "$globals"
others=$(echo "$globals" | grep -v '^nvmx_')
[ -z "$others" ] || complain 'global names without the prefix nvmx_' "$others"

# Writable data of lib/ would be global state; sanitizers and the runtime of a shared library bring their own.
if [ "$kind" != shared ]; then
    # .data.rel.ro holds constants with addresses in them.
    data=$(objdump -t "$file" | awk '$3 == "O" && $4 ~ /^\.(data|bss|tbss|tdata)|COM/ && $4 !~ /^\.data\.rel\.ro/ { print $4, $NF }')
    [ -z "$data" ] || complain 'mutable data at file scope' "$data"
fi

if [ "$kind" = freestanding ]; then
    needed=$(nm -u "$file" | awk '$1 == "U" { print $2 }' | grep -v -x -e memcpy -e memmove -e memset -e memcmp)
    [ -z "$needed" ] || complain 'needs more than the four memory functions' "$needed"
    vectors=$(objdump -d --no-show-raw-insn "$file" | grep -E '%([xyz]mm|mm[0-7]|st\b|k[0-7]\b)|\bf(ld|st|ild|xsave)\b' | head -5)
    [ -z "$vectors" ] || complain 'uses floating point or SIMD' "$vectors"
fi

[ $failed = 0 ] && echo "$(echo "$globals" | wc -l) global names"
exit $failed
