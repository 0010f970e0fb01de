#!/bin/sh
# SPDX-License-Identifier: MIT
# README.md says what the sources say: the example is tests/consumer/example.c, the table of features is what nvmx-status prints, each callback of
# struct nvmx_host has its row, and each file and folder that is named exists.
#   readme.sh SOURCE NVMX-STATUS             compare
#   readme.sh SOURCE NVMX-STATUS --update    write the example and the table into README.md
set -u
cd "$1" || exit 1
status=$2 failed=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT INT TERM

# The text between <!-- begin NAME --> and <!-- end NAME -->, without the fences of a code block.
part() {
    sed -n "/^<!-- begin $1 -->\$/,/^<!-- end $1 -->\$/p" README.md | grep -v -e '^<!-- ' -e '^```'
}

compare() { # NAME FILE-WITH-WHAT-IS-TRUE HOW-TO-UPDATE
    part "$1" > "$scratch/readme"
    [ -s "$scratch/readme" ] || { echo "README.md: no part '$1'"; failed=1; }
    diff -u "$scratch/readme" "$2" || { echo "README.md: the part '$1' is not $3"; failed=1; }
}

# The part NAME becomes the text of FILE, in a code block if LANGUAGE is given.
update() { # NAME FILE [LANGUAGE]
    awk -v name="$1" -v file="$2" -v language="${3-}" '
        $0 == "<!-- end " name " -->" { inside = 0 }
        !inside { print }
        $0 == "<!-- begin " name " -->" {
            inside = 1
            if (language) print "```" language
            while ((getline line < file) > 0) print line
            if (language) print "```"
        }' README.md > "$scratch/new" && cat "$scratch/new" > README.md
}

if [ "${3-}" = --update ]; then
    "$status" > "$scratch/status" || exit 1
    update features "$scratch/status"
    update example tests/consumer/example.c c
fi

compare example tests/consumer/example.c tests/consumer/example.c
"$status" > "$scratch/status" || exit 1
compare features "$scratch/status" 'what nvmx-status prints: run tests/readme.sh SOURCE BUILD/tests/nvmx-status --update'

part callbacks > "$scratch/callbacks"
for name in $(sed -n '/^struct nvmx_host {/,/^};/s/.*(\*\([a-z0-9_]*\))(.*/\1/p' include/nvmx/host.h); do
    grep -q "\`$name\`" "$scratch/callbacks" || { echo "README.md: the callback $name has no row"; failed=1; }
done

for path in $(grep -o -E '`(bindings|tests|include|lib|fuzz|bench)/[A-Za-z0-9_./-]*`' README.md | tr -d '`' | sort -u); do
    [ -e "$path" ] || { echo "README.md: names $path, which does not exist"; failed=1; }
done
exit $failed
