# SPDX-License-Identifier: MIT
"""A VMCS written as the dumps of Linux 6.1, of older Linux, of Xen, of nvmx's bare-metal host, and as pairs."""
from states import ENCODING, NAME, width

SEGMENTS = ("CS", "DS", "SS", "ES", "FS", "GS")


def guest_msr(f, bit):
    return f["VM_ENTRY_CONTROLS"] >> bit & 1


def host_msr(f, bit):
    return f["VM_EXIT_CONTROLS"] >> bit & 1


def proc2(f, bit):
    return f["PRIMARY_CONTROLS"] >> 31 and f["SECONDARY_CONTROLS"] >> bit & 1


def linux_segment(f, label, name):
    return (f"{label} sel=0x{f[f'GUEST_{name}_SELECTOR']:04x}, attr=0x{f[f'GUEST_{name}_ACCESS_RIGHTS']:05x}, "
            f"limit=0x{f[f'GUEST_{name}_LIMIT']:08x}, base=0x{f[f'GUEST_{name}_BASE']:016x}")


def linux_table(f, label, name):
    return f"{label}                           limit=0x{f[f'GUEST_{name}_LIMIT']:08x}, base=0x{f[f'GUEST_{name}_BASE']:016x}"


def msr_list(heading, count):
    return [f"MSR {heading}:"] + [f"  {i:2}: msr=0x{0x38f + i:08x} value=0x{0x70000000f:016x}" for i in range(count)] if count else []


def registers(f):
    return [f"CR0: actual=0x{f['GUEST_CR0']:016x}, shadow=0x{f['CR0_READ_SHADOW']:016x}, gh_mask={f['CR0_GUEST_HOST_MASK']:016x}",
            f"CR4: actual=0x{f['GUEST_CR4']:016x}, shadow=0x{f['CR4_READ_SHADOW']:016x}, gh_mask={f['CR4_GUEST_HOST_MASK']:016x}",
            f"CR3 = 0x{f['GUEST_CR3']:016x}"]


def guest_linux(f, old):
    out = registers(f)
    if not old or (proc2(f, 1) and f["GUEST_CR4"] & 0x20 and not f["GUEST_EFER"] & 0x400):
        out += [f"PDPTR0 = 0x{f['GUEST_PDPTE0']:016x}  PDPTR1 = 0x{f['GUEST_PDPTE1']:016x}",
                f"PDPTR2 = 0x{f['GUEST_PDPTE2']:016x}  PDPTR3 = 0x{f['GUEST_PDPTE3']:016x}"]
    out += [f"RSP = 0x{f['GUEST_RSP']:016x}  RIP = 0x{f['GUEST_RIP']:016x}",
            f"RFLAGS=0x{f['GUEST_RFLAGS']:08x}         DR7 = 0x{f['GUEST_DR7']:016x}",
            f"Sysenter RSP={f['GUEST_SYSENTER_ESP']:016x} CS:RIP={f['GUEST_SYSENTER_CS']:04x}:{f['GUEST_SYSENTER_EIP']:016x}"]
    out += [linux_segment(f, f"{name}:  ", name) for name in SEGMENTS]
    out += [linux_table(f, "GDTR:", "GDTR"), linux_segment(f, "LDTR:", "LDTR"), linux_table(f, "IDTR:", "IDTR"), linux_segment(f, "TR:  ", "TR")]
    if old:
        out.append(f"EFER =     0x{f['GUEST_EFER']:016x}  PAT = 0x{f['GUEST_PAT']:016x}")
    else:
        out.append(f"EFER= 0x{f['GUEST_EFER']:016x}" + ("" if guest_msr(f, 15) else " (effective)"))
        out += [f"PAT = 0x{f['GUEST_PAT']:016x}"] if guest_msr(f, 14) else []
    out.append(f"DebugCtl = 0x{f['GUEST_DEBUGCTL']:016x}  DebugExceptions = 0x{f['GUEST_PENDING_DEBUG_EXCEPTIONS']:016x}")
    out += [f"PerfGlobCtl = 0x{f['GUEST_PERF_GLOBAL_CTRL']:016x}"] if guest_msr(f, 13) else []
    out.append(f"Interruptibility = {f['GUEST_INTERRUPTIBILITY_STATE']:08x}  ActivityState = {f['GUEST_ACTIVITY_STATE']:08x}")
    if proc2(f, 9):
        out.append(f"InterruptStatus = {f['GUEST_INTERRUPT_STATUS']:04x}")
    if not old:
        out += msr_list("guest autoload", f["VM_ENTRY_MSR_LOAD_COUNT"]) + msr_list("guest autostore", f["VM_EXIT_MSR_STORE_COUNT"])
    return out


