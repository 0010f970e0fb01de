#!/usr/bin/env bash
# Debian's Linux boots on nvmx as L1, and its own KVM runs a guest that passes every step.
. "$(dirname "$0")/common" "$@"

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/nvmx
mkdir -p "$cache"
"$source_folder/tests/linux/fetch-kernel" "$cache/kernel" || fail 'no kernel'
"$source_folder/tests/linux/build-initramfs" "$cache/kernel" "$scratch/initramfs" || fail 'no initramfs'
read -r -a command_line <"$source_folder/tests/linux/command-line"
run linux 0 --stats --memory 512 --timeout 600 --module "$scratch/initramfs" "$cache/kernel/vmlinuz" "${command_line[@]}"
tr -d '\r' <"$scratch/linux.out" >"$scratch/report"
grep -q '^nvmx: ' "$scratch/report" || fail 'L0 said nothing: was it there?'
grep -q '^L2: ' "$scratch/report" || fail 'L2 said nothing'
grep -E '^kvm-guest: all [1-9][0-9]* steps passed' "$scratch/report" || fail "L2 did not pass: $(grep -m 1 FAILED "$scratch/report")"
grep '^L2: ' "$scratch/report"
