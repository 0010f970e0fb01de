#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Debian's KVM as L1 with its parameters varied: one Linux loads kvm_intel anew with each set, and the guest passes every step with each.
# The default is one set that changes much of what KVM asks of VMX; NVMX_FULL=1: each parameter.
. "$(dirname "$0")/common" "$@"

sets='ept=0,unrestricted_guest=0,vpid=0,enable_shadow_vmcs=0'
[ -z "${NVMX_FULL:-}" ] || sets='ept=0:ept=0,vpid=0:vpid=0:unrestricted_guest=0:eptad=0:flexpriority=0:enable_apicv=0:enable_shadow_vmcs=0:preemption_timer=0:pml=0:emulate_invalid_guest_state=0:nested=0:nested=1:ple_gap=0:vnmi=0:nested_early_check=1:ept=0,unrestricted_guest=0,vpid=0,flexpriority=0,enable_apicv=0,preemption_timer=0,pml=0'

prepare_linux
run linux 0 --memory 512 --timeout 1800 --module "$scratch/initramfs" "$kernel/vmlinuz" "${command_line[@]}" "kvm_sets=$sets"
tr -d '\r' <"$scratch/linux.out" >"$scratch/report"
grep -q '^nvmx: ' "$scratch/report" || fail 'L0 said nothing: was it there?'
IFS=':' read -r -a each <<<"$sets"
for set in "${each[@]}"; do
    grep -q "^init: set ${set//,/ }: passed" "$scratch/report" || fail "kvm_intel $set: $(grep -m 1 FAILED "$scratch/report")"
    printf 'kvm_intel %s: passed\n' "$set"
done
