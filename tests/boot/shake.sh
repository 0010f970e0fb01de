#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# L0 shakes: at random exits it saves the nested state, destroys libnvmx's vCPU (and VM), makes them anew elsewhere and restores. It compares
# what it saves again, and what vmcs01 and vmcs02 hold, itself (bindings/baremetal/shake.c); here L1 and L2 must not have noticed.
# NVMX_FULL=1: at nearly every exit of Linux, more than 10,000 times, and its output is compared with that of an undisturbed run.
. "$(dirname "$0")/common" "$@"

full=${NVMX_FULL:-}

saves() { # NAME, at least
    local count
    count=$(tr -d '\r' <"$scratch/$1.out" | sed -n 's/^nvmx-stats: shake saves \([0-9]*\) while-L2 [1-9].*/\1/p')
    [ "${count:-0}" -ge "$2" ] || fail "$1: only ${count:-0} saves"
    printf '%s: ' "$1"
    tr -d '\r' <"$scratch/$1.out" | grep '^nvmx-stats: shake '
}

# Bochs names a wrong vector in the IDT-vectoring information of a virtual interrupt whose delivery meets an EPT violation, which happens in these
# scenarios whenever ept02 is new.
report() {
    tr -d '\r' <"$scratch/$1.out" | grep '^l1: ' | grep -v -E \
        '^l1: (apic\.(delivery|eoi_exit|held_back|cleared_if|self_ipi|page_eoi)[.:]|[0-9]+ steps)' >"$scratch/$1.report"
    [ "$(wc -l <"$scratch/$1.report")" -ge 500 ] || fail "$1: hardly a report"
}

run plain 0 --timeout 300 "$l1"
run shaken 0 --stats --timeout 600 --l0-option "shake=$([ -n "$full" ] && echo 3 || echo 40),1" "$l1"
report plain
report shaken
diff -u "$scratch/plain.report" "$scratch/shaken.report" || fail 'the small L1 noticed (-: undisturbed, +: shaken)'
printf 'l1: %d lines are the same\n' "$(wc -l <"$scratch/shaken.report")"
saves shaken 500

prepare_linux
if [ -n "$full" ]; then
    linux linux-plain --stats
    linux linux-shaken --stats --l0-option shake=2,1
    diff -u "$scratch/linux-plain.report" "$scratch/linux-shaken.report" || fail 'Linux or its guest noticed'
    saves linux-shaken 10000
else
    linux linux-shaken --stats --l0-option shake=20,1
    saves linux-shaken 500
fi
