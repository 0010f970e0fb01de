#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The small L1 gives the same report on the bare machine and on nvmx, on both CPU models: whatever the CPU itself does, nvmx does. The
# report's own expectations (the SDM's) hold in both. Which exits it compares: tests/l1/exits.tsv. NVMX_L1_CPUS: other models, as of another Bochs
# (NVMX_BOCHS).
. "$(dirname "$0")/common" "$@"

report() {
    grep '^l1: ' "$scratch/$1.out" | tr -d '\r' >"$scratch/$1.report"
    tail -n 1 "$scratch/$1.report" | grep -q -E '^l1: [1-9][0-9][0-9]+ steps, 0 failed$' || {
        grep -e ': FAIL: ' -e fatal "$scratch/$1.out"
        tail -n 5 "$scratch/$1.out"
        fail "$1: the report does not end with its steps, none failed"
    }
}

skipped() {
    sed -n 's/^\(l1: [^:]*\): skipped: .*/\1/p' "$scratch/$1.report"
}

# What both did: L1 skips a scenario for what a CPU does not offer (or offers, where it tests its absence).
common() {
    { skipped "$1"; skipped "$2"; } | sort -u >"$scratch/skipped"
    for name in "$1" "$2"; do
        awk -v list="$scratch/skipped" '
            BEGIN { while ((getline line < list) > 0) gone[++n] = line }
            /^l1: [0-9]+ steps, / { next }
            { for (i = 1; i <= n; i++) if (index($0, gone[i] ":") == 1 || index($0, gone[i] ".") == 1) next; print }
        ' "$scratch/$name.report" >"$scratch/$name.common"
        [ "$(wc -l <"$scratch/$name.common")" -ge 500 ] || fail "$name: hardly anything is left to compare"
    done
}

cpus=${NVMX_L1_CPUS:-corei7_skylake_x corei7_icelake_u}
for cpu in $cpus; do
    run "direct-$cpu" 0 --direct --cpu "$cpu" --timeout 600 "$l1"
    run "nvmx-$cpu" 0 --cpu "$cpu" --timeout 600 "$l1"
    grep -q '^nvmx: ' "$scratch/nvmx-$cpu.out" || fail "$cpu: L0 said nothing: was it there?"
    report "direct-$cpu"
    report "nvmx-$cpu"
    common "direct-$cpu" "nvmx-$cpu"
    diff -u "$scratch/direct-$cpu.common" "$scratch/nvmx-$cpu.common" || fail "$cpu: the reports differ (-: the CPU itself, +: nvmx)"
    printf '%s: %d lines are the same\n' "$cpu" "$(wc -l <"$scratch/nvmx-$cpu.common")"
    skipped "nvmx-$cpu" | sed "s/^/$cpu: not offered on nvmx: /"
done

# An older model has SMX, too.
if [ -z "${NVMX_L1_CPUS:-}" ]; then
    run direct-smx 0 --direct --cpu corei5_arrandale_m520 --timeout 200 "$l1" getsec
    run nvmx-smx 0 --cpu corei5_arrandale_m520 --timeout 200 "$l1" getsec
    for name in direct-smx nvmx-smx; do
        grep '^l1: ' "$scratch/$name.out" | tr -d '\r' >"$scratch/$name.common"
    done
    diff -u "$scratch/direct-smx.common" "$scratch/nvmx-smx.common" || fail 'GETSEC: the reports differ (-: the CPU itself, +: nvmx)'
fi
compared "${NVMX_L1_CPUS:-l1}" "$scratch"/nvmx-*.common