def host_common(f):
    return ["CS={:04x} SS={:04x} DS={:04x} ES={:04x} FS={:04x} GS={:04x} TR={:04x}".format(
                *(f[f"HOST_{name}_SELECTOR"] for name in ("CS", "SS", "DS", "ES", "FS", "GS", "TR"))),
            f"FSBase={f['HOST_FS_BASE']:016x} GSBase={f['HOST_GS_BASE']:016x} TRBase={f['HOST_TR_BASE']:016x}",
            f"GDTBase={f['HOST_GDTR_BASE']:016x} IDTBase={f['HOST_IDTR_BASE']:016x}",
            f"CR0={f['HOST_CR0']:016x} CR3={f['HOST_CR3']:016x} CR4={f['HOST_CR4']:016x}",
            f"Sysenter RSP={f['HOST_SYSENTER_ESP']:016x} CS:RIP={f['HOST_SYSENTER_CS']:04x}:{f['HOST_SYSENTER_EIP']:016x}"]


def host_linux(f, old):
    out = [f"RIP = 0x{f['HOST_RIP']:016x}  RSP = 0x{f['HOST_RSP']:016x}"] + host_common(f)
    if old:
        out += [f"EFER = 0x{f['HOST_EFER']:016x}  PAT = 0x{f['HOST_PAT']:016x}"]
    else:
        out += [f"EFER= 0x{f['HOST_EFER']:016x}"] if host_msr(f, 21) else []
        out += [f"PAT = 0x{f['HOST_PAT']:016x}"] if host_msr(f, 19) else []
    out += [f"PerfGlobCtl = 0x{f['HOST_PERF_GLOBAL_CTRL']:016x}"] if host_msr(f, 12) else []
    return out + ([] if old else msr_list("host autoload", f["VM_EXIT_MSR_LOAD_COUNT"]))


def control_common(f):
    return [f"ExceptionBitmap={f['EXCEPTION_BITMAP']:08x} PFECmask={f['PAGE_FAULT_ERROR_CODE_MASK']:08x} PFECmatch={f['PAGE_FAULT_ERROR_CODE_MATCH']:08x}",
            f"VMEntry: intr_info={f['VM_ENTRY_INTERRUPTION_INFO']:08x} errcode={f['VM_ENTRY_EXCEPTION_ERROR_CODE']:08x} "
            f"ilen={f['VM_ENTRY_INSTRUCTION_LENGTH']:08x}",
            f"VMExit: intr_info={f['VM_EXIT_INTERRUPTION_INFO']:08x} errcode={f['VM_EXIT_INTERRUPTION_ERROR_CODE']:08x} "
            f"ilen={f['VM_EXIT_INSTRUCTION_LENGTH']:08x}",
            f"        reason={f['EXIT_REASON']:08x} qualification={f['EXIT_QUALIFICATION']:016x}",
            f"IDTVectoring: info={f['IDT_VECTORING_INFO']:08x} errcode={f['IDT_VECTORING_ERROR_CODE']:08x}"]


def control_linux(f, old):
    if old:
        out = [f"PinBased={f['PIN_BASED_CONTROLS']:08x} CPUBased={f['PRIMARY_CONTROLS']:08x} SecondaryExec={f['SECONDARY_CONTROLS']:08x}",
               f"EntryControls={f['VM_ENTRY_CONTROLS']:08x} ExitControls={f['VM_EXIT_CONTROLS']:08x}"]
    else:
        out = [f"CPUBased=0x{f['PRIMARY_CONTROLS']:08x} SecondaryExec=0x{f['SECONDARY_CONTROLS']:08x} TertiaryExec=0x{0:016x}",
               f"PinBased=0x{f['PIN_BASED_CONTROLS']:08x} EntryControls={f['VM_ENTRY_CONTROLS']:08x} ExitControls={f['VM_EXIT_CONTROLS']:08x}"]
    out += control_common(f) + [f"TSC Offset = 0x{f['TSC_OFFSET']:016x}"]
    if proc2(f, 25):
        out.append(f"TSC Multiplier = 0x{f['TSC_MULTIPLIER']:016x}")
    if f["PRIMARY_CONTROLS"] >> 21 & 1:
        svi = f"SVI|RVI = {f['GUEST_INTERRUPT_STATUS'] >> 8:02x}|{f['GUEST_INTERRUPT_STATUS'] & 0xff:02x} " if proc2(f, 9) else ""
        apic = f"APIC-access addr = 0x{f['APIC_ACCESS_ADDRESS']:016x} " if proc2(f, 0) else ""
        out += [f"{svi}TPR Threshold = 0x{f['TPR_THRESHOLD']:02x}", f"{apic}virt-APIC addr = 0x{f['VIRTUAL_APIC_ADDRESS']:016x}"]
    if proc2(f, 1):
        out.append(f"EPT pointer = 0x{f['EPT_POINTER']:016x}")
    if proc2(f, 10):
        out.append(f"PLE Gap={f['PLE_GAP']:08x} Window={f['PLE_WINDOW']:08x}")
    if proc2(f, 5):
        out.append(f"Virtual processor ID = 0x{f['VPID']:04x}")
    return out


