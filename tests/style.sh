#!/bin/sh
# SPDX-License-Identifier: MIT
# Rules that no compiler checks.
#   style.sh SOURCE
# Files of the repository only (git ls-files where there is git, else all): at most 600 lines for headers and sources outside of tests/, a README.md in each
# folder, licence lines, no tabs and no blanks at line ends in C, no allocation and no libc headers in lib/.
set -u
cd "$1" || exit 1
failed=0
complain() {
    echo "$*"
    failed=1
}

list() {
    git ls-files --cached --others --exclude-standard 2>/dev/null || find . -type f -not -path './build*' -not -path './.git/*' | sed 's|^\./||'
}
files=$(list | sort -u | while read -r file; do [ -f "$file" ] && echo "$file"; done)
[ -n "$files" ] || { echo "no files in $1"; exit 1; }

for file in $(echo "$files" | grep -E '^(lib|include|tests|bindings)/.*\.[chS]$'); do
    lines=$(wc -l < "$file")
    case $file in
    tests/*) ;;
    *) [ "$lines" -le 600 ] || complain "$file: $lines lines (600 at most)" ;;
    esac
    head -3 "$file" | grep -q 'SPDX-License-Identifier: MIT' || complain "$file: no SPDX line"
    grep -n -E '	| +$' "$file" | grep -v -E '\.S$' | head -3 | sed "s|^|$file: tab or blank at the end of line |" | grep . && failed=1
    awk -v file="$file" 'length($0) > 160 { print file ":" NR ": longer than 160 columns"; bad = 1 } END { exit bad }' "$file" || failed=1
done

# Scripts by name or by their first line; a shell or Python file may be empty.
echo "$files" | while read -r file; do
    case $file in
    *.sh | *.py) [ -s "$file" ] ;;
    *) head -c 2 "$file" | grep -a -q '^#!' ;;
    esac && { head -3 "$file" | grep -q 'SPDX-License-Identifier: MIT' || echo "$file: no SPDX line"; }
done | grep . && failed=1

# Folders that hold files themselves; .ci holds one script that says what it does.
echo "$files" | grep / | sed 's|/[^/]*$||' | sort -u | grep -v -x '\.ci' | while read -r folder; do
    [ -f "$folder/README.md" ] || echo "$folder: no README.md"
done | grep . && failed=1

for file in $(echo "$files" | grep -E '^lib/.*\.[ch]$'); do
    grep -n -E '^#include <(stdio|stdlib|math|time|unistd|pthread|assert)\.h>' "$file" | sed "s|^|$file:|" | grep . && failed=1
    grep -n -w -E 'malloc|calloc|realloc|free|printf|float|double' "$file" | grep -v -E '^[0-9]+: *(/?\*|//)|\*/ *$|"[^"]*(free|double)[^"]*"' |
        grep -E '\b(malloc|calloc|realloc|free|printf) *\(|\b(float|double) +[a-z_]+ *[;=,)]' | sed "s|^|$file:|" | grep . && failed=1
done

[ $failed = 0 ] && echo "$(echo "$files" | wc -l) files keep the rules"
exit $failed
