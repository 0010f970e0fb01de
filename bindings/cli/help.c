/* SPDX-License-Identifier: MIT */
#include "cli.h"

#include <string.h>

static const struct {
    const char *command, *text;
} texts[] = {
    {NULL, "usage: nvmx COMMAND [ARGUMENT...]\n"
           "\n"
           "  explain [FILE]    the rules of VM entry that a dumped VMCS breaks\n"
           "  caps [A [B]]      capability MSRs: decoded, what nvmx offers L1 from them; the difference of two\n"
           "  fields            the VMCS fields\n"
           "  checks            the rules of VM entry\n"
           "  exits             the VM-exit reasons\n"
           "  help [COMMAND]    this, or the help of a command; so does COMMAND --help\n"
           "  version           the library's version\n"
           "\n"
           "exit status: 0 nothing broken or different, 1 a rule broken or sets different, 2 wrong usage or malformed "
           "input,\n"
           "             3 a file can't be read\n"},
    {"explain",
     "usage: nvmx explain [OPTION...] [FILE]\n"
     "\n"
     "Reads a VMCS dump (FILE, or stdin) and lists each rule of VM entry that it breaks: id, SDM section, the CPU's "
     "answer, the rule,\n"
     "the fields with their values, and a value that satisfies it. Rules that depend on something that the dump lacks "
     "are listed as\n"
     "undecided. The format is recognised: Linux's dump_vmcs in a kernel log, Xen's vmcs dump, the bare-metal host's, "
     "or lines\n"
     "`ENCODING VALUE` and `NAME VALUE` (all numbers hexadecimal, with or without 0x or H; # begins a comment). "
     "Several dumps in one\n"
     "file are explained one after the other.\n"
     "\n"
     "  --caps SET           judge by these capabilities: a file (see nvmx caps --help), or skylake_x, icelake_u, "
     "permissive;\n"
     "                       else by the dump's own, else by `permissive`\n"
     "  --l1                 judge by what nvmx offers L1 on such a CPU\n"
     "  --long-mode yes|no   L1's IA32_EFER.LMA at the entry; else inferred from host state above 4 GB\n"
     "  --vmcs-pointer ADDR  the current-VMCS pointer\n"
     "  --vtpr BYTE          VTPR, on the virtual-APIC page\n"
     "  --link-revision N    the dword at the VMCS link pointer\n"
     "  --strict             undecided rules count as broken for the exit status\n"
     "  --json               as JSON\n"
     "  -v, --verbose        list all undecided rules and all fields that the dump lacks\n"
     "\n"
     "exit status: 0 no rule broken, 1 a rule broken, 2 wrong usage or malformed input, 3 a file can't be read\n"},
    {"caps",
     "usage: nvmx caps [OPTION...] [A [B]]\n"
     "\n"
     "Decodes the capability MSRs of A and shows what nvmx offers to L1 from them, with the reason for each bit that "
     "it does not offer.\n"
     "With B, lists the differences. A and B are each /dev/cpu/N/msr (the default: /dev/cpu/0/msr), a text file, - for "
     "stdin, or built in:\n"
     "skylake_x, icelake_u, permissive. A text file has lines `INDEX VALUE` or `NAME VALUE`, hexadecimal, such as\n"
     "\n"
     "  480 00d8100000000004\n"
     "  IA32_VMX_MISC = 0x600401e0\n"
     "  physical_address_bits 46      (decimal)\n"
     "  cpu LONG_MODE NX SYSCALL      (besides LA57 SGX RTM FRED BUS_LOCK_DEBUG UINTR LAM)\n"
     "  debugctl_valid dfc3           (and perf_global_ctrl_valid, spec_ctrl_valid, rtit_ctl_valid, lbr_ctl_valid)\n"
     "\n"
     "In a log or a dump, other lines are passed over.\n"
     "\n"
     "  --mask SET   the host grants L1 at most this\n"
     "  --all        show the bits that the CPU does not have, too\n"
     "  --json       as JSON\n"
     "\n"
     "exit status: 0 decoded, or no difference; 1 different; 2 wrong usage or malformed input; 3 a file can't be "
     "read\n"},
    {"fields", "usage: nvmx fields [--caps SET] [--json]\n"
               "\n"
               "Lists the VMCS fields: encoding, width, kind, name, and the capability that makes each exist.\n"
               "\n"
               "  --caps SET   only those that exist with these capabilities (see nvmx caps --help)\n"
               "  --json       as JSON\n"},
    {"checks", "usage: nvmx checks [--summary] [--json] [WORD]\n"
               "\n"
               "Lists the rules of VM entry in the SDM's order, and how many there are for each feature. A rule is "
               "live if the library evaluates it;\n"
               "for the others it says where they are decided. With WORD only rules whose id contains it or whose "
               "feature's name does.\n"
               "\n"
               "  --summary    only the numbers\n"
               "  --json       as JSON\n"},
    {"exits",
     "usage: nvmx exits [--json]\n"
     "\n"
     "Lists the VM-exit reasons: number, name, who gets such an exit of L2, and which information fields are valid.\n"
     "\n"
     "  --json       as JSON\n"},
};

const char *help_text(const char *command) {
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (command && texts[i].command ? strcmp(command, texts[i].command) == 0 : command == texts[i].command)
            return texts[i].text;
    return NULL;
}