def sections(guest, host, control):
    return ["*** Guest State ***"] + guest + ["*** Host State ***"] + host + ["*** Control State ***"] + control


def linux(f):
    lines = ["VMCS 00000000f971be22, last attempted VM-entry on CPU 3"] + sections(guest_linux(f, False), host_linux(f, False), control_linux(f, False))
    return "\n".join(["[  673.801117] kvm: SMP vm created"] + [f"[  673.{850218 + 137 * i:06}] kvm_intel: {line}" for i, line in enumerate(lines)] +
                     ["[  673.990001] br0: port 2(tap0) entered disabled state"]) + "\n"


def syslog(f):
    lines = sections(guest_linux(f, True), host_linux(f, True), control_linux(f, True))
    return "".join(f"Sep  8 22:52:20 build7 kernel: [10639.{238026 + 9 * i:06}] {line}\n" for i, line in enumerate(lines))


def bare(f):
    """As `dmesg -t` shows it."""
    return "\n".join(sections(guest_linux(f, False), host_linux(f, False), control_linux(f, False))) + "\n"


def wrapped(f):
    """As a mail program leaves it."""
    out = []
    for line in bare(f).splitlines():
        cut = line.rfind(" ", 0, 72)
        out += [line] if len(line) <= 72 or cut < 0 else [line[:cut + 1].rstrip(), line[cut + 1:]]
    return "\n".join(out) + "\n"


def xen_segment(f, label, name):
    return (f"{label}: {f[f'GUEST_{name}_SELECTOR']:04x} {f[f'GUEST_{name}_ACCESS_RIGHTS']:05x} {f[f'GUEST_{name}_LIMIT']:08x} "
            f"{f[f'GUEST_{name}_BASE']:016x}")


def xen_table(f, name):
    return f"{name}:            {f[f'GUEST_{name}_LIMIT']:08x} {f[f'GUEST_{name}_BASE']:016x}"


def guest_xen(f):
    out = registers(f)
    if proc2(f, 1) and f["GUEST_CR4"] & 0x20 and not guest_msr(f, 9):
        out += [f"PDPTE0 = 0x{f['GUEST_PDPTE0']:016x}  PDPTE1 = 0x{f['GUEST_PDPTE1']:016x}",
                f"PDPTE2 = 0x{f['GUEST_PDPTE2']:016x}  PDPTE3 = 0x{f['GUEST_PDPTE3']:016x}"]
    out += [f"RSP = 0x{f['GUEST_RSP']:016x} (0x{f['GUEST_RSP']:016x})  RIP = 0x{f['GUEST_RIP']:016x} (0x{f['GUEST_RIP'] + 2:016x})",
            f"RFLAGS=0x{f['GUEST_RFLAGS']:08x} (0x{f['GUEST_RFLAGS']:08x})  DR7 = 0x{f['GUEST_DR7']:016x}",
            f"Sysenter RSP={f['GUEST_SYSENTER_ESP']:016x} CS:RIP={f['GUEST_SYSENTER_CS']:04x}:{f['GUEST_SYSENTER_EIP']:016x}",
            "       sel  attr  limit   base"]
    out += [xen_segment(f, f"  {name}", name) for name in SEGMENTS]
    out += [xen_table(f, "GDTR"), xen_segment(f, "LDTR", "LDTR"), xen_table(f, "IDTR"), xen_segment(f, "  TR", "TR")]
    out += [f"EFER(VMCS) = 0x{f['GUEST_EFER']:016x}  PAT = 0x{f['GUEST_PAT']:016x}", f"PreemptionTimer = 0x{0:08x}  SM Base = 0x{0:08x}",
            f"DebugCtl = 0x{f['GUEST_DEBUGCTL']:016x}  DebugExceptions = 0x{f['GUEST_PENDING_DEBUG_EXCEPTIONS']:016x}",
            f"Interruptibility = {f['GUEST_INTERRUPTIBILITY_STATE']:08x}  ActivityState = {f['GUEST_ACTIVITY_STATE']:08x}"]
    return out


