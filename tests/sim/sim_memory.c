/* SPDX-License-Identifier: MIT */
/*
 * Memory of the simulated host: L1's, ept01, and the pages of page_alloc.
 *
 * L1's memory is mapped twice. Tests use one view; the library gets pointers into the other, where a page is accessible only while it
 * is mapped, and writable only while it is mapped for writing: a use after unmap is a fault at once. Freed pages are inaccessible too.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sim_internal.h"

#define GUARD NVMX_PAGE_SIZE

static void protect(void *page, int rights) {
    if (mprotect(page, NVMX_PAGE_SIZE, rights) != 0)
        sim_broken("mprotect failed");
}

static void *reserve(size_t bytes) {
    uint8_t *area = mmap(NULL, bytes + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED)
        sim_broken("no memory for the simulation");
    return area + GUARD;
}

static void release(void *area, size_t bytes) {
    munmap((uint8_t *)area - GUARD, bytes + 2 * GUARD);
}

void sim_memory_new(struct sim *sim) {
    int fd = memfd_create("nvmx-sim", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, SIM_RAM_BYTES) != 0)
        sim_broken("no memory for the simulated RAM");
    sim->ram = reserve(SIM_RAM_BYTES);
    sim->library_ram = reserve(SIM_RAM_BYTES);
    void *tests = mmap(sim->ram, SIM_RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    void *library = mmap(sim->library_ram, SIM_RAM_BYTES, PROT_NONE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (tests == MAP_FAILED || library == MAP_FAILED)
        sim_broken("no memory for the simulated RAM");
    close(fd);
    sim->pages = reserve((size_t)SIM_PAGES * NVMX_PAGE_SIZE);
    sim->pages_max = SIM_PAGES;
    sim_ept01(sim, 0, SIM_RAM_BYTES, SIM_HPA_OFFSET, 21, NVMX_ACCESS_READ | NVMX_ACCESS_WRITE | NVMX_ACCESS_EXECUTE, 6);
}

void sim_memory_free(struct sim *sim) {
    release(sim->ram, SIM_RAM_BYTES);
    release(sim->library_ram, SIM_RAM_BYTES);
    release(sim->pages, (size_t)SIM_PAGES * NVMX_PAGE_SIZE);
}

/* -- ept01 ------------------------------------------------------------------------------------------------------------------ */

void sim_ept01(struct sim *sim, uint64_t gpa1, uint64_t bytes, uint64_t hpa, uint32_t size_shift, uint32_t access,
               uint32_t memory_type) {
    if (sim->ranges == SIM_RANGES)
        sim_broken("more than %u parts of ept01", SIM_RANGES);
    sim->range[sim->ranges++] = (struct sim_range){gpa1, bytes, hpa, size_shift, access, memory_type};
}

static bool overlaps(const struct sim_range *range, uint64_t first, uint64_t bytes) {
    return range->gpa1 < first + bytes && first < range->gpa1 + range->bytes;
}

/* Can one mapping of 2^shift bytes at `first` stand for part i of ept01? */
static bool one_mapping(const struct sim *sim, uint32_t i, uint64_t first, uint32_t shift) {
    const struct sim_range *range = &sim->range[i];
    uint64_t bytes = UINT64_C(1) << shift;
    if (first < range->gpa1 || first + bytes > range->gpa1 + range->bytes)
        return false;
    if ((range->hpa + (first - range->gpa1)) & (bytes - 1))
        return false;
    for (uint32_t later = i + 1; later < sim->ranges; later++)
        if (overlaps(&sim->range[later], first, bytes))
            return false;
    return true;
}

bool sim_ept01_find(const struct sim *sim, uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    static const uint32_t shifts[] = {30, 21, 12};
    uint32_t i = sim->ranges;
    while (i > 0 && !overlaps(&sim->range[i - 1], gpa1, 1))
        i--;
    if (i == 0 || sim->range[i - 1].access == 0)
        return false;
    const struct sim_range *range = &sim->range[--i];
    for (unsigned int s = 0; s < 3; s++) {
        uint64_t first = gpa1 & ~((UINT64_C(1) << shifts[s]) - 1);
        if (shifts[s] > range->size_shift || (shifts[s] != 12 && !one_mapping(sim, i, first, shifts[s])))
            continue;
        *out = (struct nvmx_ept01_mapping){.hpa = range->hpa + (first - range->gpa1),
                                           .gpa1 = first,
                                           .size_shift = shifts[s],
                                           .access = range->access,
                                           .memory_type = range->memory_type,
                                           .ignore_pat = false};
        return true;
    }
    return false;
}

