# SPDX-License-Identifier: MIT
"""Valid VMCSs as KVM and Xen make them: dictionaries from a field's identifier (vmcs_fields.def) to its value. All pass on skylake_x."""
import re
from pathlib import Path

DEFINITIONS = Path(__file__).resolve().parents[2] / "include/nvmx/vmcs_fields.def"
FIELD = re.compile(r'^FIELD\((0x[0-9a-f]+), (\w+), "((?:[^"\\]|\\.)*)"', re.MULTILINE)

ENCODING = {}
NAME = {}
for encoding, identifier, name in FIELD.findall(DEFINITIONS.read_text()):
    ENCODING[identifier] = int(encoding, 16)
    NAME[identifier] = name


def width(identifier):
    """Digits of a value: by bits 14:13 of the encoding."""
    return {0: 4, 1: 16, 2: 8, 3: 16}[ENCODING[identifier] >> 13 & 3]


def segment(fields, name, selector, rights, limit, base):
    fields[f"GUEST_{name}_SELECTOR"] = selector
    fields[f"GUEST_{name}_ACCESS_RIGHTS"] = rights
    fields[f"GUEST_{name}_LIMIT"] = limit
    fields[f"GUEST_{name}_BASE"] = base


# What exists on skylake_x; all else is left out of the full formats, as VMREAD would leave it out.
ABSENT = re.compile(r"UINV|HLAT|PID_POINTER|LAST_PID|VIRTUAL_TIMER|POSTED|SPP|TERTIARY|ENCL|PASID|SEAM|PCONFIG|SECONDARY_VM_EXIT|SPEC_CTRL|DEADLINE|"
                    r"FRED|MSR_DATA|EVENT_DATA|BNDCFGS|RTIT|LBR|PKRS|CET|SSP|INSTRUCTION_TIMEOUT|GUEST_RTIT")


def empty():
    return {identifier: 0 for identifier in ENCODING if not ABSENT.search(identifier)}


def host_linux(f):
    f.update(
        HOST_CR0=0x80050033, HOST_CR3=0x105a2c006, HOST_CR4=0x3626f0,
        HOST_CS_SELECTOR=0x10, HOST_SS_SELECTOR=0x18, HOST_DS_SELECTOR=0, HOST_ES_SELECTOR=0, HOST_FS_SELECTOR=0, HOST_GS_SELECTOR=0,
        HOST_TR_SELECTOR=0x40,
        HOST_FS_BASE=0x7f3a2d1fe640, HOST_GS_BASE=0xffff88803ec00000, HOST_TR_BASE=0xfffffe0000003000,
        HOST_GDTR_BASE=0xfffffe0000001000, HOST_IDTR_BASE=0xfffffe0000000000,
        HOST_SYSENTER_CS=0x10, HOST_SYSENTER_ESP=0xfffffe0000003000, HOST_SYSENTER_EIP=0xffffffff81c01690,
        HOST_EFER=0xd01, HOST_PAT=0x0407050600070106,
        HOST_RIP=0xffffffffc0a5d1c4, HOST_RSP=0xffffc90000d27c58)


def controls_kvm(f):
    f.update(
        PIN_BASED_CONTROLS=0x3f, PRIMARY_CONTROLS=0xb5a06dfa, SECONDARY_CONTROLS=0x000215ea,
        VM_EXIT_CONTROLS=0x002fefff, VM_ENTRY_CONTROLS=0xd3ff, EXCEPTION_BITMAP=0x60042,
        MSR_BITMAP_ADDRESS=0x104b2d000, VIRTUAL_APIC_ADDRESS=0x104b2c000, PML_ADDRESS=0x104b31000, APIC_ACCESS_ADDRESS=0x104b40000,
        EPT_POINTER=0x10629305e, VPID=1, PML_INDEX=0x1ff, TSC_OFFSET=0xfffffff2a4f1bd30, TSC_MULTIPLIER=0x1000000000000,
        VMCS_LINK_POINTER=0xffffffffffffffff, PLE_GAP=0x80, PLE_WINDOW=0x1000, CR0_GUEST_HOST_MASK=0xfffffffffffffff7,
        CR4_GUEST_HOST_MASK=0xffffffffffffe871, EXIT_REASON=0x80000021)


def long64():
    """A Linux guest of KVM in its kernel, EPT, unrestricted guest, APIC virtualization in x2APIC mode."""
    f = empty()
    controls_kvm(f)
    host_linux(f)
    f.update(
        GUEST_CR0=0x80050033, CR0_READ_SHADOW=0x80050033, GUEST_CR4=0x3626f0, CR4_READ_SHADOW=0x3606f0, GUEST_CR3=0x1a2e4006,
        GUEST_EFER=0xd01, GUEST_PAT=0x0407050600070106, GUEST_DR7=0x400, GUEST_RSP=0xffffc9000001bed8, GUEST_RIP=0xffffffff81a5e0af,
        GUEST_RFLAGS=0x246, GUEST_SYSENTER_CS=0x10, GUEST_SYSENTER_ESP=0xfffffe0000002000, GUEST_SYSENTER_EIP=0xffffffff81c01690,
        GUEST_GDTR_LIMIT=0x7f, GUEST_GDTR_BASE=0xfffffe0000001000, GUEST_IDTR_LIMIT=0xfff, GUEST_IDTR_BASE=0xfffffe0000000000)
    segment(f, "CS", 0x10, 0xa09b, 0xffffffff, 0)
    segment(f, "DS", 0, 0x1c000, 0xffffffff, 0)
    segment(f, "SS", 0x18, 0xc093, 0xffffffff, 0)
    segment(f, "ES", 0, 0x1c000, 0xffffffff, 0)
    segment(f, "FS", 0, 0x1c000, 0xffffffff, 0)
    segment(f, "GS", 0, 0x1c000, 0xffffffff, 0xffff88807dc00000)
    segment(f, "LDTR", 0, 0x1c000, 0, 0)
    segment(f, "TR", 0x40, 0x8b, 0x206f, 0xfffffe0000003000)
    return f


