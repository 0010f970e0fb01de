#!/bin/sh
# cppcheck over lib/ and the simulated host; anything it says fails.
#   cppcheck.sh SOURCE CPPCHECK
set -u
cd "$1" || exit 1
exec "$2" --quiet --std=c11 --enable=warning,portability,performance --inline-suppr --error-exitcode=1 \
    --suppress=missingIncludeSystem -Iinclude -Ilib -DNVMX_HAVE_ZYDIS=1 lib tests/sim
