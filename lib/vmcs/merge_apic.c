/* SPDX-License-Identifier: MIT */
/* The pages of L2's virtual APIC, and posted interrupts (SDM 32). */
#include "merge.h"

/* Hardware acknowledges the interrupt that arrives, and compares its vector with vmcs12's: right only while physical interrupts are L1's own. */
static enum nvmx_status posted_interrupts(struct merge *m) {
    bool used = (m->v->value[NVMX_F_PIN_BASED_CONTROLS] & PIN_POSTED_INTERRUPTS) != 0;

    if (used && (m->host[NVMX_F_PIN_BASED_CONTROLS] & PIN_EXTERNAL_INTERRUPT) != 0) {
        return NVMX_E_UNSUPPORTED;
    }
    return merge_pin_field(m, PIN_POSTED_DESCRIPTOR, NVMX_F_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, used,
                           NVMX_ACCESS_READ | NVMX_ACCESS_WRITE);
}

/*
 * SDM 28.3 SENDUIPI: with a TPR shadow it writes the virtual interrupt-command register, and exits; without one it sends the vector that L2 has in its memory
 * to the processor whose APIC ID it has there. Where vmcs01 keeps L1 from that, vmcs02 keeps L2.
 */
static bool keeps_user_ipis(const struct merge *m) {
    return (m->host[NVMX_F_PRIMARY_CONTROLS] & PROC_TPR_SHADOW) != 0 &&
           (m->vcpu->vm->caps.msr[NVMX_CAP_CR4_FIXED1] & CR4_UINTR) != 0;
}

/*
 * CR8 exits, so that nothing else comes to the page; its VTPR is below no threshold (SDM 29.2.1.1). Accesses to the TPR on an APIC-access page would (32.4.2,
 * 32.4.3), while without a TPR shadow they are L1's exits.
 */
static enum nvmx_status without_virtual_apic(struct merge *m, uint32_t *bits) {
    if (!keeps_user_ipis(m)) {
        return merge_pin_field(m, PIN_VIRTUAL_APIC, NVMX_F_VIRTUAL_APIC_ADDRESS, false, 0);
    }
    if ((secondary_controls(m->v) & PROC2_APIC_ACCESSES) != 0) {
        return NVMX_E_UNSUPPORTED;
    }
    enum nvmx_status status = merge_pin_own(m, PIN_VIRTUAL_APIC, NVMX_F_VIRTUAL_APIC_ADDRESS);
    if (status == NVMX_OK) {
        ((uint8_t *)m->v->pin[PIN_VIRTUAL_APIC].page)[VTPR_OFFSET] = 0xff;
        *bits |= PROC_TPR_SHADOW;
    }
    return status;
}

/* Where CR8 exits and nothing else of L2 comes to the virtual-APIC page a TPR shadow makes no difference: without memory there vmcs02 does without. */
static enum nvmx_status virtual_apic(struct merge *m, uint32_t *bits) {
    const uint32_t exits = PROC_CR8_LOAD | PROC_CR8_STORE;
    const uint32_t users = PROC2_APIC_ACCESSES | PROC2_X2APIC | PROC2_APIC_REGISTER | PROC2_VIRTUAL_INTERRUPTS;
    uint64_t primary = m->v->value[NVMX_F_PRIMARY_CONTROLS];

    if ((primary & PROC_TPR_SHADOW) == 0) {
        return without_virtual_apic(m, bits);
    }
    enum nvmx_status status = merge_pin_field(m, PIN_VIRTUAL_APIC, NVMX_F_VIRTUAL_APIC_ADDRESS, true, NVMX_ACCESS_READ | NVMX_ACCESS_WRITE);
    if (status == NVMX_E_UNMAPPED && (primary & exits) == exits && (secondary_controls(m->v) & users) == 0) {
        return without_virtual_apic(m, bits);
    }
    *bits |= status == NVMX_OK ? PROC_TPR_SHADOW : 0;
    return status;
}

enum nvmx_status merge_apic_pages(struct merge *m, uint32_t *bits) {
    bool accesses = (secondary_controls(m->v) & PROC2_APIC_ACCESSES) != 0;
    enum nvmx_status status = virtual_apic(m, bits);

    if (status == NVMX_OK) {
        status = merge_pin_field(m, PIN_APIC_ACCESS, NVMX_F_APIC_ACCESS_ADDRESS, accesses, NVMX_ACCESS_READ);
    }
    return status == NVMX_OK ? posted_interrupts(m) : status;
}
