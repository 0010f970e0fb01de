#!/bin/sh
# SPDX-License-Identifier: MIT
# Install into a temporary prefix, then build and run tests/consumer from outside the tree: by find_package, by pkg-config, and as a subdirectory.
#   consumer.sh BUILD SOURCE CC
set -eu
build=$1 source=$2 cc=$3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT INT TERM
expected='L1 read IA32_VMX_BASIC:'

check() { # NAME PROGRAM
    output=$("$2") || { echo "$1: exit status $?"; exit 1; }
    case $output in
    "$expected"*) echo "$1: $output" ;;
    *) echo "$1: printed '$output' instead of '$expected ...'"; exit 1 ;;
    esac
}

cmake --install "$build" --prefix "$scratch/prefix" > "$scratch/log" || { cat "$scratch/log"; exit 1; }
cp -r "$source/tests/consumer" "$scratch/consumer"

cmake -S "$scratch/consumer" -B "$scratch/build" -DCMAKE_C_COMPILER="$cc" -DCMAKE_PREFIX_PATH="$scratch/prefix" > "$scratch/log"
cmake --build "$scratch/build" >> "$scratch/log" || { cat "$scratch/log"; exit 1; }
for program in "$scratch"/build/example-*; do
    check "find_package, ${program##*/example-}" "$program"
done

pc=$(find "$scratch/prefix" -name nvmx.pc)
libdir=$(dirname "$(dirname "$pc")")
flags=$(PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --cflags --libs nvmx)
# shellcheck disable=SC2086 # flags are several words
"$cc" -std=c11 "$scratch/consumer/example.c" -o "$scratch/by-pkg-config" $flags
export LD_LIBRARY_PATH="$libdir"
check pkg-config "$scratch/by-pkg-config"
unset LD_LIBRARY_PATH

mkdir "$scratch/parent"
cat > "$scratch/parent/CMakeLists.txt" << EOF2
cmake_minimum_required(VERSION 3.20)
project(parent LANGUAGES C)
add_compile_options(-O2 -flto) # as distributions have it: the library's objects are compiled without
add_subdirectory("$source" nvmx)
if(TARGET nvmx-unit OR TARGET nvmx_shared OR TARGET nvmx-baremetal)
    message(FATAL_ERROR "as a subdirectory the project builds more than the library")
endif()
add_executable(example "$scratch/consumer/example.c")
set_target_properties(example PROPERTIES C_STANDARD 11)
target_compile_options(example PRIVATE -fno-lto)
target_link_libraries(example PRIVATE nvmx::nvmx)
EOF2
cmake -S "$scratch/parent" -B "$scratch/parent/build" -DCMAKE_C_COMPILER="$cc" > "$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
cmake --build "$scratch/parent/build" --target example > "$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
check add_subdirectory "$scratch/parent/build/example"
sh "$source/tests/symbols.sh" archive "$scratch/parent/build/nvmx/libnvmx.a"
