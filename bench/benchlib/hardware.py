# SPDX-License-Identifier: MIT
"""The same machines on a processor with VT-x: QEMU with KVM and nested VMX instead of Bochs. Figures are cycles of the TSC there."""

import os
import shutil
import subprocess
import time

from . import machines

QEMU = "qemu-system-x86_64"
PARAMETER = "/sys/module/kvm_intel/parameters/nested"


def require():
    if shutil.which(QEMU) is None:
        raise machines.BenchError(f"{QEMU} is not installed: apt-get install qemu-system-x86")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise machines.BenchError("/dev/kvm can't be used: --hardware needs an Intel CPU with VT-x and Linux's kvm_intel")
    try:
        with open(PARAMETER, encoding="ascii") as file:
            nested = file.read().strip()
    except OSError:
        raise machines.BenchError(f"{PARAMETER} is missing: --hardware needs kvm_intel") from None
    if nested not in ("Y", "1"):
        raise machines.BenchError("kvm_intel gives its guests no VMX: modprobe -r kvm_intel; modprobe kvm_intel nested=1")


def command(path, *, words=(), l0=None, l0_options=(), initramfs=None, memory=machines.MEMORY):
    """QEMU loads multiboot images by -kernel, and modules (file and arguments) by -initrd."""
    name = os.path.basename(path)
    out = [QEMU, "-accel", "kvm", "-cpu", "host,+vmx", "-machine", "pc", "-smp", "1", "-m", str(memory), "-display", "none",
           "-serial", "stdio", "-monitor", "none", "-no-reboot"]
    if l0:
        # A comma separates modules there, and is written twice within one.
        module = " ".join([path, *words]).replace(",", ",,")
        return out + ["-kernel", l0, "-append", " ".join(l0_options), "-initrd", module]
    out += ["-kernel", path, "-append", " ".join([*words] if initramfs else [name, *words])]
    return out + (["-initrd", initramfs] if initramfs else [])


def run(path, on_line, *, limit=600, cpu=None, **options):
    """As machines.run; `cpu` is the machine's own."""
    del cpu
    begin = time.monotonic()
    process = subprocess.Popen(command(path, **options), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, errors="replace")
    try:
        for text in process.stdout:
            on_line(text.rstrip("\r\n"))
            if time.monotonic() - begin > limit:
                raise machines.BenchError(f"no end after {limit} s")
        error = process.stderr.read().strip()
        if process.wait() != 0:
            raise machines.BenchError(f"{QEMU}: {error.splitlines()[-1] if error else process.returncode}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
