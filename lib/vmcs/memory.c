/* SPDX-License-Identifier: MIT */
/* L1's memory: physical, and linear through L1's own page tables (SDM chapter 5). */
#include "memory.h"

#include <string.h>

/* Page-fault error code (SDM 5.7); U/S and I/D are 0 here always. */
#define PF_P             1u
#define PF_WRITE         2u
#define PF_RSVD          8u
#define PF_PK            32u

#define MSR_PKRS         0x6e1u
#define ENTRY_KEY(entry) (((entry) >> 59) & 15)

#define OFFSET_MASK      (uint64_t)(NVMX_PAGE_SIZE - 1)

/* Across a page. */
static COLD enum nvmx_status physical_read_pages(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint8_t *out, uint32_t bytes) {
    while (bytes > 0) {
        uint32_t offset = (uint32_t)(gpa1 & OFFSET_MASK);
        uint32_t here = bytes < NVMX_PAGE_SIZE - offset ? bytes : NVMX_PAGE_SIZE - offset;
        uint8_t *page = host_map(vcpu, gpa1 & ~OFFSET_MASK, NVMX_ACCESS_READ, NULL);
        if (page == NULL) {
            return NVMX_E_UNMAPPED;
        }
        memcpy(out, page + offset, here);
        host_unmap(vcpu, gpa1 & ~OFFSET_MASK, page, false);
        out += here;
        gpa1 += here;
        bytes -= here;
    }
    return NVMX_OK;
}

enum nvmx_status l1_physical_read(struct nvmx_vcpu *vcpu, uint64_t gpa1, void *to, uint32_t bytes) {
    uint32_t offset = (uint32_t)(gpa1 & OFFSET_MASK);
    if (RARE(bytes > NVMX_PAGE_SIZE - offset)) {
        return physical_read_pages(vcpu, gpa1, to, bytes);
    }
    uint8_t *page = host_map(vcpu, gpa1 & ~OFFSET_MASK, NVMX_ACCESS_READ, NULL);
    if (page == NULL) {
        return NVMX_E_UNMAPPED;
    }
    if (bytes == sizeof(uint64_t)) {
        memcpy(to, page + offset, sizeof(uint64_t)); /* a single load */
    } else {
        memcpy(to, page + offset, bytes);
    }
    host_unmap(vcpu, gpa1 & ~OFFSET_MASK, page, false);
    return NVMX_OK;
}

enum nvmx_status l1_physical_write(struct nvmx_vcpu *vcpu, uint64_t gpa1, const void *from, uint32_t bytes) {
    uint32_t offset = (uint32_t)(gpa1 & OFFSET_MASK);
    uint32_t first = bytes < NVMX_PAGE_SIZE - offset ? bytes : NVMX_PAGE_SIZE - offset;
    uint64_t base = gpa1 & ~OFFSET_MASK;
    uint64_t next = base + NVMX_PAGE_SIZE;
    uint64_t hpa;
    uint8_t *second = NULL;
    uint8_t *page = host_map(vcpu, base, NVMX_ACCESS_READ | NVMX_ACCESS_WRITE, &hpa);
    if (page == NULL) {
        return NVMX_E_UNMAPPED;
    }
    if (first < bytes) {
        second = host_map(vcpu, next, NVMX_ACCESS_READ | NVMX_ACCESS_WRITE, &hpa);
        if (second == NULL) {
            host_unmap(vcpu, base, page, false);
            return NVMX_E_UNMAPPED;
        }
    }
    memcpy(page + offset, from, first);
    if (second != NULL) {
        memcpy(second, (const uint8_t *)from + first, bytes - first);
        host_unmap(vcpu, next, second, true);
    }
    host_unmap(vcpu, base, page, true);
    return NVMX_OK;
}

/* -- paging
 * ------------------------------------------------------------------------------------------------------------------ */

#define LEVELS_MAX 5u

