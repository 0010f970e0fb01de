#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""No unbounded loop in lib/: each has a head that shows its bound, or a row in loops.tsv that says it.

usage: loops.py SOURCE

A head shows its bound where a variable goes by fixed steps to a limit (`for (i = 0; i < n; i++)`), or where each turn takes a bit out of a word. All others (while, do,
for without a limit, for with another step) need a row: file, how many with this head, the head as it stands, why they end. A row without its loops is an error too.
"""
import re
import sys
from collections import Counter
from pathlib import Path

COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
LOOP = re.compile(r"\b(for|while)\s*\(")
VARIABLE = r"(?:(?:const )?(?:unsigned int|uint\d+_t|size_t|int) )?(\w+)(?: = [^;]+)?"
COUNTS = re.compile(r"for \(" + VARIABLE + r"; (?:[^;]*&& )?\1 (?:<|<=|>|>=|!=) [^;|]+; \1(?:\+\+|--| \+= \w+)\)")
GOES_ON = re.compile(r"for \(; (?:[^;]*&& )?(\w+)(?: \+ \d+)? (?:<|<=) [^;|]+; \1(?:\+\+| \+= \w+)\)")
BITS = re.compile(r"for \(.*; (\w+) != 0; \1 &= \1 - 1\)")


def heads(text):
    """(line, head) of each loop."""
    text = COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)
    for match in LOOP.finditer(text):
        depth, end = 0, match.end() - 1
        while depth or end < match.end():
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        yield text.count("\n", 0, match.start()) + 1, " ".join(text[match.start():end].split())


def shows_its_bound(head):
    return head == "while (0)" or COUNTS.fullmatch(head) or GOES_ON.fullmatch(head) or BITS.fullmatch(head)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__.split("\n\n")[1])
    source = Path(sys.argv[1])
    try:
        rows = [line.split("\t") for line in (source / "tests/loops.tsv").read_text().splitlines() if line and not line.startswith("#")]
    except OSError as error:
        sys.exit(f"loops.py: {error.filename}: {error.strerror}: SOURCE is the project's folder")
    said = {(file, head): int(times) for file, times, head, why in rows if why}
    seen, all_loops, bad = Counter(), 0, 0
    for file in sorted(source.glob("lib/**/*.[ch]")):
        name = str(file.relative_to(source))
        for line, head in heads(file.read_text()):
            all_loops += 1
            if shows_its_bound(head):
                continue
            seen[name, head] += 1
            if seen[name, head] > said.get((name, head), 0):
                print(f"{name}:{line}: {head}: nothing says why it ends: a row in tests/loops.tsv, or a head that shows it")
                bad += 1
    for key, times in sorted(said.items()):
        if seen[key] < times:
            print(f"tests/loops.tsv: {key[0]} has {seen[key]} loops '{key[1]}', not {times}: bring the row up to date")
            bad += 1
    print(f"{all_loops} loops, {sum(said.values())} of them with their bound in tests/loops.tsv" if bad == 0 else f"{bad} loops or rows are wrong")
    return 1 if bad or not all_loops else 0


if __name__ == "__main__":
    sys.exit(main())