static enum nvmx_status ept01_lookup(void *ctx, uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    struct sim *sim = sim_of_vm(ctx);
    if (sim_fails(sim, SIM_EPT01_LOOKUP))
        return sim_sweep.status;
    return sim_ept01_find(sim, gpa1, out) ? NVMX_OK : NVMX_E_UNMAPPED;
}

/* -- L1's pages --------------------------------------------------------------------------------------------------------------- */

static void set_rights(struct sim *sim, size_t page) {
    int rights = PROT_NONE;
    if (sim->mapped_write[page])
        rights = PROT_READ | PROT_WRITE;
    else if (sim->mapped_read[page])
        rights = PROT_READ;
    protect(sim->library_ram + page * NVMX_PAGE_SIZE, rights);
}

static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    struct sim *sim = sim_of_vcpu(ctx);
    struct nvmx_ept01_mapping at;
    if (gpa1 % NVMX_PAGE_SIZE || access == 0 || !hpa)
        sim_broken("map_page(%#llx, access %u)", (unsigned long long)gpa1, access);
    if (sim_fails(sim, SIM_MAP_PAGE) || !sim_ept01_find(sim, gpa1, &at) || (at.access & access) != access)
        return NULL;
    uint64_t where = at.hpa + (gpa1 - at.gpa1);
    if (where < SIM_HPA_OFFSET || where >= SIM_HPA_OFFSET + SIM_RAM_BYTES)
        return NULL; /* a device */
    size_t page = (size_t)((where - SIM_HPA_OFFSET) / NVMX_PAGE_SIZE);
    sim->mapped_read[page]++;
    if (access & NVMX_ACCESS_WRITE)
        sim->mapped_write[page]++;
    sim->mapped++;
    set_rights(sim, page);
    *hpa = where;
    return sim->library_ram + page * NVMX_PAGE_SIZE;
}

static void unmap_page(void *ctx, uint64_t gpa1, void *pointer, bool dirtied) {
    struct sim *sim = sim_of_vcpu(ctx);
    sim->count[SIM_UNMAP_PAGE]++;
    uint8_t *at = pointer;
    if (at < sim->library_ram || at >= sim->library_ram + SIM_RAM_BYTES || (at - sim->library_ram) % NVMX_PAGE_SIZE)
        sim_broken("unmap_page of a pointer that map_page did not give (gpa1 %#llx)", (unsigned long long)gpa1);
    size_t page = (size_t)(at - sim->library_ram) / NVMX_PAGE_SIZE;
    if (sim->mapped_read[page] == 0)
        sim_broken("unmap_page of a page that is not mapped (gpa1 %#llx)", (unsigned long long)gpa1);
    if (dirtied && sim->mapped_write[page] == 0)
        sim_broken("page %#llx was mapped for reading only and comes back as written", (unsigned long long)gpa1);
    sim->mapped_read[page]--;
    /* Which of several mappings this is can't be told: writability ends when as many are left as are written. */
    if (sim->mapped_write[page] > sim->mapped_read[page] || (dirtied && sim->mapped_write[page]))
        sim->mapped_write[page]--;
    sim->mapped--;
    sim->low_written |= dirtied && page < 64 ? UINT64_C(1) << page : 0;
    set_rights(sim, page);
}

/* -- page_alloc ------------------------------------------------------------------------------------------------------------------ */

static size_t page_number(const struct sim *sim, uint64_t hpa, const char *who) {
    uint64_t offset = hpa - SIM_PAGES_HPA;
    if (hpa < SIM_PAGES_HPA || offset >= (uint64_t)SIM_PAGES * NVMX_PAGE_SIZE || offset % NVMX_PAGE_SIZE)
        sim_broken("%s: %#llx is not a page of page_alloc", who, (unsigned long long)hpa);
    size_t page = (size_t)(offset / NVMX_PAGE_SIZE);
    if (!sim->page_used[page])
        sim_broken("%s: page %#llx is not allocated", who, (unsigned long long)hpa);
    return page;
}