/* The entries that one translation used, outermost first. */
struct walk {
    unsigned int count;
    unsigned int entry_bytes;
    uint64_t address[LEVELS_MAX]; /* gpa1, or gpa2 of an L2 */
    uint64_t gpa1[LEVELS_MAX];
    uint64_t entry[LEVELS_MAX];
    bool shared[LEVELS_MAX]; /* the same entry as in the translation of the operand's first page */
    unsigned int size_shift; /* of the page found */
    uint64_t page_gpa1;
    uint64_t path; /* US and RW of all entries, XD of any; walk_tables only */
};

static uint64_t bit_range(unsigned int high, unsigned int low) {
    return high < low ? 0 : ((UINT64_C(2) << high) - 1) & ~((UINT64_C(1) << low) - 1);
}

static unsigned int physical_bits(const struct nvmx_vcpu *vcpu) {
    unsigned int bits = vcpu->vm->caps.physical_address_bits;
    return bits > 52 ? 52 : bits < 32 ? 32 : bits;
}

/* Bits 11:9 (SDM table 30-7): what L2's own page tables say of the linear address; lib/ept drops them where L1's processor does not say it. */
#define QUALIFICATION_USER            (UINT64_C(1) << 9)
#define QUALIFICATION_WRITABLE        (UINT64_C(1) << 10)
#define QUALIFICATION_EXECUTE_DISABLE (UINT64_C(1) << 11)

static uint64_t advanced_information(uint64_t path) {
    return ((path & ENTRY_US) != 0 ? QUALIFICATION_USER : 0) | ((path & ENTRY_RW) != 0 ? QUALIFICATION_WRITABLE : 0) |
           ((path & ENTRY_XD) != 0 ? QUALIFICATION_EXECUTE_DISABLE : 0);
}

/* Without EPT what the CPU does to L2's page tables are physical accesses, which need not exit (SDM 32.4.6.2). */
static bool to_apic_access_page(const struct l2_memory *l2, uint64_t gpa1) {
    return (gpa1 & ~OFFSET_MASK) == l2->apic_access_gpa1 && (l2->ept || (l2->access.qualification & QUALIFICATION_FINAL) != 0);
}

/* Of an L2 the physical address becomes L1's. `access`: the kind, as in an exit qualification. */
static inline bool to_gpa1(struct nvmx_vcpu *vcpu, const struct l1_paging *paging, uint64_t linear, uint64_t access,
                           uint64_t *address, struct l1_fault *fault) {
    struct l2_memory *l2 = paging->l2;
    if (l2 == NULL) {
        return true;
    }
    l2->linear = linear;
    l2->access.gpa2 = *address;
    l2->access.qualification = access | QUALIFICATION_LINEAR;
    l2->verdict = NVMX_EPT_RETRY;
    if (l2->ept) {
        l2->verdict = nvmx_ept_translate(vcpu->vm->ept, vcpu->ctx, &l2->access, &l2->fault);
        *address = l2->verdict == NVMX_EPT_RETRY ? l2->fault.gpa1 : *address;
    }
    l2->apic_access = l2->verdict == NVMX_EPT_RETRY && to_apic_access_page(l2, *address);
    if (l2->verdict != NVMX_EPT_RETRY || l2->apic_access) {
        *fault = (struct l1_fault){.vector = FAULT_OF_EPT12};
        return false;
    }
    return true;
}

/* One aligned load, so that an entry is never seen half written. Without memory there: all ones. */
static inline uint64_t read_entry(struct nvmx_vcpu *vcpu, uint64_t gpa1, unsigned int bytes) {
    uint64_t hpa;
    uint64_t value;
    uint8_t *page = host_map(vcpu, gpa1 & ~OFFSET_MASK, NVMX_ACCESS_READ, &hpa);
    if (page == NULL) {
        return bytes == 4 ? UINT32_MAX : UINT64_MAX;
    }
    void *at = page + (gpa1 & OFFSET_MASK);
    value = bytes == 4 ? __atomic_load_n((uint32_t *)at, __ATOMIC_RELAXED)
                       : __atomic_load_n((uint64_t *)at, __ATOMIC_RELAXED);
    host_unmap(vcpu, gpa1 & ~OFFSET_MASK, page, false);
    return value;
}

