#!/bin/sh
# SPDX-License-Identifier: MIT
# SECURITY.md names tests and fuzzers that exist.
#   security.sh SOURCE
set -u
cd "$1" || exit 1
failed=0 count=0
for name in $(grep -o '`[a-z_0-9]*\.[a-z_0-9]*`' SECURITY.md | tr -d '`' | grep -v '\.c$' | sort -u); do
    count=$((count + 1))
    grep -q -E "^Test\(${name%%.*}, ${name#*.}\b" tests/unit/*.c || { echo "SECURITY.md: there is no unit test $name"; failed=1; }
done
for name in $(grep -o 'fuzz `[a-z_`, ]*`' SECURITY.md | tr -d '`,' | sed 's/^fuzz //' | tr ' ' '\n' | sort -u); do
    count=$((count + 1))
    grep -q -x "$name" fuzz/harnesses || { echo "SECURITY.md: there is no fuzzer $name"; failed=1; }
done
for name in $(cat fuzz/harnesses); do
    grep -q "\`$name\`" SECURITY.md || { echo "SECURITY.md: the fuzzer $name holds no promise"; failed=1; }
done
[ "$count" -gt 40 ] || { echo "SECURITY.md: only $count tests found in it"; failed=1; }
[ $failed = 0 ] && echo "$count tests and fuzzers are there"
exit $failed