static void *page_alloc(void *ctx, uint64_t *hpa) {
    struct sim *sim = sim_of_vm(ctx);
    if (sim_fails(sim, SIM_PAGE_ALLOC) || sim->pages_used >= sim->pages_max)
        return NULL;
    /* Round robin, so that a freed page stays inaccessible for as long as possible. */
    for (uint64_t i = 0; i < SIM_PAGES; i++) {
        size_t page = (size_t)((sim->count[SIM_PAGE_ALLOC] + i) % SIM_PAGES);
        if (sim->page_used[page])
            continue;
        uint8_t *pointer = sim->pages + page * NVMX_PAGE_SIZE;
        sim->page_used[page] = true;
        sim->pages_used++;
        protect(pointer, PROT_READ | PROT_WRITE);
        memset(pointer, 0, NVMX_PAGE_SIZE);
        *hpa = SIM_PAGES_HPA + page * NVMX_PAGE_SIZE;
        return pointer;
    }
    return NULL;
}

static void page_free(void *ctx, void *pointer, uint64_t hpa) {
    struct sim *sim = sim_of_vm(ctx);
    sim->count[SIM_PAGE_FREE]++;
    size_t page = page_number(sim, hpa, "page_free");
    if (pointer != sim->pages + page * NVMX_PAGE_SIZE)
        sim_broken("page_free: pointer and hpa %#llx do not belong together", (unsigned long long)hpa);
    memset(pointer, 0x5a, NVMX_PAGE_SIZE);
    protect(pointer, PROT_NONE);
    sim->page_used[page] = false;
    sim->pages_used--;
}

static void *page_pointer(void *ctx, uint64_t hpa) {
    struct sim *sim = sim_of_vm(ctx);
    sim->count[SIM_PAGE_POINTER]++;
    return sim->pages + page_number(sim, hpa, "page_pointer") * NVMX_PAGE_SIZE;
}

void *sim_page(const struct sim *sim, uint64_t hpa) {
    uint64_t offset = hpa - SIM_PAGES_HPA;
    if (hpa < SIM_PAGES_HPA || offset >= (uint64_t)SIM_PAGES * NVMX_PAGE_SIZE)
        return NULL;
    size_t page = (size_t)(offset / NVMX_PAGE_SIZE);
    return sim->page_used[page] ? sim->pages + page * NVMX_PAGE_SIZE : NULL;
}

void sim_memory_callbacks(struct sim *sim) {
    sim->host.map_page = map_page;
    sim->host.unmap_page = unmap_page;
    sim->host.ept01_lookup = ept01_lookup;
    sim->host.page_alloc = page_alloc;
    sim->host.page_free = page_free;
    sim->host.page_pointer = page_pointer;
}

/* -- L1's view --------------------------------------------------------------------------------------------------------------------- */

static uint8_t *ram(const struct sim *sim, uint64_t gpa1, size_t bytes) {
    if (gpa1 > SIM_RAM_BYTES || bytes > SIM_RAM_BYTES - gpa1)
        sim_broken("a test accesses %#llx, outside L1's memory", (unsigned long long)gpa1);
    return sim->ram + gpa1;
}

void sim_write(struct sim *sim, uint64_t gpa1, const void *from, size_t bytes) {
    memcpy(ram(sim, gpa1, bytes), from, bytes);
}

void sim_write64(struct sim *sim, uint64_t gpa1, uint64_t value) {
    memcpy(ram(sim, gpa1, sizeof(value)), &value, sizeof(value));
}

void sim_write32(struct sim *sim, uint64_t gpa1, uint32_t value) {
    memcpy(ram(sim, gpa1, sizeof(value)), &value, sizeof(value));
}

uint64_t sim_read64(const struct sim *sim, uint64_t gpa1) {
    uint64_t value;
    memcpy(&value, ram(sim, gpa1, sizeof(value)), sizeof(value));
    return value;
}

uint32_t sim_read32(const struct sim *sim, uint64_t gpa1) {
    uint32_t value;
    memcpy(&value, ram(sim, gpa1, sizeof(value)), sizeof(value));
    return value;
}
