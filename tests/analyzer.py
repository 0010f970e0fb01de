#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""gcc's static analyzer over lib/: what it says beyond the rows of analyzer.tsv fails.

usage: analyzer.py SOURCE GCC

A row: file, what it says (without numbers of elements), why it is not so. The analyzer is interprocedural within a file: what a caller in another file makes sure of it does not
see. Rows that it no longer says are named, but no error: that depends on gcc's version.
"""
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def findings(source, gcc, file):
    words = [gcc, "-std=c11", "-O1", "-fanalyzer", "-Iinclude", "-Ilib", "-DNVMX_HAVE_ZYDIS=1", "-c", str(file.relative_to(source)), "-o", "/dev/null"]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        sys.exit(f"analyzer.py: {gcc} does not compile {file}:\n{done.stderr[-1500:]}")
    return [(name, line, re.sub(r"\[(\d+|<unknown>)\]", "[]", what)) for name, line, what in re.findall(r"^(lib\S+?):(\d+):\d+: warning: (.*?) \[CWE", done.stderr, re.M)]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.split("\n\n")[1])
    source, gcc = Path(sys.argv[1]).resolve(), sys.argv[2]
    try:
        rows = [line.split("\t") for line in (source / "tests/analyzer.tsv").read_text().splitlines() if line and not line.startswith("#")]
    except OSError as error:
        sys.exit(f"analyzer.py: {error.filename}: {error.strerror}: SOURCE is the project's folder")
    judged = {(name, what) for name, what, why in rows if why}
    files = sorted(source.glob("lib/**/*.c"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [f for some in pool.map(lambda file: findings(source, gcc, file), files) for f in some]
    new = [f for f in found if (f[0], f[2]) not in judged]
    for name, line, what in new:
        print(f"{name}:{line}: {what}")
    for name, what in sorted(judged - {(f[0], f[2]) for f in found}):
        print(f"no longer said: {name}: {what}")
    print(f"{len(files)} files, {len(found)} findings, {len(new)} of them not judged")
    return 1 if new or not files else 0


if __name__ == "__main__":
    sys.exit(main())
