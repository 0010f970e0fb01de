# SPDX-License-Identifier: MIT
"""Runs of the benchmark's image: on the bare emulated CPU, on nvmx, on Debian's KVM; and traced on nvmx."""

import os
import re
import shutil
import sys
import tempfile
import time

sys.dont_write_bytecode = True
BENCH = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
PROJECT = os.path.dirname(BENCH)
sys.path.insert(0, os.path.join(PROJECT, "bindings", "baremetal"))

from bootlib import bochs, image, medium  # noqa: E402
from bootlib.errors import POWERED_OFF, BootError  # noqa: E402

IPS = 100000000
MEMORY = 512
LINUX_MEMORY = 1024


class BenchError(Exception):
    """What stops a run; the text is for the user."""


class TracingMachine(bochs.Machine):
    """A machine that writes every instruction between odd and even magic breakpoints, for `traces` pairs."""

    traces = 1

    def __init__(self, folder, cpu, memory, ips, cpus=1):
        self.trace = []
        super().__init__(folder, cpu, memory, ips, cpus)

    def write_configuration(self, cpu, memory, ips, cpus):
        super().write_configuration(cpu, memory, ips, cpus)
        with open(os.path.join(self.folder, "bochsrc"), "a", encoding="utf-8") as file:
            file.write("magic_break: enabled=1\n")
        with open(os.path.join(self.folder, "continue"), "w", encoding="utf-8") as file:
            file.write("c\n" + "trace on\nc\ntrace off\nc\n" * self.traces + "q\n")

    def drain_terminal(self):
        try:
            data = os.read(self.terminal, 1 << 16)
        except OSError:
            data = b""
        if not data:
            time.sleep(0.01)
        self.trace.append(data)

    def stopped_in_debugger(self):
        return False


def tracing(traces):
    """The class of a machine for so many traces."""
    return type("TracingMachine", (TracingMachine,), {"traces": traces})


class Report:
    """The lines of one machine, cut up as they come."""

    def __init__(self, on_line):
        self.on_line = on_line
        self.rest = b""
        self.started = False

    def add(self, data):
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()
        for line in lines:
            text = line.strip(b"\r").decode("utf-8", "replace")
            if self.started:
                self.on_line(text)
            elif medium.MARK_START.decode() in text:
                self.started = True


def run(path, on_line, *, words=(), l0=None, l0_options=(), initramfs=None, cpu="corei7_skylake_x", memory=MEMORY,
        limit=600, machine_class=bochs.Machine, log=None):
    """Boots an image and hands its lines to on_line until it powers off. Returns the machine, which has ended."""
    kind = image.kind_of(path)
    modules = [medium.Module(initramfs)] if initramfs else []
    files = {"image": path, **{f"mod{n}": module.path for n, module in enumerate(modules, 1)}}
    if l0:
        files["nvmx"] = l0
    folder = tempfile.mkdtemp(prefix="nvmx-bench-")
    machine = None
    try:
        medium.build(folder, files, medium.load_commands(kind, path, list(words), modules, l0, list(l0_options)))
        machine = machine_class(folder, cpu, memory, IPS)
        report = Report(on_line)
        machine.start()
        begin = time.monotonic()
        while not machine.ended():
            report.add(machine.poll(0.25))
            if machine.read_log():
                raise BenchError("the machine was reset")
            if machine.stopped_in_debugger():
                raise BenchError("Bochs stopped in its debugger")
            if time.monotonic() - begin > limit:
                raise BenchError(f"no end after {limit} s")
        rest = machine.read_serial()
        while rest:
            report.add(rest)
            rest = machine.read_serial()
        status, why = machine.ending()
        if status != POWERED_OFF and not issubclass(machine_class, TracingMachine):
            raise BenchError(why)
        return machine
    except BootError as error:
        raise BenchError(str(error)) from None
    finally:
        if machine:
            machine.stop()
        if log is not None and os.path.exists(os.path.join(folder, "bochs.log")):
            shutil.copy(os.path.join(folder, "bochs.log"), log)
        shutil.rmtree(folder, ignore_errors=True)


ROW = re.compile(r"bench: (\w+) (\d+) (\d+) (\d+)\s*$")


class Rows:
    """name -> [min, median, max], read from lines; says so when the image did not come to its end."""

    def __init__(self, progress=None):
        self.rows = {}
        self.done = False
        self.problem = None
        self.progress = progress

    def line(self, text):
        found = ROW.match(text)
        if found:
            self.rows[found.group(1)] = [int(found.group(n)) for n in (2, 3, 4)]
            if self.progress:
                self.progress(found.group(1))
        elif text.startswith("bench: done"):
            self.done = True
        elif text.startswith(("bench: ", "nvmx: fatal", "nvmx: entry", "l1: fatal")) or "FAILED" in text:
            self.problem = self.problem or text

    def result(self):
        if not self.done or self.problem:
            raise BenchError(self.problem or "the image stopped before its last row")
        return self.rows


def measure(path, progress=None, runner=None, **options):
    rows = Rows(progress)
    (runner or run)(path, rows.line, **options)
    return rows.result()
