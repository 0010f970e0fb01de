#!/bin/sh
# SPDX-License-Identifier: MIT
# Each public header compiles alone, in C11 and in C++17, with every warning (in C++ without -Wshadow, which takes a function
# and a struct of one name for a hidden constructor).
#   headers.sh INCLUDE_DIR CC CXX
set -u
include=$1 cc=$2 cxx=$3 failed=0 seen=0
warnings='-Wall -Wextra -Wconversion -Werror -fsyntax-only'
for header in "$include"/nvmx/*.h; do
    name=nvmx/${header##*/}
    seen=$((seen + 1))
    # Twice: the second inclusion must do nothing.
    text="#include <$name>
#include <$name>"
    # shellcheck disable=SC2086 # the warnings are several words
    echo "$text" | "$cc" -std=c11 -pedantic $warnings -Wshadow -Wmissing-prototypes -I"$include" -x c - || {
        echo "$name: does not compile alone in C11"; failed=1; }
    # shellcheck disable=SC2086
    echo "$text" | "$cxx" -std=c++17 -pedantic $warnings -I"$include" -x c++ - || {
        echo "$name: does not compile alone in C++17"; failed=1; }
done
[ "$seen" -gt 0 ] || { echo "no headers in $include/nvmx"; exit 1; }
[ $failed = 0 ] && echo "$seen headers compile alone"
exit $failed