def host_xen(f):
    out = [f"RIP = 0x{f['HOST_RIP']:016x} (vmx_asm_vmexit_handler)  RSP = 0x{f['HOST_RSP']:016x}"] + host_common(f)
    return out + [f"EFER = 0x{f['HOST_EFER']:016x}  PAT = 0x{f['HOST_PAT']:016x}"]


def control_xen(f):
    out = [f"PinBased={f['PIN_BASED_CONTROLS']:08x} CPUBased={f['PRIMARY_CONTROLS']:08x} SecondaryExec={f['SECONDARY_CONTROLS']:08x}",
           f"EntryControls={f['VM_ENTRY_CONTROLS']:08x} ExitControls={f['VM_EXIT_CONTROLS']:08x}"] + control_common(f)
    out.append(f"TSC Offset = 0x{f['TSC_OFFSET']:016x}  TSC Multiplier = 0x{f['TSC_MULTIPLIER']:016x}")
    if f["PRIMARY_CONTROLS"] >> 21 & 1:
        out.append(f"TPR Threshold = 0x{f['TPR_THRESHOLD']:02x}  PostedIntrVec = 0x00")
    if proc2(f, 1):
        out.append(f"EPT pointer = 0x{f['EPT_POINTER']:016x}  EPTP index = 0x0000")
    for i in range(0, f["CR3_TARGET_COUNT"], 2):
        both = i + 1 < f["CR3_TARGET_COUNT"]
        out.append(f"CR3 target{i}={0:016x}" + (f" target{i + 1}={0:016x}" if both else "") if i < 4 else "")
    if proc2(f, 10):
        out.append(f"PLE Gap={f['PLE_GAP']:08x} Window={f['PLE_WINDOW']:08x}")
    if proc2(f, 5):
        out.append(f"Virtual processor ID = 0x{f['VPID']:04x} VMfunc controls = {0:016x}")
    return out


def xen(f):
    lines = ["d12v0 vmentry failure (reason 0x80000021): Invalid guest state (0)", "************* VMCS Area **************"]
    lines += sections(guest_xen(f), host_xen(f), control_xen(f)) + ["**************************************"]
    return "".join(f"(XEN) {line}\n" for line in lines)


def xen_stamped(f):
    return "".join(f"(XEN) [2018-04-26 12:00:{i % 60:02}.123] {line[6:]}\n" for i, line in enumerate(xen(f).splitlines()))


def own(f):
    """What bindings/baremetal/crash.c prints."""
    lines = ["nvmx: L2's registers:", "  rax 0000000000000000  rcx 00000000c0000080  rdx 0000000000000000  rbx ffff88803ec00000",
             "  rip ffffffff81a5e0af  cr2 0000000000000000", "nvmx: VMCS 1 (vmcs02), last exit reason 0x80000021:"]
    lines += [f"  {ENCODING[field]:04x} {NAME[field]:<52} {value:x}" for field, value in f.items()]
    return "\n".join(lines + ["nvmx: fatal: VM entry failed", ""])


def pairs(f):
    return "# encoding value\n" + "".join(f"{ENCODING[field]:04x} {value:x}\n" for field, value in f.items())


def pairs_0x(f):
    return "".join(f"0x{ENCODING[field]:08x} = 0x{value:0{width(field)}x}\n" for field, value in f.items())


def pairs_h(f):
    return "".join(f"{ENCODING[field]:04X}H\t{value:X}H\r\n" for field, value in f.items())


def names(f):
    return "".join(f"{field}: 0x{value:x}\n" for field, value in f.items())


def sdm_names(f):
    return "".join(f"{NAME[field]} = {value:016x}\n" for field, value in f.items())


FORMATS = {f.__name__: f for f in (linux, syslog, bare, wrapped, xen, xen_stamped, own, pairs, pairs_0x, pairs_h, names, sdm_names)}
