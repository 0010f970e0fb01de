#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Random and mutated input: the command-line tool never crashes.

usage: garbage.py NVMX [COUNT [SEED]]

COUNT inputs (default 300), from a seed, go through `explain` and `caps`. Each must end with status 0 to 3, without a word from a sanitizer, and a refusal must
give a reason; malformed text is refused with its line. An input that fails is kept and named.
"""
import random
import re
import subprocess
import sys
import tempfile

from formats import FORMATS
from run import Capabilities
from states import BASES

FRAGMENTS = ["*** Guest State ***", "*** Host State ***", "*** Control State ***", "nvmx: VMCS 0 (vmcs01), ", "CR0: actual=", "0x", "H", "= ", ": ", "(XEN) ",
             "[  1.2] ", "<3>", " kernel: ", "MSR guest autoload:", "  0: msr=0x10 value=0x", "sel ", "(", ")", "ffffffffffffffffffff", "_", "480 ", "cpu ", "#",
             "physical_address_bits ", "vtpr ", "\r", "\t", "%s%n", "\u00e9", "target", "EFER= 0x1 (", "0x_1", "1__2"]


def seeds(rng):
    base = rng.choice(list(BASES.values()))()
    text = FORMATS[rng.choice(list(FORMATS))](base)
    return text + Capabilities.DUMPED if rng.random() < 0.2 else text


def mutate(rng, text):
    data = bytearray(text.encode("utf-8"))
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 2, 8, 100, 1000))
        kind = rng.randrange(12)
        if kind == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at:at + length]
        elif kind == 2:
            data[at:at] = rng.choice(FRAGMENTS).encode("utf-8") * rng.choice((1, 1, 3, 200))
        elif kind == 3:
            data[at:at] = data[rng.randrange(len(data) + 1):][:length]
        elif kind == 4 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 5:
            data[at:at + 1] = b"" if rng.random() < 0.5 else b"\n"
        elif kind == 6:
            del data[at:]
        elif at < len(data) and chr(data[at]) in "0123456789abcdef":  # still well-formed: another value
            data[at] = ord(rng.choice("0123456789abcdef"))
    return bytes(data)


def garbage(rng):
    kind = rng.random()
    if kind < 0.1:
        return rng.randbytes(rng.randrange(3000))
    if kind < 0.25:
        return "".join(rng.choice(FRAGMENTS + ["\n", " ", "1", "6800"]) for _ in range(rng.randrange(400))).encode("utf-8")
    if kind < 0.4:
        return mutate(rng, Capabilities.DUMPED)
    return mutate(rng, seeds(rng))


def fault(done):
    """What is wrong with how it ended; None if nothing is."""
    err = done.stderr.decode("utf-8", "replace")
    if done.returncode not in (0, 1, 2, 3):
        return f"status {done.returncode}"
    if "Sanitizer" in err or "runtime error" in err:
        return "a sanitizer speaks"
    if done.returncode >= 2 and not err.startswith("nvmx: "):
        return "refused without a reason"
    if done.returncode == 2 and not re.search(r"^nvmx: stdin(:\d+)?: .", err, re.MULTILINE):
        return "refused without a place"
    try:
        done.stdout.decode("utf-8")
    except UnicodeDecodeError:
        return "output is not UTF-8"
    return "control characters" if b"\033" in done.stdout + done.stderr else None


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 300
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    rng = random.Random(seed)
    statuses = {}
    failed = 0
    for number in range(count):
        data = garbage(rng)
        command = rng.choice((["explain"], ["explain", "--json"], ["explain", "--caps", "skylake_x"], ["explain", "-v", "--l1"], ["caps", "-"],
                              ["caps", "skylake_x", "-"]))
        done = subprocess.run([sys.argv[1], *command], input=data, capture_output=True, timeout=300, check=False)
        statuses[done.returncode] = statuses.get(done.returncode, 0) + 1
        what = fault(done)
        if what:
            failed += 1
            with tempfile.NamedTemporaryFile(prefix="nvmx-garbage-", delete=False) as file:
                file.write(data)
            print(f"input {number} of seed {seed}, kept as {file.name}: nvmx {' '.join(command)}: {what}\n{done.stderr.decode('utf-8', 'replace')[:2000]}")
    print(f"{count} inputs, by status: {dict(sorted(statuses.items()))}; {failed} failed")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
