# SPDX-License-Identifier: MIT
"""What an operation might cost on a real CPU, from counts. An estimate: nothing here was measured on one."""

# Cycles. The first two are measured figures of recent Intel CPUs; the others are assumptions on the careful side.
FIELD = 27              # one VMREAD or VMWRITE
PAIR = (520, 640)       # one VM exit and the entry after it, hardware's part
SWITCH = 150            # VMPTRLD or VMCLEAR
FLUSH = 200             # INVEPT or INVVPID
PER_CYCLE = 1.5         # other instructions executed in one cycle

ABOUT = (f"An estimate for a real CPU, from counts: {FIELD} cycles for a VMREAD or VMWRITE, {PAIR[0]}-{PAIR[1]} for a hardware exit "
         f"with its entry, {SWITCH} for VMPTRLD and VMCLEAR, {FLUSH} for INVEPT and INVVPID, {PER_CYCLE} other instructions a cycle. "
         "Control groups that are written cost several hundred cycles more at the next entry, cache and TLB misses are left out: "
         "nothing of it was measured on real hardware.")


def totals(traced):
    """(exits, fields, switches, flushes, all instructions) of one traced operation."""
    vmx = traced["vmx"]
    return (len(traced["exits"]), vmx.get("vmread", 0) + vmx.get("vmwrite", 0), vmx.get("vmptrld", 0) + vmx.get("vmclear", 0),
            vmx.get("invept", 0) + vmx.get("invvpid", 0), sum(one["instructions"] for one in traced["exits"]) + traced["l1_and_l2"])


def cycles(traced):
    """(low, high)"""
    exits, fields, switches, flushes, instructions = totals(traced)
    base = fields * FIELD + switches * SWITCH + flushes * FLUSH
    base += (instructions - fields - switches - flushes) / PER_CYCLE
    return round(base + exits * PAIR[0]), round(base + exits * PAIR[1])
