# SPDX-License-Identifier: MIT
"""Where the instructions of one operation go: a trace by Bochs's debugger, put down to exits and to parts of L0."""

import os
import re
import subprocess

from . import machines

# Parts of L0 in the order of the pictures: name, source files (beginnings of paths within the project).
PARTS = (
    ("entry, exit, dispatch", ("bindings/baremetal/entry", "bindings/baremetal/main", "bindings/baremetal/stats",
                               "bindings/baremetal/handlers", "bindings/baremetal/msrs", "bindings/baremetal/ports",
                               "bindings/baremetal/string")),
    ("VMREAD, VMWRITE, VMPTRLD", ("bindings/baremetal/callbacks", "bindings/baremetal/vmx", "bindings/baremetal/inline",
                                  "lib/host")),
    ("whose exit it is", ("lib/exits/", "lib/vcpu")),
    ("L1's VMX instruction", ("lib/vmcs/instruction", "lib/vmcs/operand", "lib/vmcs/memory", "lib/vmcs/vmcs12",
                              "lib/vmcs/fields", "lib/vmcs/decode")),
    ("state from hardware", ("lib/vmcs/sync",)),
    ("L1's state on exit", ("lib/vmcs/host_state",)),
    ("shadow VMCS", ("lib/vmcs/shadow",)),
    ("entry checks", ("lib/vmcs/check", "include/nvmx/entry_checks")),
    ("merge into vmcs02", ("lib/vmcs/merge",)),
    ("EPT", ("lib/ept/",)),
    ("other", ("",)),
)

# Rows worth looking into, in the order in which the image comes to them.
ROWS = ("l1_cpuid", "l2_cpuid", "l2_cpuid_busy", "l2_mmio", "l2_injection", "vmread", "vmwrite", "invvpid_single",
        "vmptrld_two_in_turn", "vmclear_vmptrld_launch", "invept_resume_exit")

STEP = re.compile(rb"\(0\)\.\[\d+\] \[0x([0-9a-f]+)\] [0-9a-f]{4}:([0-9a-f]{16}) \([^)]*\): ([^;\r\n]*?) +;")
BREAK = b"Magic breakpoint"
VMX_WORDS = ("vmread", "vmwrite", "vmptrld", "vmclear", "invept", "invvpid")
KERNEL = 0xffff800000000000


class Instruction:
    def __init__(self, physical, linear, text):
        self.physical = physical
        self.linear = linear
        self.text = text


def instructions_of(output):
    return [Instruction(int(physical, 16), int(linear, 16), text.decode("ascii", "replace"))
            for physical, linear, text in STEP.findall(output)]


def cut(output, rows):
    """The traces of the rows out of the debugger's output."""
    pieces = output.split(BREAK)
    found = {row: instructions_of(pieces[2 * i + 1]) for i, row in enumerate(rows) if len(pieces) > 2 * i + 2}
    missing = [row for row in rows if not found.get(row)]
    if missing:
        raise machines.BenchError(f"the trace of {missing[0]} is empty")
    return found


def words_of(rows):
    return [f"trace={row}" for row in rows]


def code_range(elf):
    """First and last address of functions in L0's image."""
    done = subprocess.run(["nm", "--defined-only", elf], stdout=subprocess.PIPE, check=True, text=True)
    addresses = [int(line.split()[0], 16) for line in done.stdout.splitlines() if line.split()[1] in "Tt"]
    addresses = [address for address in addresses if address >= 0x100000]
    return min(addresses), max(addresses) + 0x1000


def files_of(elf, addresses):
    """address -> (source file within the project, function): the innermost frame that is no header's."""
    done = subprocess.run(["addr2line", "-e", elf, "-a", "-f", "-i"], input="\n".join(f"{a:#x}" for a in addresses),
                          stdout=subprocess.PIPE, check=True, text=True)
    out, address, frames = {}, None, []

    def close():
        if address is not None:
            sources = [frame for frame in frames if not frame[0].endswith(".h")]
            out[address] = (sources or frames or [("", "?")])[0]

    lines = iter(done.stdout.splitlines())
    for line in lines:
        if line.startswith("0x"):
            close()
            address, frames = int(line, 16), []
        else:
            path = next(lines).rpartition(":")[0]
            frames.append((within_project(path), line))
    close()
    return out


def within_project(path):
    found = re.search(r"(?:^|/)((?:lib|bindings|include)/.*)$", os.path.normpath(path))
    return found.group(1) if found else path


def part_of(path):
    for name, beginnings in PARTS:
        if any(path.startswith(beginning) for beginning in beginnings):
            return name
    return PARTS[-1][0]


def runs(instructions, is_l0):
    """[(what came to L0, [instructions of L0])], and how many instructions L1 and L2 executed."""
    out, others, before = [], 0, None
    for one in instructions:
        if not is_l0(one):
            others += 1
            before = one
        else:
            if before is not None:
                out.append((before.text.split()[0], []))
                before = None
            if out:
                out[-1][1].append(one)
    return out, others


def vmx_counts(exits):
    """How often L0 executed which VMX instruction."""
    words = [one.text.split()[0] for _, found in exits for one in found]
    return {word: words.count(word) for word in VMX_WORDS if word in words}


def of_nvmx(instructions, elf):
    first, last = code_range(elf)
    exits, others = runs(instructions, lambda one: first <= one.linear < last and one.physical != one.linear)
    where = files_of(elf, sorted({one.linear for _, found in exits for one in found}))
    out = []
    for cause, found in exits:
        parts, functions = {}, {}
        for one in found:
            path, function = where[one.linear]
            parts[part_of(path)] = parts.get(part_of(path), 0) + 1
            functions[function] = functions.get(function, 0) + 1
        out.append({"cause": cause, "instructions": len(found), "parts": parts,
                    "functions": dict(sorted(functions.items(), key=lambda item: -item[1])[:12])})
    return {"l1_and_l2": others, "vmx": vmx_counts(exits), "exits": out}


def of_kvm(instructions):
    exits, others = runs(instructions, lambda one: one.linear >= KERNEL)
    return {"l1_and_l2": others, "vmx": vmx_counts(exits),
            "exits": [{"cause": cause, "instructions": len(found)} for cause, found in exits]}


def measure_nvmx(image, l0, cpu, l0_options=(), rows=ROWS):
    machine = machines.run(image, lambda line: None, words=words_of(rows), l0=l0, l0_options=l0_options, cpu=cpu,
                           machine_class=machines.tracing(len(rows)))
    return {row: of_nvmx(found, l0) for row, found in cut(b"".join(machine.trace), rows).items()}
