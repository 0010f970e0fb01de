#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# An L1 with two trust levels (two EPTs with different rights; the level changes by VMWRITE of the EPT pointer and by VMFUNC) reports the same
# on the bare machine and on nvmx. Bochs 2.7 has no mode-based execute control: both say "skipped: not offered".
# NVMX_FULL=1: a million switches.
. "$(dirname "$0")/common" "$@"

rounds=$([ -n "${NVMX_FULL:-}" ] && echo 250000 || echo 3000)
steady=$build_folder/tests/steady/nvmx-steady.elf
for machine in direct nvmx; do
    run "$machine" 0 $([ "$machine" = nvmx ] || echo --direct) --timeout 3000 "$steady" trust "$rounds"
    tr -d '\r' <"$scratch/$machine.out" | grep '^l1: ' >"$scratch/$machine.report"
    tail -n 1 "$scratch/$machine.report" | grep -q "^l1: trust rounds $rounds switches $((rounds * 4)) verified [1-9]" ||
        fail "$machine: $(tail -n 1 "$scratch/$machine.report")"
done
grep -q '^nvmx: ' "$scratch/nvmx.out" || fail 'L0 said nothing: was it there?'
diff -u "$scratch/direct.report" "$scratch/nvmx.report" || fail 'the reports differ (-: the CPU itself, +: nvmx)'
grep skipped "$scratch/nvmx.report"
tail -n 1 "$scratch/nvmx.report"
