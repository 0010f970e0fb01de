#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Two processors: L0 starts the second one and lets it wait; the small L1 starts it again by INIT and start-up IPIs, and each runs an L2 on the same
# ept12. The report is that of the bare machine, but for what Bochs does not do (strict.*). L0 takes memory away meanwhile and nobody notices. Which exits it
# compares: tests/l1/exits.tsv.
# NVMX_FULL=1: Debian's Linux with two processors as L1, and KVM's guest with two vCPUs.
. "$(dirname "$0")/common" "$@"

report() {
    grep '^l1: smp' "$scratch/$1.out" | tr -d '\r' >"$scratch/$1.report"
    tr -d '\r' <"$scratch/$1.out" | grep -q -E '^l1: [1-9][0-9]+ steps, 0 failed$' || {
        grep -e ': FAIL: ' -e fatal "$scratch/$1.out"
        tail -n 5 "$scratch/$1.out"
        fail "$1: the report does not end with its steps, none failed"
    }
    [ "$(wc -l <"$scratch/$1.report")" -ge 25 ] || fail "$1: hardly anything was reported"
}

same() {
    diff -u "$scratch/direct.report" "$scratch/$1.report" || fail "$1: the reports differ (-: the CPU itself, +: nvmx)"
    grep -q '^nvmx: 2 processors' "$scratch/$1.out" || fail "$1: L0 does not say that it has both processors"
    printf '%s: %d lines are the same\n' "$1" "$(wc -l <"$scratch/$1.report")"
}

run direct 0 --direct --cpus 2 --timeout 200 "$l1" smp
run nvmx 0 --cpus 2 --timeout 300 "$l1" smp strict.init_in_root
run resize 0 --cpus 2 --stats --l0-option resize=7 --timeout 300 "$l1" smp
for name in direct nvmx resize; do
    report "$name"
    [ "$name" = direct ] || same "$name"
done
compared smp "$scratch/nvmx.report"
grep -q 'strict.init_in_root.startup: ok' "$scratch/nvmx.out" || fail 'an INIT signal in VMX root operation is not taken at VMXOFF'
grep -q -E '^nvmx-stats: resize taken [1-9][0-9][0-9]' "$scratch/resize.out" || fail 'hardly a page was taken'

# The end of one processor is the end of all, and one report.
run crash 4 --cpus 2 --timeout 200 "$l1" strict.init_boot
grep -q '^nvmx: fatal: L1.s boot processor got an INIT signal' "$scratch/crash.out" || fail 'L0 does not say that the boot processor was reset'
grep -q '^  6816 Guest GDTR base' "$scratch/crash.out" || fail "L0's report has no VMCS"

run three 0 --cpus 3 --timeout 200 "$l1" off.vmxon_pointers
grep -q '^nvmx: 3 processors' "$scratch/three.out" || fail 'L0 does not say that it has three processors'

[ -n "${NVMX_FULL:-}" ] || exit 0

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/nvmx
mkdir -p "$cache"
"$source_folder/tests/linux/fetch-kernel" "$cache/kernel" || fail 'no kernel'
"$source_folder/tests/linux/build-initramfs" "$cache/kernel" "$scratch/initramfs" || fail 'no initramfs'
# What an SMP Linux waits for costs Bochs a turn of all processors for each tick: a low --ips makes its seconds short.
read -r -a command_line <<<"$(sed 's/nosmp //' "$source_folder/tests/linux/command-line") rodata=off lsm=capability cryptomgr.notests rcupdate.rcu_expedited=1 only_smp"
for name in linux linux-resize; do
    options=(--stats)
    [ "$name" = linux ] || options+=(--l0-option resize=7,1)
    run "$name" 0 --cpus 2 --memory 384 --ips 20000000 --timeout 1500 "${options[@]}" --module "$scratch/initramfs" "$cache/kernel/vmlinuz" "${command_line[@]}"
    tr -d '\r' <"$scratch/$name.out" >"$scratch/$name.report"
    grep -q '^init: 2 processors' "$scratch/$name.report" || fail "$name: Linux has not both processors"
    grep -E '^kvm-smp: all [1-9][0-9]* values' "$scratch/$name.report" || fail "$name: $(grep -m 1 FAILED "$scratch/$name.report")"
    grep -E '^nvmx-stats: resize ' "$scratch/$name.report" || [ "$name" = linux ] || fail "$name: nothing was resized"
done
