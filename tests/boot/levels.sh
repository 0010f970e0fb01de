#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# nvmx on nvmx on nvmx: what L1 sees is VMX, however many times it was emulated. The small L1 reports at each depth what it reports at
# depth 1, and the guest of Debian's KVM passes on two of them (L0 -> nvmx -> KVM -> guest).
# Each level takes longer than the one before: from depth 3 on only some of the scenarios run. NVMX_FULL=1: all of them at depth 3, some
# at depth 4, and KVM's guest on three, too (L0 -> nvmx -> nvmx -> KVM -> guest). NVMX_LEVELS=N: the small L1 down to depth N.
# NVMX_LINUX_LEVELS=N: KVM's guest down to N.
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

# On three, an interrupt of Linux's timer and what it does to KVM's guest take longer than the 4 ms from one to the next, and no entry
# would get anywhere. So Linux believes in a TSC so fast that its 4 ms are 128 million instructions; and not the PM timer, which knows better.
slow_clock=(tsc_early_khz=32000000 pmtmr=0)

prepare_linux
for ((depth = 2; depth <= ${NVMX_LINUX_LEVELS:-$([ -n "$full" ] && echo 3 || echo 2)}; depth++)); do
    [ "$depth" -ne 3 ] || command_line+=("${slow_clock[@]}")
    linux "linux-$depth" --levels "$depth"
    [ "$(grep -c '^nvmx: starting L1' "$scratch/linux-$depth.out")" -eq "$depth" ] || fail 'Linux: not as many nvmx as asked for'
    printf 'Linux on %d nvmx: %s\n' "$depth" "$(grep -E '^kvm-guest: all ' "$scratch/linux-$depth.report")"
done
