/* SPDX-License-Identifier: MIT */
/* Capabilities from the lines "cpuid LEAF EAX EBX ECX EDX" and "msr INDEX VALUE" that the image prints. */
#include <inttypes.h>
#include <string.h>

#include "generate.h"

struct leaf {
    uint32_t eax, ebx, ecx, edx;
};

/* What the bare-metal host makes of them; its L1 must see the same. */
static void facts(struct nvmx_caps *caps, const struct leaf *structured, const struct leaf *perf, const struct leaf *extended) {
    caps->cpu = NVMX_CPU_LONG_MODE | NVMX_CPU_NX;
    caps->cpu |= extended->edx & 1u << 11 ? NVMX_CPU_SYSCALL : 0;
    caps->cpu |= structured->ecx & 1u << 16 ? NVMX_CPU_LA57 : 0;
    caps->cpu |= structured->ebx & 1u << 2 ? NVMX_CPU_SGX : 0;
    caps->cpu |= structured->ebx & 1u << 11 ? NVMX_CPU_RTM : 0;
    caps->debugctl_valid = 0x5fc3 | (structured->ebx & 1u << 11 ? 1u << 15 : 0);
    if (perf->eax & 0xff)
        caps->perf_global_ctrl_valid = ((UINT64_C(1) << (perf->eax >> 8 & 0xff)) - 1) |
                                       ((UINT64_C(1) << (perf->edx & 0x1f)) - 1) << 32;
}

int caps_read(const char *path, struct capabilities *out) {
    FILE *file = fopen(path, "r");
    struct leaf structured = {0}, perf = {0}, extended = {0}, leaf;
    char line[256];
    uint32_t index;
    uint64_t value;

    if (file == NULL) {
        perror(path);
        return -1;
    }
    memset(out, 0, sizeof *out);
    while (fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "msr %" SCNx32 " %" SCNx64, &index, &value) == 2 && index >= NVMX_MSR_VMX_FIRST &&
            index <= NVMX_MSR_VMX_LAST) {
            out->cpu.msr[index - NVMX_MSR_VMX_FIRST] = value;
        } else if (sscanf(line, "cpuid %" SCNx32 " %" SCNx32 " %" SCNx32 " %" SCNx32 " %" SCNx32, &index, &leaf.eax,
                          &leaf.ebx, &leaf.ecx, &leaf.edx) == 5) {
            if (index == 7)
                structured = leaf;
            else if (index == 10)
                perf = leaf;
            else if (index == 0x80000001)
                extended = leaf;
            else if (index == 0x80000008)
                out->cpu.physical_address_bits = (uint8_t)leaf.eax;
        }
    }
    fclose(file);
    facts(&out->cpu, &structured, &perf, &extended);
    if (nvmx_caps_for_l1(&out->cpu, NULL, &out->l1) != NVMX_OK) {
        fprintf(stderr, "%s: no capabilities from which nvmx offers any\n", path);
        return -1;
    }
    return 0;
}
