#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# A CPU that lacks what L0 needs: one clear line that names it, and an exit status that is not 0.
. "$(dirname "$0")/common" "$@"

refuses() { # CPU, what the message must name
    run "$1" 4 --cpu "$1" --timeout 120 "$l1"
    grep -E "^nvmx: fatal: .*$2" "$scratch/$1.out" || {
        tail -n 5 "$scratch/$1.out" "$scratch/$1.err"
        fail "$1: no message that names $2"
    }
    ! grep -q '^l1: ' "$scratch/$1.out" || fail "$1: L1 was started all the same"
}

refuses core_duo_t2400_yonah '64-bit mode'
refuses athlon64_clawhammer VMX
refuses core2_penryn_t9600 'EPT|secondary'
