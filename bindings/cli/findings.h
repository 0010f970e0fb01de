/* SPDX-License-Identifier: MIT */
/* The findings of nvmx_readiness, shown. */
#ifndef NVMX_CLI_FINDINGS_H
#define NVMX_CLI_FINDINGS_H

#include <nvmx/readiness.h>

#include "print.h"

struct findings {
    struct nvmx_finding list[NVMX_FINDING_COUNT];
    size_t count;
    size_t errors[2]; /* by enum nvmx_finding_about */
};

void findings_make(struct findings *findings, const struct nvmx_readiness_facts *facts);

/* Those about the machine or the VM, errors first: severity, name, message, and indented the remedy. */
void findings_text(const struct findings *findings, enum nvmx_finding_about about);
/* An array under this key. */
void findings_json(const struct findings *findings, enum nvmx_finding_about about, struct json *json, const char *key);

/* "key = value" of the setting that repairs a finding, as it stands in a VM's file; false: no setting does. */
bool finding_setting(const struct nvmx_finding *finding, const char **key, char *value, size_t size);

#endif
