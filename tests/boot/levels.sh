#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# nvmx on nvmx on nvmx: what L1 sees is VMX, however many times it was emulated. The small L1 reports at each depth what it reports at
# depth 1, and the guest of Debian's KVM passes on two of them (L0 -> nvmx -> KVM -> guest).
# Each level takes longer than the one before: from depth 3 on only some of the scenarios run. NVMX_FULL=1: all of them at depth 3, some
# at depth 4. NVMX_LEVELS=N: the small L1 down to depth N. NVMX_LINUX_LEVELS=3: KVM's guest on three, too (L0 -> nvmx -> nvmx -> KVM -> guest);
# it passes 9 of its 11 steps. In the tenth, with interrupts enabled, every entry of it ends at once by an interrupt of Linux's timer.
. "$(dirname "$0")/common" "$@"

full=${NVMX_FULL:-}
deepest=${NVMX_LEVELS:-$([ -n "$full" ] && echo 4 || echo 3)}
# Those that go through the most of nvmx in the least time.
some=(off vmcs.launch_state io.bitmaps msr.bitmaps exception.pf_mask ept.permission vpid.invvpid event.inject event.interrupt mode.real)

report() { # depth, scenarios...
    local depth=$1
    shift
    run "$depth" 0 --levels "$depth" --ips 2000000 --timeout 5400 "$l1" "$@"
    grep '^l1: ' "$scratch/$depth.out" | tr -d '\r' >"$scratch/$depth.report"
    [ "$(grep -c '^nvmx: starting L1' "$scratch/$depth.out")" -eq "$depth" ] || fail "depth $depth: not as many nvmx as asked for"
    tail -n 1 "$scratch/$depth.report" | grep -q -E '^l1: [1-9][0-9]+ steps, 0 failed$' || {
        grep ': FAIL: ' "$scratch/$depth.report"
        tail -n 5 "$scratch/$depth.out"
        fail "depth $depth: the report does not end with its steps, none failed"
    }
}

same() { # depth, depth of the report to compare with
    diff -u "$scratch/$2.report" "$scratch/$1.report" || fail "depth $1 reports something else than depth $2"
    printf 'depth %d: %d lines are the same\n' "$1" "$(wc -l <"$scratch/$1.report")"
}

whole=$([ -n "$full" ] && echo 3 || echo 2)
report 1
for ((depth = 2; depth <= deepest && depth <= whole; depth++)); do
    report "$depth"
    same "$depth" 1
done
[ "$deepest" -le "$whole" ] || report 1 "${some[@]}"
for (( ; depth <= deepest; depth++)); do
    report "$depth" "${some[@]}"
    same "$depth" 1
done

prepare_linux
for ((depth = 2; depth <= ${NVMX_LINUX_LEVELS:-2}; depth++)); do
    linux "linux-$depth" --levels "$depth"
    [ "$(grep -c '^nvmx: starting L1' "$scratch/linux-$depth.out")" -eq "$depth" ] || fail 'Linux: not as many nvmx as asked for'
    printf 'Linux on %d nvmx: %s\n' "$depth" "$(grep -E '^kvm-guest: all ' "$scratch/linux-$depth.report")"
done