def restricted64():
    """The same without unrestricted guest, xAPIC accesses virtualized, a TPR threshold."""
    f = long64()
    f.update(SECONDARY_CONTROLS=0x2b, TPR_THRESHOLD=0)
    return f


def protected32():
    """A 32-bit guest with PAE paging and EPT; user mode."""
    f = long64()
    f.update(SECONDARY_CONTROLS=0x2a, VM_ENTRY_CONTROLS=0xd1ff, GUEST_CR4=0x20f0, GUEST_CR3=0x3a8c0, GUEST_EFER=0x800,
             GUEST_PDPTE0=0x2a3f001, GUEST_PDPTE1=0x2a40001, GUEST_PDPTE2=0, GUEST_PDPTE3=0x1c35001, GUEST_RSP=0xbff3d6c0, GUEST_RIP=0x804a31c,
             GUEST_RFLAGS=0x202, GUEST_SYSENTER_CS=0x60, GUEST_SYSENTER_ESP=0xc1a52f80, GUEST_SYSENTER_EIP=0xc1003d20,
             GUEST_GDTR_LIMIT=0xff, GUEST_GDTR_BASE=0xc1a4c000, GUEST_IDTR_LIMIT=0x7ff, GUEST_IDTR_BASE=0xc1a4a000)
    segment(f, "CS", 0x73, 0xc0fb, 0xffffffff, 0)
    segment(f, "DS", 0x7b, 0xc0f3, 0xffffffff, 0)
    segment(f, "SS", 0x7b, 0xc0f3, 0xffffffff, 0)
    segment(f, "ES", 0x7b, 0xc0f3, 0xffffffff, 0)
    segment(f, "FS", 0, 0x1c000, 0xffffffff, 0)
    segment(f, "GS", 0x33, 0xd0f3, 0xfffff, 0xb7e3f6c0)
    segment(f, "LDTR", 0x88, 0x82, 0x27, 0xc1a50000)
    segment(f, "TR", 0x80, 0x8b, 0x206b, 0xc1a4e000)
    return f


def real():
    """The first instructions of a BIOS: unrestricted guest."""
    f = long64()
    f.update(VM_ENTRY_CONTROLS=0xd1ff, GUEST_CR0=0x30, CR0_READ_SHADOW=0x60000010, GUEST_CR4=0x2040, CR4_READ_SHADOW=0, GUEST_CR3=0,
             GUEST_EFER=0, GUEST_PAT=0x0007040600070406, GUEST_RSP=0, GUEST_RIP=0xfff0, GUEST_RFLAGS=2, GUEST_SYSENTER_CS=0, GUEST_SYSENTER_ESP=0,
             GUEST_SYSENTER_EIP=0, GUEST_GDTR_LIMIT=0xffff, GUEST_GDTR_BASE=0, GUEST_IDTR_LIMIT=0xffff, GUEST_IDTR_BASE=0)
    for name in ("DS", "SS", "ES", "FS", "GS"):
        segment(f, name, 0, 0x93, 0xffff, 0)
    segment(f, "CS", 0xf000, 0x9b, 0xffff, 0xffff0000)
    segment(f, "LDTR", 0, 0x82, 0xffff, 0)
    segment(f, "TR", 0, 0x8b, 0xffff, 0)
    return f


def v8086():
    """Real mode by virtual-8086 mode, as KVM does without unrestricted guest."""
    f = real()
    f.update(SECONDARY_CONTROLS=0x2a, GUEST_CR0=0x80000031, GUEST_CR4=0x2051, GUEST_CR3=0xfffbc000, GUEST_RFLAGS=0x23202, GUEST_RSP=0xfffe,
             GUEST_RIP=0x7c2b)
    for name, selector in (("CS", 0x7c0), ("DS", 0x40), ("SS", 0x2000), ("ES", 0xb800), ("FS", 0), ("GS", 0)):
        segment(f, name, selector, 0xf3, 0xffff, selector << 4)
    return f


def xen64():
    """A 64-bit HVM guest of Xen."""
    f = long64()
    f.update(PIN_BASED_CONTROLS=0x3f, PRIMARY_CONTROLS=0xb6a075fa, SECONDARY_CONTROLS=0x14fb & ~1, VM_EXIT_CONTROLS=0x002fefff,
             VM_ENTRY_CONTROLS=0xd3ff, IO_BITMAP_A_ADDRESS=0x21fed3000, IO_BITMAP_B_ADDRESS=0x21fed4000, MSR_BITMAP_ADDRESS=0x20cf42000,
             HOST_CR0=0x8005003b, HOST_CR3=0x20cf1e000, HOST_CR4=0x3526e0, HOST_CS_SELECTOR=0xe008, HOST_SS_SELECTOR=0, HOST_TR_SELECTOR=0xe040,
             HOST_FS_BASE=0, HOST_GS_BASE=0, HOST_TR_BASE=0xffff83021ffd7000, HOST_GDTR_BASE=0xffff83021ffc9000, HOST_IDTR_BASE=0xffff83021ffd3000,
             HOST_SYSENTER_CS=0xe008, HOST_SYSENTER_ESP=0xffff83021ffff990, HOST_SYSENTER_EIP=0xffff82d040383b50, HOST_PAT=0x050100070406,
             HOST_RIP=0xffff82d0403a1e00, HOST_RSP=0xffff83021fffff70)
    return f


BASES = {f.__name__: f for f in (long64, restricted64, protected32, real, v8086, xen64)}
