#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How much stack each entry point of the library needs, at most; and that nothing recurses.

usage: stack.py SOURCE [CC]

Compiles lib/ with gcc's -fcallgraph-info (frames and calls of each function) as the freestanding archive is compiled, and adds up the deepest way from each function of
the public headers. A call through a pointer counts as the deepest function whose address a table or a function of the same file holds; a host's callback (a line that
says `host.` or CALLBACK) is the host's own and counts as nothing. Fails if a way ends in itself, if a frame has no fixed size, or if more is needed than include/nvmx/nvmx.h states (NVMX_STACK_BYTES).
"""
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FLAGS = ["-std=c11", "-O2", "-ffreestanding", "-fno-stack-protector", "-mgeneral-regs-only", "-fcf-protection=none", "-fcallgraph-info=su", "-fstack-usage"]
INDIRECT = "__indirect_call"
CALLBACK = re.compile(r"host(\.|->)|CALLBACK\(")
RETURN_ADDRESS = 8
ALL_WRITTEN = {**os.environ, "CCACHE_DISABLE": "1"}  # what ccache has it gives without the call graph


def compile_all(source, cc, folder):
    for file in sorted(source.glob("lib/**/*.c")):
        if file.name == "decode_zydis.c":
            continue
        name = "_".join(file.relative_to(source).with_suffix("").parts)
        subprocess.run([cc, *FLAGS, f"-I{source}/include", f"-I{source}/lib", "-c", str(file), "-o", f"{folder}/{name}.o"], check=True, cwd=folder, env=ALL_WRITTEN)
        yield name


def is_callback(place):
    """Does the source call the host at FILE:LINE:COLUMN? The statement may go over two lines."""
    file, line, _ = place.rsplit(":", 2)
    lines = Path(file).read_text().splitlines()
    return any(CALLBACK.search(text) for text in lines[int(line) - 1:int(line) + 1])


def read_graph(folder, name):
    """Frames by function, and calls; functions of a file are 'file.c:function' where static."""
    text = Path(folder, name + ".ci").read_text()
    frames, calls, dynamic = {}, [], []
    for title, label in re.findall(r'node: \{ title: "([^"]+)" label: "([^"]*)"', text):
        size = re.search(r"(\d+) bytes \((\w+[^)]*)\)", label)
        if size:
            frames[title] = int(size.group(1)) + RETURN_ADDRESS
            if size.group(2) not in ("static", "dynamic,bounded"):
                dynamic.append(title)
    for caller, callee, place in re.findall(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"(?: label: "([^"]+)")?', text):
        if callee != INDIRECT or not is_callback(place):
            calls.append((caller, callee))
    return frames, calls, dynamic


def addresses_taken(folder, name):
    """Functions that tables hold, or whose address code of this object takes (not calls)."""
    symbols = subprocess.run(["nm", f"{folder}/{name}.o"], check=True, capture_output=True, text=True).stdout
    functions = {line.split()[-1] for line in symbols.splitlines() if re.search(r" [tTU] ", " " + line)}
    by_place = {}
    for line in symbols.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in "tT":
            by_place[int(words[0], 16)] = words[2]
    taken, section = set(), ""
    relocations = subprocess.run(["objdump", "-r", f"{folder}/{name}.o"], check=True, capture_output=True, text=True).stdout
    for line in relocations.splitlines():
        heading = re.match(r"RELOCATION RECORDS FOR \[(.*)\]", line)
        if heading:
            section = heading.group(1)
            continue
        found = re.match(r"[0-9a-f]+ +(R_X86_64_\w+) +([\w.]+)([+-]0x[0-9a-f]+)?", line)
        if not found or section.startswith((".debug", ".eh_frame")):
            continue
        kind, symbol, offset = found.groups()
        if kind == "R_X86_64_PLT32":
            continue
        at = int(offset or "0", 16) + (4 if section.startswith(".text") else 0)
        if symbol == ".text" and at in by_place:
            taken.add(by_place[at])
        elif symbol in functions:
            taken.add(symbol)
    return taken


def main():
    source, cc = Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else "gcc"
    header = (source / "include/nvmx/nvmx.h").read_text()
    stated = re.search(r"#define NVMX_STACK_BYTES (\d+)", header)
    if not stated:
        sys.exit("stack.py: include/nvmx/nvmx.h states no NVMX_STACK_BYTES")
    frames, calls, dynamic, held = {}, {}, [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name in compile_all(source, cc, folder):
            own_frames, own_calls, own_dynamic = read_graph(folder, name)
            frames.update(own_frames)
            dynamic += own_dynamic
            for caller, callee in own_calls:
                calls.setdefault(caller, set()).add(f"{INDIRECT} {name}" if callee == INDIRECT else callee)
            held[f"{INDIRECT} {name}"] = addresses_taken(folder, name)
    for place, names in held.items():
        calls[place] = {title for title in frames if title.rsplit(":", 1)[-1] in names}
    public = set(re.findall(r"\b(nvmx_\w+)\(", "".join(p.read_text() for p in source.glob("include/nvmx/*.h"))))
    depth, way, failed = {}, [], False

    def deepest(title):
        nonlocal failed
        if title in way:
            loop = way[way.index(title):]
            # A callback's caller whose own address a table of its file holds is no candidate of itself.
            return 0 if any(t.startswith(INDIRECT) for t in loop) else fail("recursion: " + " -> ".join(loop + [title]))
        if title in depth:
            return depth[title]
        way.append(title)
        below = [deepest(t) for t in sorted(calls.get(title, ()))]
        way.pop()
        depth[title] = frames.get(title, 0) + max(below, default=0)
        return depth[title]

    def fail(text):
        nonlocal failed
        print("stack.py: " + text)
        failed = True
        return 0

    rows = sorted(((deepest(t), t.rsplit(":", 1)[-1]) for t in frames if t.rsplit(":", 1)[-1] in public), reverse=True)
    for title in dynamic:
        fail(f"the frame of {title} has no fixed size")
    for size, name in rows:
        print(f"{size}\t{name}")
    if not rows or rows[0][0] > int(stated.group(1)):
        fail(f"{rows[0][1] if rows else 'nothing'} needs {rows[0][0] if rows else 0} bytes; include/nvmx/nvmx.h states {stated.group(1)} (NVMX_STACK_BYTES)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