/* Set bits in an entry that must still be what it was. False: it changed. Read-only memory swallows the update. */
static bool update_entry(struct nvmx_vcpu *vcpu, uint64_t gpa1, unsigned int bytes, uint64_t old, uint64_t set) {
    uint64_t hpa;
    bool same;
    uint8_t *page = host_map(vcpu, gpa1 & ~OFFSET_MASK, NVMX_ACCESS_READ | NVMX_ACCESS_WRITE, &hpa);
    if (page == NULL) {
        return true;
    }
    void *at = page + (gpa1 & OFFSET_MASK);
    if (bytes == 4) {
        uint32_t expected = (uint32_t)old;
        same = __atomic_compare_exchange_n((uint32_t *)at, &expected, (uint32_t)(old | set), false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_RELAXED);
    } else {
        same = __atomic_compare_exchange_n((uint64_t *)at, &old, old | set, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    host_unmap(vcpu, gpa1 & ~OFFSET_MASK, page, same);
    return same;
}

static bool page_fault(struct l1_fault *fault, uint64_t linear, uint32_t error_code) {
    *fault = (struct l1_fault){.vector = 14, .has_error_code = true, .error_code = error_code, .cr2 = linear};
    return false;
}

/* Is XD a reserved bit? Asked only when an entry has it set: the host then says what L1's EFER is. */
static bool xd_reserved(struct nvmx_vcpu *vcpu) {
    uint64_t efer;
    return host_msr_read(vcpu, MSR_EFER, &efer) == NVMX_OK && (efer & EFER_NXE) == 0;
}

/* How one paging mode is walked. */
struct format {
    unsigned int levels;
    unsigned int index_bits;
    unsigned int entry_bytes;
    uint64_t root;
};

static struct format paging_format(const struct nvmx_vcpu *vcpu, const struct l1_paging *paging, uint64_t linear) {
    if (paging->long_mode) {
        return (struct format){(paging->cr4 & CR4_LA57) ? 5 : 4, 9, 8,
                               paging->cr3 & bit_range(physical_bits(vcpu) - 1, 12)};
    }
    if (paging->cr4 & CR4_PAE) {
        return (struct format){2, 9, 8, paging->pdpte[(linear >> 30) & 3] & bit_range(physical_bits(vcpu) - 1, 12)};
    }
    return (struct format){2, 10, 4, paging->cr3 & bit_range(31, 12)};
}

/* Does an entry of this level map a page? */
static bool is_leaf(const struct l1_paging *paging, const struct format *format, unsigned int level, uint64_t entry) {
    if (level == 1) {
        return true;
    }
    if ((entry & ENTRY_PS) == 0 || level > 3) {
        return false;
    }
    return format->entry_bytes == 8 || (paging->cr4 & CR4_PSE) != 0;
}

/* Bits of a present entry that must be 0 (SDM tables 5-4, 5-9 to 5-11, 5-14 to 5-20). */
static uint64_t reserved_bits(const struct nvmx_vcpu *vcpu, const struct l1_paging *paging, const struct format *format,
                              unsigned int level, unsigned int shift, bool leaf) {
    unsigned int width = physical_bits(vcpu);
    uint64_t reserved;
    if (format->entry_bytes == 4) {
        return leaf && level == 2 ? bit_range(21, (width < 40 ? width : 40) - 19) : 0;
    }
    reserved = bit_range(paging->long_mode ? 51 : 62, width);
    if (leaf && level > 1) {
        reserved |= bit_range(shift - 1, 13);
    }
    if (level > 3) {
        reserved |= ENTRY_PS;
    }
    return reserved;
}

static uint64_t leaf_address(const struct nvmx_vcpu *vcpu, const struct format *format, unsigned int level,
                             unsigned int shift, uint64_t entry) {
    if (format->entry_bytes == 4 && level == 2) {
        /* PSE-36: address bits 39:32 lie in entry bits 20:13. */
        return ((entry & bit_range(31, 22)) | ((entry & bit_range(20, 13)) << 19)) &
               bit_range(physical_bits(vcpu) - 1, 22);
    }
    return entry & bit_range(format->entry_bytes == 4 ? 31 : physical_bits(vcpu) - 1, shift);
}

/* Rights of the whole path for a supervisor-mode access (SDM 5.6). */
static bool access_permitted(const struct l1_paging *paging, uint64_t path, bool write) {
    if ((path & ENTRY_US) && (paging->cr4 & CR4_SMAP) && !paging->smap_off) {
        return false;
    }
    return !write || (path & ENTRY_RW) || (paging->cr0 & CR0_WP) == 0;
}

/* Protection keys of supervisor pages (SDM 5.6.2): IA32_PKRS has "no access" and "no write" for each. Unreadable: no
 * access. */
static bool key_permits(struct nvmx_vcpu *vcpu, const struct l1_paging *paging, uint64_t path, uint64_t leaf,
                        bool write) {
    uint64_t pkrs;
    if (!paging->long_mode || (paging->cr4 & CR4_PKS) == 0 || (path & ENTRY_US)) {
        return true;
    }
    if (host_msr_read(vcpu, MSR_PKRS, &pkrs) != NVMX_OK) {
        return false;
    }
    const uint64_t rights = pkrs >> (2 * ENTRY_KEY(leaf));
    return (rights & 1) == 0 && !(write && (rights & 2) && (paging->cr0 & CR0_WP));
}

/*
 * The same for the usual case: an L1 in IA-32e mode with 4-level paging. One loop with nothing in it that such a walk
 * doesn't need; what it answers is what walk_tables answers, and a test compares them.
 */
static bool walk_long_mode(struct nvmx_vcpu *vcpu, const struct l1_paging *paging, uint64_t linear, bool write,
                           struct walk *walk, struct l1_fault *fault) {
    const uint32_t error = write ? PF_WRITE : 0;
    const uint64_t address = vcpu->l1_address_bits;
    const uint64_t reserved = bit_range(51, 12) & ~address;
    uint64_t table = paging->cr3 & address;
    uint64_t path = ENTRY_RW | ENTRY_US;
    unsigned int shift = 39;
    walk->entry_bytes = 8;
    walk->count = 0;
    for (;; shift -= 9) {
        const uint64_t at = table + ((linear >> shift) & 0x1ff) * 8;
        const uint64_t entry = read_entry(vcpu, at, 8);
        const unsigned int i = walk->count++;
        walk->address[i] = walk->gpa1[i] = at;
        walk->entry[i] = entry;
        walk->shared[i] = false;
        if ((entry & ENTRY_P) == 0) {
            return page_fault(fault, linear, error);
        }
        const bool leaf = shift == 12 || ((entry & ENTRY_PS) != 0 && shift != 39);
        uint64_t bad = entry & reserved;
        if (RARE(shift != 12 && (entry & ENTRY_PS) != 0)) {
            bad |= shift == 39 ? ENTRY_PS : entry & bit_range(shift - 1, 13);
        }
        if (RARE(bad != 0 || ((entry & ENTRY_XD) != 0 && xd_reserved(vcpu)))) {
            return page_fault(fault, linear, error | PF_P | PF_RSVD);
        }
        path &= entry;
        if (leaf) {
            walk->size_shift = shift;
            walk->page_gpa1 = entry & address & ~(uint64_t)((UINT64_C(1) << shift) - 1);
            const bool key = key_permits(vcpu, paging, path, entry, write);
            if (RARE(!key || !access_permitted(paging, path, write))) {
                return page_fault(fault, linear, error | PF_P | (key ? 0 : PF_PK));
            }
            return true;
        }
        table = entry & address;
    }
}

/* Translate without changing anything. `first`: the translation of the operand's first page, whose entries are not read
 * again; or NULL. */
static bool walk_tables(struct nvmx_vcpu *vcpu, const struct l1_paging *paging, uint64_t linear, bool write,
                        const struct walk *first, struct walk *walk, struct l1_fault *fault) {
    const uint32_t error = write ? PF_WRITE : 0;
    const struct format format = paging_format(vcpu, paging, linear);
    uint64_t table = format.root;
    uint64_t path = ENTRY_RW | ENTRY_US;
    uint64_t execute_disable = 0;
    if (!paging->long_mode && (paging->cr4 & CR4_PAE) && (paging->pdpte[(linear >> 30) & 3] & ENTRY_P) == 0) {
        return page_fault(fault, linear, error);
    }
    walk->entry_bytes = format.entry_bytes;
    for (unsigned int level = format.levels; level > 0; level--) {
        const unsigned int shift = 12 + format.index_bits * (level - 1);
        const uint64_t at = table + ((linear >> shift) & bit_range(format.index_bits - 1, 0)) * format.entry_bytes;
        uint64_t gpa1 = at;
        if (!to_gpa1(vcpu, paging, linear, NVMX_ACCESS_READ, &gpa1, fault)) {
            return false;
        }
        const unsigned int i = walk->count++;
        const bool shared = first != NULL && i < first->count && first->gpa1[i] == gpa1;
        const uint64_t entry = shared ? first->entry[i] : read_entry(vcpu, gpa1, format.entry_bytes);
        const bool leaf = is_leaf(paging, &format, level, entry);
        walk->address[i] = at;
        walk->gpa1[i] = gpa1;
        walk->entry[i] = entry;
        walk->shared[i] = shared;
        if ((entry & ENTRY_P) == 0) {
            return page_fault(fault, linear, error);
        }
        if ((entry & reserved_bits(vcpu, paging, &format, level, shift, leaf)) ||
            ((entry & ENTRY_XD) && format.entry_bytes == 8 && xd_reserved(vcpu))) {
            return page_fault(fault, linear, error | PF_P | PF_RSVD);
        }
        path &= entry;
        execute_disable |= format.entry_bytes == 8 ? entry & ENTRY_XD : 0;
        if (leaf) {
            walk->path = (path & (ENTRY_RW | ENTRY_US)) | execute_disable;
            walk->size_shift = shift;
            walk->page_gpa1 = leaf_address(vcpu, &format, level, shift, entry);
            const bool key = key_permits(vcpu, paging, path, entry, write);
            if (!key || !access_permitted(paging, path, write)) {
                return page_fault(fault, linear, error | PF_P | (key ? 0 : PF_PK));
            }
            return true;
        }
        table = entry & bit_range(format.entry_bytes == 4 ? 31 : physical_bits(vcpu) - 1, 12);
    }
    return page_fault(fault, linear, error); /* not reached: level 1 is a leaf */
}

/* Accessed and dirty flags (SDM 5.8). RETRY: an entry changed since it was read. */
static enum l1_access set_accessed_dirty(struct nvmx_vcpu *vcpu, const struct l1_paging *paging, uint64_t linear,
                                         const struct walk *walk, bool write, struct l1_fault *fault) {
    for (unsigned int i = 0; i < walk->count; i++) {
        uint64_t set = ENTRY_A | (write && i + 1 == walk->count ? ENTRY_D : 0);
        uint64_t gpa1 = walk->address[i];
        if (walk->shared[i] || (walk->entry[i] & set) == set) {
            continue;
        }
        if (!to_gpa1(vcpu, paging, linear, NVMX_ACCESS_READ | NVMX_ACCESS_WRITE, &gpa1, fault)) {
            return L1_ACCESS_FAULT;
        }
        if (!update_entry(vcpu, gpa1, walk->entry_bytes, walk->entry[i], set)) {
            return L1_ACCESS_RETRY;
        }
    }
    return L1_ACCESS_DONE;
}

static uint64_t next_linear(const struct l1_paging *paging, uint64_t linear, uint32_t bytes) {
    return paging->mode64 ? linear + bytes : (uint32_t)(linear + bytes);
}

static uint64_t walked_address(const struct walk *walk, uint64_t linear) {
    return walk->page_gpa1 + (linear & ((UINT64_C(1) << walk->size_shift) - 1));
}

/* gpa1[0] of the first byte; gpa1[1] of the second page if `count` is 2. path[] likewise, for an L2: as in struct walk. */
static enum l1_access translate_by_walk(struct nvmx_vcpu *vcpu, const struct l1_paging *paging, const uint64_t *linear,
                                        unsigned int count, bool write, uint64_t *gpa1, uint64_t *path,
                                        struct l1_fault *fault) {
    struct walk walk[2];
    const bool second = count == 2;
    walk[0].count = walk[1].count = 0;
    path[0] = path[1] = ENTRY_RW | ENTRY_US;
    if ((paging->cr0 & CR0_PG) == 0) {
        gpa1[0] = linear[0];
        gpa1[1] = linear[count - 1];
        return L1_ACCESS_DONE;
    }
    const bool usual = paging->long_mode && paging->l2 == NULL && (paging->cr4 & CR4_LA57) == 0;
    if (!(usual ? walk_long_mode(vcpu, paging, linear[0], write, &walk[0], fault)
                : walk_tables(vcpu, paging, linear[0], write, NULL, &walk[0], fault))) {
        return L1_ACCESS_FAULT;
    }
    if (second && !walk_tables(vcpu, paging, linear[1], write, &walk[0], &walk[1], fault)) {
        return L1_ACCESS_FAULT;
    }
    for (unsigned int i = 0; i < count; i++) {
        enum l1_access flags = set_accessed_dirty(vcpu, paging, linear[i], &walk[i], write, fault);
        if (flags != L1_ACCESS_DONE) {
            return flags;
        }
    }
    path[0] = usual ? 0 : walk[0].path;
    path[1] = second ? walk[1].path : 0;
    gpa1[0] = walked_address(&walk[0], linear[0]);
    gpa1[1] = walked_address(&walk[second ? 1 : 0], linear[count - 1]);
    return L1_ACCESS_DONE;
}

/* A host that can't say where the address leads has refused the access: #GP(0), and nothing is done. */
static enum l1_access translate_by_host(struct nvmx_vcpu *vcpu, const uint64_t *linear, unsigned int count, bool write,
                                        uint64_t *gpa1, struct l1_fault *fault) {
    for (unsigned int i = 0; i < count; i++) {
        uint32_t error_code = 0;
        vcpu->counts.callback[CB_TRANSLATE]++;
        enum nvmx_status status = vcpu->vm->host.translate(
            vcpu->ctx, linear[i], write ? NVMX_ACCESS_WRITE : NVMX_ACCESS_READ, &gpa1[i], &error_code);
        if (status == NVMX_E_DENIED) {
            page_fault(fault, linear[i], error_code);
            return L1_ACCESS_FAULT;
        }
        if (status != NVMX_OK) {
            *fault = (struct l1_fault){.vector = 13, .has_error_code = true};
            return L1_ACCESS_FAULT;
        }
    }
    return L1_ACCESS_DONE;
}

static enum l1_access translate(struct nvmx_vcpu *vcpu, const struct l1_paging *paging, const uint64_t *linear,
                                unsigned int count, bool write, uint64_t *gpa1, struct l1_fault *fault) {
    const uint64_t access = (write ? NVMX_ACCESS_WRITE : NVMX_ACCESS_READ) | QUALIFICATION_FINAL;
    if (paging->l2 == NULL && vcpu->vm->host.translate != NULL) {
        return translate_by_host(vcpu, linear, count, write, gpa1, fault);
    }
    uint64_t path[2];
    enum l1_access result = translate_by_walk(vcpu, paging, linear, count, write, gpa1, path, fault);
    for (unsigned int i = 0; i < count && result == L1_ACCESS_DONE; i++) {
        uint64_t said = paging->l2 != NULL ? advanced_information(path[i]) : 0;
        if (!to_gpa1(vcpu, paging, linear[i], access | said, &gpa1[i], fault)) {
            result = L1_ACCESS_FAULT;
        }
    }
    return result;
}

enum nvmx_status l1_paging_pdptes(struct nvmx_vcpu *vcpu, struct l1_paging *paging) {
    static const uint8_t fields[] = {NVMX_F_GUEST_PDPTE0, NVMX_F_GUEST_PDPTE1, NVMX_F_GUEST_PDPTE2,
                                     NVMX_F_GUEST_PDPTE3};
    static const uint8_t controls[] = {NVMX_F_PRIMARY_CONTROLS, NVMX_F_SECONDARY_CONTROLS};
    const uint64_t secondary = UINT64_C(1) << 31, ept = UINT64_C(1) << 1;
    uint64_t at = paging->cr3 & bit_range(31, 5);
    if (paging->long_mode || (paging->cr0 & CR0_PG) == 0 || (paging->cr4 & CR4_PAE) == 0) {
        return NVMX_OK;
    }
    if ((vcpu->vm->machine.msr[NVMX_CAP_PROCBASED2] >> 33) & 1) {
        uint64_t value[2];
        enum nvmx_status status = host_read_many(vcpu, 2, controls, value);
        if (status != NVMX_OK) {
            return status;
        }
        if ((value[0] & secondary) && (value[1] & ept)) {
            return host_read_many(vcpu, 4, fields, paging->pdpte);
        }
    }
    for (unsigned int i = 0; i < 4; i++) {
        paging->pdpte[i] = read_entry(vcpu, at + 8 * i, 8);
    }
    return NVMX_OK;
}

/* -- linear access
 * ------------------------------------------------------------------------------------------------------------ */

/* The pages of an operand of up to 16 bytes. */
struct span {
    unsigned int count;
    uint32_t first_bytes;
    uint64_t linear[2];
    uint64_t gpa1[2];
};

static enum l1_access span_make(struct nvmx_vcpu *vcpu, const struct l1_paging *paging, uint64_t linear, uint32_t bytes,
                                bool write, struct span *span, struct l1_fault *fault) {
    uint32_t room = NVMX_PAGE_SIZE - (uint32_t)(linear & OFFSET_MASK);
    span->first_bytes = bytes < room ? bytes : room;
    span->count = bytes > room ? 2 : 1;
    span->linear[0] = linear;
    span->linear[1] = next_linear(paging, linear, span->first_bytes);
    return translate(vcpu, paging, span->linear, span->count, write, span->gpa1, fault);
}

enum l1_access l1_linear_read(struct nvmx_vcpu *vcpu, const struct l1_paging *paging, uint64_t linear, void *to,
                              uint32_t bytes, struct l1_fault *fault) {
    struct span span;
    enum l1_access result = span_make(vcpu, paging, linear, bytes, false, &span, fault);
    if (result != L1_ACCESS_DONE) {
        return result;
    }
    if (l1_physical_read(vcpu, span.gpa1[0], to, span.first_bytes) != NVMX_OK) {
        memset(to, 0xff, span.first_bytes);
    }
    if (span.count == 2) {
        uint8_t *rest = (uint8_t *)to + span.first_bytes;
        if (l1_physical_read(vcpu, span.gpa1[1], rest, bytes - span.first_bytes) != NVMX_OK) {
            memset(rest, 0xff, bytes - span.first_bytes);
        }
    }
    return L1_ACCESS_DONE;
}

enum l1_access l1_linear_write(struct nvmx_vcpu *vcpu, const struct l1_paging *paging, uint64_t linear,
                               const void *from, uint32_t bytes, struct l1_fault *fault) {
    struct span span;
    enum l1_access result = span_make(vcpu, paging, linear, bytes, true, &span, fault);
    if (result != L1_ACCESS_DONE) {
        return result;
    }
    (void)l1_physical_write(vcpu, span.gpa1[0], from, span.first_bytes);
    if (span.count == 2) {
        (void)l1_physical_write(vcpu, span.gpa1[1], (const uint8_t *)from + span.first_bytes, bytes - span.first_bytes);
    }
    return L1_ACCESS_DONE;
}
