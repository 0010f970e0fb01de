#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# A stock Linux as L2: Debian's kernel boots on nvmx, and under its own KVM the same kernel boots once more, to its own init, and powers off by ACPI.
# What L2 says is the same as without nvmx, but for times. Takes minutes: with NVMX_FULL=1 only.
. "$(dirname "$0")/common" "$@"

[ "${NVMX_FULL:-0}" = 1 ] || {
    echo 'not run: NVMX_FULL=1 boots Linux as L2, which takes minutes'
    exit 0
}
prepare_linux --linux-guest

for name in direct nvmx; do
    how=()
    [ $name = nvmx ] || how=(--direct)
    run $name 0 "${how[@]}" --memory 768 --timeout 1800 --module "$scratch/initramfs" "$kernel/vmlinuz" "${command_line[@]}" -- \
        "${command_line[@]}"
    tr -d '\r' <"$scratch/$name.out" | grep -E '^(L2|linux-guest): ' >"$scratch/$name.all"
    sed -E 's/\[ *[0-9]+\.[0-9]+\]/[time]/; /exits to user space$/d' "$scratch/$name.all" >"$scratch/$name.report"
    for line in 'L2: guest-init: all passed' 'L2: [time] reboot: Power down' 'linux-guest: the guest powered off'; do
        grep -q -x -F "$line" "$scratch/$name.report" || {
            cat "$scratch/$name.all"
            fail "$name: nobody said '$line'"
        }
    done
done
grep -q '^nvmx: ' "$scratch/nvmx.out" || fail 'L0 said nothing: was it there?'
diff -u "$scratch/direct.report" "$scratch/nvmx.report" || fail 'L2 says something else on nvmx (-: without)'
cat "$scratch/nvmx.all"
