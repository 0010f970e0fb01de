/* SPDX-License-Identifier: MIT */
/* Not tests: what this processor offers. Only by name, for it differs from machine to machine. */
#include "scenarios.h"

static void capabilities(struct l2 *l2) {
    (void)l2;
    print("l1: feature control %lx\n", rdmsr(MSR_FEATURE_CONTROL));
    for (uint32_t index = 0x480; index <= 0x493; index++) {
        bool exists = index < 0x48b || (index == 0x48b && cap.may.proc2 != 0) || (index == 0x48c && cap.ept_vpid != 0) ||
                      (index >= 0x48d && index <= 0x490 && (rdmsr(MSR_VMX_BASIC) >> 55 & 1) != 0) ||
                      (index == 0x491 && (cap.may.proc2 & PROC2_VMFUNC) != 0);
        if (exists) {
            print("l1: %x %016lx\n", index, rdmsr(index));
        }
    }
}

static const struct scenario table[] = {
    {.name = "info.capabilities", .kind = WITHOUT_VMX, .body = capabilities, .only_by_name = true},
};

DEFINE_SCENARIOS(info, table);
