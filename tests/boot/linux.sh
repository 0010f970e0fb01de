#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Debian's Linux boots on nvmx as L1, and its own KVM runs a guest that passes every step.
. "$(dirname "$0")/common" "$@"

prepare_linux
linux linux --stats
grep -E '^kvm-guest: all ' "$scratch/linux.report"
grep '^L2: ' "$scratch/linux.report"
