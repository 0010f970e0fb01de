# SPDX-License-Identifier: MIT
"""One boot of the image in Bochs, directly or on nvmx, and what it printed."""

import os
import select
import signal
import subprocess
import time

# Nothing on the serial line for so long, also on a busy machine: L1 or L2 hangs.
SILENCE = 300
# Serial output is fast when an instruction takes long.
IPS = 1000000


class Failure(Exception):
    """The tools did not work: nothing can be said about nvmx."""


class Boot:
    """Results by number, the lines of a dump by number, and how it ended."""

    def __init__(self, lines, ended, why):
        self.capabilities = []
        self.vectors = {}
        self.sequences = {}
        self.dumps = {}
        self.ended = ended
        self.why = why
        self.last = None
        dump = []
        for line in lines:
            words = line.split()
            if not words:
                continue
            if words[0] in ("cpuid", "msr"):
                self.capabilities.append(line)
            elif words[0] in ("d", "h", "x", "o") and len(words) >= 3:
                dump.append(words)
            elif len(words) > 2 and words[1] in ("E", "F", "X", "W"):
                number = int(words[0], 16)
                self.vectors[number] = Result(words[1], words[2:])
                self.last = number
                self.dumps[number], dump = dump, []
            elif len(words) > 2 and words[0] == "s":
                number = int(words[1], 16)
                self.sequences[number] = Result("S", words[2:])
                self.last = number
                self.dumps[number], dump = dump, []


class Result:
    def __init__(self, kind, words):
        self.kind = kind
        self.words = words

    def __eq__(self, other):
        return self.kind == other.kind and self.words == other.words

    def outcome(self):
        """Without the hashes: what the architecture calls the result."""
        count = {"F": 2, "E": 2}.get(self.kind, len(self.words))
        return (self.kind, *self.words[:count])

    def __str__(self):
        words = self.words
        if self.kind == "F":
            return f"VMfail, flags {words[0]}, error {int(words[1], 16)}"
        if self.kind == "E":
            reason = int(words[0], 16)
            what = "entry failure" if reason >> 31 else "exit"
            return f"{what} {reason & 0xffff}, qualification {words[1]}"
        if self.kind == "X":
            return f"fault {int(words[0], 16)}, error code {words[1]}"
        if self.kind == "W":
            return f"VMWRITE of {words[0]}: flags {words[1]}, error {int(words[2], 16)}"
        return " ".join(words)


def watch(process):
    """Lines of the serial line up to its end, or up to a long silence."""
    data = b""
    heard = time.monotonic()
    why = ""
    while True:
        ready, _, _ = select.select([process.stdout], [], [], 1)
        if ready:
            block = os.read(process.stdout.fileno(), 1 << 16)
            if not block:
                break
            data += block
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE:
            why = f"nothing for {SILENCE} s"
            process.send_signal(signal.SIGTERM)
            heard = time.monotonic() + 1e9
    process.wait()
    return data.decode("latin-1").replace("\r", "").split("\n"), why


def boot(project, model, image, module, l0, direct, log):
    command = [os.path.join(project, "bindings/baremetal/boot"), "--cpu", model, "--ips", str(IPS),
               "--timeout", "3600", "--module", module]
    command += ["--direct"] if direct else ["--l0", l0]
    with open(log, "wb") as errors:
        with subprocess.Popen(command + [image], stdout=subprocess.PIPE, stderr=errors) as process:
            try:
                lines, why = watch(process)
            except BaseException:
                process.terminate()
                raise
    with open(log, encoding="latin-1") as errors:
        said = [line.strip() for line in errors if line.startswith("boot: ")]
    said = why or (said[-1] if said else "boot said nothing")
    if process.returncode in (2, 5, 6) or not any(line.startswith("msr ") for line in lines):
        raise Failure(f"the image did not start: {said}")
    fatal = [line for line in lines if "fatal" in line]
    return Boot(lines, "end" in lines, fatal[-1] if fatal else said)
