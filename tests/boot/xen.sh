#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Debian's Xen finds the same VMX on nvmx as on the bare machine (but for what nvmx does not offer), and runs an HVM domain with it.
. "$(dirname "$0")/common" "$@"

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/nvmx
mkdir -p "$cache"
"$source_folder/tests/xen/fetch-xen" "$cache/xen" || fail 'no Xen'
"$source_folder/tests/xen/build-dom0" "$cache/xen" "$scratch/dom0.elf" || fail 'no dom0'
xen=("$cache/xen/xen" 'com1=115200,8n1' console=com1 loglvl=all guest_loglvl=all dom0_mem=32M sync_console)

# What Xen says of VMX, and what dom0 and the domain say.
report() {
    tr -d '\r' <"$scratch/$1.out" | grep -E '^(\(XEN\) +- |\(XEN\) (VMX|HVM):|\(d1\) |dom0: )'
}

for name in direct nvmx; do
    how=()
    [ $name = nvmx ] || how=(--direct)
    run $name 0 "${how[@]}" --memory 256 --timeout 300 --module "$scratch/dom0.elf" "${xen[@]}"
    report $name >"$scratch/$name.report"
    for line in '(XEN) VMX: Supported advanced features:' '(XEN)  - Extended Page Tables (EPT)' '(XEN)  - Unrestricted Guest' \
        '(d1) L2: long mode' '(d1) L2: CPUID says XenVMMXenVMM' '(d1) L2: memory holds what was written' 'dom0: all passed'; do
        grep -q -x -F "$line" "$scratch/$name.report" || fail "$name: Xen did not say '$line'"
    done
done
grep -q '^nvmx: ' "$scratch/nvmx.out" || fail 'L0 said nothing: was it there?'
diff -u "$scratch/direct.report" "$scratch/nvmx.report" || fail 'Xen says something else on nvmx (-: the CPU itself, +: nvmx)'

# INT 15H told Xen of L0's range.
tr -d '\r' <"$scratch/nvmx.out" | sed -n 's/^nvmx: L0 at 0x\([0-9a-f]*\)-0x\([0-9a-f]*\)$/\1 \2/p' >"$scratch/own"
read -r start end <"$scratch/own"
printf '(XEN)  [%016x, %016x] (reserved)\n' "0x$start" $((0x$end - 1)) >"$scratch/line"
grep -q -x -F "$(cat "$scratch/line")" <(tr -d '\r' <"$scratch/nvmx.out") || fail "L0's range is not reserved in Xen's memory map"
grep '^(d1) ' "$scratch/nvmx.report"
