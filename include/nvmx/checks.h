/* SPDX-License-Identifier: MIT */
/*
 * VM-entry checks (SDM 29.2-29.3): every rule is a row of entry_checks.def. Pure: no vCPU is needed, nothing is read but the input.
 */
#ifndef NVMX_CHECKS_H
#define NVMX_CHECKS_H

#include <nvmx/caps.h>
#include <nvmx/vmcs.h>

#define NVMX_CHECK_NONE UINT16_MAX

/* Rows by name: NVMX_C_29_2_1_1_07 is the row "C-29.2.1.1-07". */
enum nvmx_check_id {
#define CHECK(section, number, ...) NVMX_C_##section##_##number,
#define CHECK_ELSEWHERE(section, number, ...) NVMX_C_##section##_##number,
#include <nvmx/entry_checks.def>
#undef CHECK
#undef CHECK_ELSEWHERE
    NVMX_CHECK_COUNT,
};

/* Which parts to check: bits of (1 << enum nvmx_field_group), as a field of the group was written. All: */
#define NVMX_CHECK_ALL 0x7fu

/* What a check needs besides the fields; the caller reads each guest-memory value once. */
struct nvmx_check_input {
    const uint64_t *field;          /* NVMX_FIELD_COUNT values, by slot; fields that do not exist hold 0 */
    const struct nvmx_caps *caps;   /* what L1 sees */
    uint64_t current_vmcs;          /* gpa1 of the VMCS being entered */
    uint64_t vmxon_pointer;         /* gpa1 */
    uint32_t link_revision;         /* dword 0 at the VMCS link pointer; used only if the pointer passes the checks before it */
    bool link_readable;             /* false: nothing is there (the revision then counts as wrong) */
    bool l1_long_mode;              /* EFER.LMA of L1 at the entry */
    uint8_t vtpr;                   /* byte 80H of the virtual-APIC page; used only if the TPR-threshold rule needs it */
    uint64_t pdpte[4];              /* PDPTEs at guest CR3, for PAE paging without EPT */
    bool pdpte_readable;
};

/* One failed rule. */
struct nvmx_check_failure {
    uint16_t row;            /* of the table: nvmx_check_row */
    uint8_t vm_fail;         /* VMfailValid error 7 or 8; 0: entry failure */
    uint8_t exit_reason;     /* 33 for an entry failure, else 0 */
    uint32_t qualification;  /* of the entry failure */
};

struct nvmx_check_row {
    const char *id;          /* "C-29.2.1.1-07" */
    const char *section;     /* SDM section of the current revision */
    const char *applies;     /* condition in words; "" if always */
    const char *rule;        /* in words, names the fields */
    uint8_t vm_fail;
    uint8_t exit_reason;
    uint8_t qualification;
    uint8_t live;            /* 0: about a feature that can't be offered yet, or decided elsewhere (then `where` says so) */
    const char *where;       /* for rows that are not live: why; else NULL */
    uint32_t groups;         /* bits 1 << enum nvmx_field_group of the fields involved */
};

NVMX_BEGIN_C

/*
 * The first failing rule in SDM order among the rows that concern `groups` (NVMX_CHECK_ALL or some bits). True: all passed; false:
 * *out says what failed. Rows that read something besides fields that can change without a VMWRITE (vtpr, what the link pointer and
 * CR3 lead to, L1's mode) are among them whatever `groups` is.
 *
 * A row concerns a group if it reads a field of it; RFLAGS.VM counts as a part of SEGMENT: whoever changes it asks for SEGMENT too.
 * A row may read fields of more than one group, so `field` must be right beyond `groups`. For EVENT and NONREGISTER alone these are
 * the controls, CR0, CR4, IA32_DEBUGCTL and the access rights of CS and SS; for the other groups, all fields.
 */
NVMX_API bool nvmx_check_first(const struct nvmx_check_input *in, uint32_t groups, struct nvmx_check_failure *out);

/* All failing rules, in order, at most `max` into `out`. Returns how many fail in all. */
NVMX_API size_t nvmx_check_report(const struct nvmx_check_input *in, struct nvmx_check_failure *out, size_t max);

/* A row of the table; NULL past the last. */
NVMX_API const struct nvmx_check_row *nvmx_check_row(size_t row);

NVMX_END_C

#endif
