# SPDX-License-Identifier: MIT
"""The rows of the table, in order: what each measures, its goal, and what stands beside it."""

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Row:
    name: str
    label: str
    goal: Optional[int] = None  # instructions; None: a sixth of KVM's figure
    known: Optional[int] = None  # what another image of this kind gave for KVM 6.1, to compare with ours
    rated: bool = True  # False: nothing that L0 does, or nothing to be faster at


@dataclass(frozen=True)
class Group:
    title: str
    rows: tuple


GROUPS = (
    Group("L2 exits, L1 handles it, L2 goes on", (
        Row("l2_cpuid", "CPUID", 1500, 9407),
        Row("l2_cpuid_busy", "CPUID, L1 reads 18 fields and writes 4"),
        Row("l2_out", "OUT", None, 9410),
        Row("l2_vmcall", "VMCALL", None, 9410),
        Row("l2_vmcall_0_fields", "VMCALL, L1 reads and writes nothing"),
        Row("l2_vmcall_1_field", "VMCALL, L1 reads the exit reason alone"),
        Row("l2_rdmsr", "RDMSR, without MSR bitmap"),
        Row("l2_rdmsr_bitmap", "RDMSR, by MSR bitmap", None, 9599),
        Row("l2_wrmsr_bitmap", "WRMSR, by MSR bitmap"),
        Row("l2_rdtsc", "RDTSC"),
        Row("l2_hlt", "HLT"),
        Row("l2_cr3", "MOV to CR3"),
        Row("l2_mmio", "MMIO (EPT violation)", None, 10102),
        Row("l2_exception", "exception (INT3)"),
        Row("l2_injection", "VMCALL, L1 injects an interrupt"),
        Row("l2_cpuid_linux", "CPUID, VMCS and timer as Linux's KVM has them"),
        Row("l2_cpuid_msr_lists", "CPUID, 4 MSRs in each list"),
        Row("entry_failure", "VM entry fails, invalid guest state"),
    )),
    Group("exits that only L0 sees", (
        Row("l2_rdmsr_of_l0", "RDMSR of L2 that L0 answers", None, 1355),
        Row("l1_cpuid", "CPUID of L1", 150, 962),
        Row("l1_rdmsr", "RDMSR of L1 (IA32_VMX_BASIC)"),
    )),
    Group("VMX instructions of L1", (
        Row("vmread_shadowed", "VMREAD, shadowed field", rated=False),
        Row("vmwrite_shadowed", "VMWRITE, shadowed field", rated=False),
        Row("vmread", "VMREAD, not shadowed", 250, 1155),
        Row("vmwrite", "VMWRITE, not shadowed", None, 1206),
        Row("vmptrst", "VMPTRST"),
        Row("vmptrld_same", "VMPTRLD of the current VMCS", None, 2208),
        Row("vmclear_other", "VMCLEAR of another VMCS"),
        Row("vmlaunch_refused", "VMLAUNCH of a launched VMCS (VMfail)"),
        Row("invvpid_single", "INVVPID"),
        Row("vmxoff_vmxon", "VMXOFF, VMXON"),
    )),
    Group("switching", (
        Row("vmptrld_two_in_turn", "VMPTRLD A, resume, exit, B, resume, exit", 3500, 35903),
        Row("vmclear_vmptrld_launch", "VMCLEAR, VMPTRLD, launch, exit", None, 20704),
        Row("ept_two_in_turn", "two EPT pointers, resume and exit with each"),
    )),
    Group("L2's memory", (
        Row("invept_single", "INVEPT, L1 alone", None, 2423),
        Row("invept_resume_exit", "INVEPT, resume, exit", None, 12325),
        Row("invvpid_resume_exit", "INVVPID, resume, exit"),
        Row("ept_one_changed", "one of 256 live entries changed, INVEPT, used"),
        Row("invept_many", "INVEPT with 8,192 live entries, resume, exit"),
        Row("ept_one_of_many_changed", "one of 8,192 live entries changed, INVEPT, used"),
        Row("first_touch_4k", "first touch of a 4K page", None, 4588),
        Row("first_touch_4k_apart", "first touch of a 4K page, 9 pages apart"),
        Row("first_touch_2m", "first touch of a 2M page", None, 5055),
    )),
)

# Round trips with N vmcs12s in turn: a picture, not lines of the table.
TURNS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)


def turn_name(count):
    return f"in_turn_{count:02}"


def all_rows():
    return [row for group in GROUPS for row in group.rows]


@dataclass(frozen=True)
class Column:
    name: str
    title: str
    about: str


COLUMNS = (
    Column("bare", "bare CPU", "the image directly on the emulated CPU: L1's own instructions, and L2's, without any L0"),
    Column("nvmx", "nvmx", "the image on the bare-metal host, which uses VMCS shadowing where the CPU has it"),
    Column("noshadow", "nvmx, no shadow", "the same with the L0 option noshadow"),
    Column("kvm", "KVM", "the image as a guest of Debian's KVM, VMCS shadowing on"),
    Column("kvm_noshadow", "KVM, no shadow", "the same with kvm_intel.enable_shadow_vmcs=0"),
)
