/* SPDX-License-Identifier: MIT */
/* What stands in the way of nested VMX (nvmx/readiness.h). Pure. */
#include <nvmx/readiness.h>

#include <string.h>

static const struct nvmx_finding rows[] = {
#define FINDING(ID, about, name, severity, setting, value, when, message, remedy)                                      \
    {NVMX_FINDING_##ID, NVMX_ABOUT_##about, NVMX_##severity, NVMX_SETTING_##setting, {0}, value, name, message, remedy},
#include <nvmx/readiness.def>
};

static bool can_offer(const struct nvmx_readiness_facts *facts) {
    struct nvmx_caps l1;

    return nvmx_caps_for_l1(&facts->caps, NULL, &l1) == NVMX_OK;
}

/* Which rows are so: bit n of *found is row n. */
static void find(const struct nvmx_readiness_facts *facts, uint64_t *found) {
    uint32_t machine = (facts->machine & NVMX_MACHINE_KNOWN) != 0 ? facts->machine : 0;
    uint32_t vm = (facts->vm & NVMX_VM_KNOWN) != 0 ? facts->vm : 0;
    uint32_t vendor = facts->vendor;
    uint64_t memory = facts->memory_bytes;
    bool known = (machine & NVMX_MACHINE_MSRS_KNOWN) != 0;
    uint64_t firmware = known ? facts->caps.feature_control : 0;
    bool offered = known && can_offer(facts);

    *found = 0;
#define M(bit) ((machine & NVMX_MACHINE_##bit) != 0)
#define V(bit) ((vm & NVMX_VM_##bit) != 0)
#define has(place, bit) (((facts->caps.msr[NVMX_CAP_##place] >> (bit)) & 1) != 0)
#define FINDING(ID, about, name, severity, setting, value, when, message, remedy)                                      \
    *found |= (when) ? UINT64_C(1) << NVMX_FINDING_##ID : 0;
#include <nvmx/readiness.def>
#undef M
#undef V
#undef has
}

_Static_assert(NVMX_FINDING_COUNT <= 64, "find");

size_t nvmx_readiness(const struct nvmx_readiness_facts *facts, struct nvmx_finding *out, size_t room) {
    uint64_t found;
    size_t count = 0;

    if (facts->size != sizeof(*facts)) {
        return 0;
    }
    find(facts, &found);
    for (unsigned int row = 0; row < NVMX_FINDING_COUNT; row++) {
        if (((found >> row) & 1) == 0) {
            continue;
        }
        if (count < room) {
            out[count] = rows[row];
        }
        count++;
    }
    return count;
}

bool nvmx_is_ready(const struct nvmx_readiness_facts *facts, enum nvmx_finding_about about) {
    uint64_t found;
    bool ready = true;

    if (facts->size != sizeof(*facts)) {
        return false;
    }
    find(facts, &found);
    for (unsigned int row = 0; row < NVMX_FINDING_COUNT; row++) {
        bool counts = rows[row].about == about && rows[row].severity == NVMX_ERROR;

        ready = ready && !(counts && ((found >> row) & 1) != 0);
    }
    return ready;
}

const char *nvmx_severity_text(enum nvmx_severity severity) {
    static const char *const text[] = {[NVMX_INFO] = "info", [NVMX_WARNING] = "warning", [NVMX_ERROR] = "error"};

    return (unsigned int)severity < sizeof(text) / sizeof(text[0]) ? text[severity] : "unknown severity";
}
