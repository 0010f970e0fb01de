/* SPDX-License-Identifier: MIT */
/* Between the files of the simulated host. */
#ifndef SIM_INTERNAL_H
#define SIM_INTERNAL_H

#include "sim.h"

#define SIM_VM_MAGIC 0x53696d56u
#define SIM_VCPU_MAGIC 0x53696d43u

/* The library broke the contract of host.h: say how, and abort. */
_Noreturn void sim_broken(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* sim_host.c: the callbacks, as the options want them. */
void sim_host_callbacks(struct sim *sim);
/* sim_memory.c: the memory areas; and what is left mapped or allocated must be nothing. */
void sim_memory_new(struct sim *sim);
void sim_memory_free(struct sim *sim);
void sim_memory_callbacks(struct sim *sim);
/* sim_vmcs.c */
void sim_vmcs_callbacks(struct sim *sim);
void sim_vmcs01(struct sim *sim);
void sim_host_state(struct sim *sim, uint32_t which);

/* sim_vmcs.c: a real VMCS as it is before anybody wrote to it. */
void sim_poison(struct sim *sim, uint32_t which);
/* sim_host.c: how a vCPU of this number is to be made, without shadow VMCSs for each slot. */
struct nvmx_vcpu_config sim_vcpu_config(struct sim *sim, uint32_t id);
/* sim_host.c: in new memory. */
enum nvmx_status sim_make_vm(struct sim *sim);
enum nvmx_status sim_make_vcpu(struct sim *sim);

struct sim *sim_of_vm(void *ctx);
struct sim *sim_of_vcpu(void *ctx);
/* Count a callback that can fail; true: it is to fail now. */
bool sim_fails(struct sim *sim, enum sim_call call);

#endif
