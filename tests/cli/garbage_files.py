#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Mutated files for `nvmx state`, `trace`, `status` and `enable`: the command-line tool never crashes, and never changes a file that it refuses.

usage: garbage_files.py NVMX [COUNT [SEED]]

Each run must end with status 0 to 3, without a word from a sanitizer, and a refusal must give a reason.
"""
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from files import kvm_states, record, trace_file

VM = b"# a VM\nname = lab\nexpose = no\nmemory = 512M # MiB\nstate = off\nmac_spoofing = no\ndisk = x\ndynamic_memory = yes\n"
TEXTS = [b"expose = yes\n", b"memory = 99999999999999999999\n", b"\r\n", b"=", b"#", b"\0", b"state = saved\n", b"name = \033[31m\n", b" " * 300]


def seeds(program, folder):
    """(kind, bytes) of good files."""
    found = []
    for name, (blob, elsewhere) in kvm_states().items():
        path = folder / name
        path.write_bytes(blob)
        (folder / f"{name}.elsewhere").write_text(elsewhere)
        subprocess.run([program, "state", "convert", path, folder / f"{name}.own"], check=True, capture_output=True, timeout=120)
        found += [("state", (folder / f"{name}.own").read_bytes()), ("state", blob), ("elsewhere", elsewhere.encode())]
    records = [record(10 * i, 1 + i % 7, 1 + i % 2, i % 4, i % 70, i, i) for i in range(60)]
    return found + [("trace", trace_file(records))] * 12 + [("vm", VM)] * 20


def mutate(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] = rng.choice((0, 1, 0x7f, 0x80, 0xff, rng.randrange(256)))
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at:at + rng.choice((1, 8, 100))]
        elif kind == 3:
            data[at:at] = rng.choice(TEXTS + [data[:16]])
        elif kind == 4 and rng.random() < 0.2:
            del data[at:]
    return bytes(data)


def commands(kind, path, good):
    if kind == "state":
        return [["state", "show", path], ["state", "check", "--elsewhere", good, path], ["state", "show", "--json", path],
                ["state", "convert", "--force", "--elsewhere", good, path, f"{path}.out"]]
    if kind == "elsewhere":
        return [["state", "check", "--elsewhere", path, str(Path(good).with_suffix(""))]]
    if kind == "trace":
        return [["trace", path], ["trace", "--json", path]]
    return [["status", path], ["enable", "--dry-run", path], ["enable", "--yes", path]]


def fault(done, path, before, arguments):
    err = done.stderr.decode("utf-8", "replace")
    if done.returncode not in (0, 1, 2, 3):
        return f"status {done.returncode}"
    if "Sanitizer" in err or "runtime error" in err:
        return "a sanitizer speaks"
    if done.returncode >= 2 and "nvmx: " not in err:
        return "refused without a reason"
    if b"\033" in done.stdout + done.stderr:
        return "control characters"
    if (done.returncode != 0 or arguments[:2] != ["enable", "--yes"]) and path.read_bytes() != before:
        return "it changed a file that it refused"
    return None


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 300
    rng = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    statuses, failed = {}, 0
    with tempfile.TemporaryDirectory(prefix="nvmx-garbage-") as name:
        folder = Path(name)
        files = seeds(sys.argv[1], folder)
        for number in range(count):
            kind, data = rng.choice(files)
            path = folder / "mutated"
            path.write_bytes(mutate(rng, data))
            before = path.read_bytes()
            # A convert writes its TEXT as well, where the input is nvmx's own: never over a seed.
            good = folder / "l2.text.elsewhere"
            good.write_bytes((folder / "l2.elsewhere").read_bytes())
            (folder / "l2.text").write_bytes((folder / "l2").read_bytes())
            arguments = rng.choice(commands(kind, str(path), str(good)))
            done = subprocess.run([sys.argv[1], *arguments], input=b"", capture_output=True, timeout=300, check=False)
            statuses[done.returncode] = statuses.get(done.returncode, 0) + 1
            what = fault(done, path, before, arguments)
            if what:
                failed += 1
                kept = tempfile.NamedTemporaryFile(prefix="nvmx-garbage-", delete=False)
                kept.write(before)
                kept.close()
                print(f"input {number}, kept as {kept.name}: nvmx {' '.join(arguments)}: {what}\n{done.stderr.decode('utf-8', 'replace')[:1500]}")
    print(f"{count} files, by status: {dict(sorted(statuses.items()))}; {failed} failed")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
