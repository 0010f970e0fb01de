#include "scenarios.h"

DEFINE_L2_CODE(cpuid, "mov $1, %eax\n xor %ecx, %ecx\n" EXIT "cpuid\n" EXIT "vmcall\n");
static const struct expected_exit cpuid_exits[] = {
    {.name = "cpuid", .exit = {.reason = REASON_CPUID, .length = 2}},
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}},
};

static const struct scenario table[] = {
    {.name = "cpuid", .kind = WITH_L2, L2_CODE(cpuid), EXITS(cpuid_exits)},
};

DEFINE_SCENARIOS(instruction, table);
