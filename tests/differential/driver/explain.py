# SPDX-License-Identifier: MIT
"""What a difference is about: the vector, the checks that it fails, and the oracle's known errors."""


class Fact:
    """A vector as the generator explains it."""

    def __init__(self, number, base):
        self.number = number
        self.base = base
        self.changes = []
        self.fields = {}
        self.msrs = {}
        self.fails = []  # (id, VMfail error, exit reason, qualification)
        self.lines = []
        self.operations = []  # of a sequence


def shadow_is_current(fact, op):
    """Does this operation of a sequence find a shadow VMCS current, as far as the operations before it say?"""
    revisions, current = {}, None
    for other in fact.operations:
        if other is op:
            break
        region = other[1]
        if other[0] == "revision":
            revisions[region] = int(other[2], 16)
        elif other[0] == "VMPTRLD" and other[4] == "memory" and revisions.get(region, 0) in (0, 1 << 31):
            current = region
        elif other[0] == "VMCLEAR" and region == current or other[0] == "VMXOFF":
            current = None
    return current is not None and revisions.get(current, 0) == 1 << 31


class OracleError:
    def __init__(self, name, kind, what, when):
        self.name = name
        self.kind = kind
        self.what = what.split()
        self.when = compile(when, name, "eval") if when else None

    def holds(self, fact, direct, nvmx, op=None):
        if self.when is None:
            return True
        names = {"op": op, "shadow_is_current": lambda: shadow_is_current(fact, op), "f": lambda encoding: fact.fields.get(encoding, 0), "direct": direct, "nvmx": nvmx, "base": fact.base,
                 "msr": lambda number: fact.msrs.get(int(number, 16)),
                 "fails": lambda row: any(row == other[0] for other in fact.fails)}
        return bool(eval(self.when, names))  # the table is part of the source


def load(path):
    errors = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                name, kind, what, when, section, text = line.rstrip("\n").split("\t")
                if kind not in ("rows", "state", "outcome", "order", "step") or not section or not text:
                    raise ValueError(f"{path}: {name}")
                errors.append(OracleError(name, kind, what, when))
    return errors


def unchecked(errors):
    """Ids of the checks that the oracle never or sometimes doesn't make."""
    return [row for error in errors if error.kind == "rows" for row in error.what]


def parse(text):
    facts = {}
    fact = None
    for line in text.split("\n"):
        words = line.split()
        if not words:
            continue
        if words[0] in ("vector", "sequence"):
            fact = Fact(int(words[1], 16), words[3] if len(words) > 3 else "")
            fact.lines.append(line)
            facts[fact.number] = fact
        elif words[0] == "msr":
            fact.msrs[int(words[1])] = int(words[2], 16)
        elif words[0] == "field":
            fact.fields[int(words[1], 16)] = int(words[2], 16)
        else:
            fact.lines.append(line)
            if fact.lines[0].startswith("sequence"):
                fact.operations.append(words[1:])
            if words[0] == "fails":
                fact.fails.append((words[1], int(words[2]), int(words[3]), int(words[4])))
    return facts


def text(fact, direct, nvmx):
    lines = fact.lines[:64]
    return "\n".join(lines + [f"  direct: {direct}", f"  nvmx:   {nvmx}"])


def expected(fails, missing):
    """Outcome of the first failing check that is not missing."""
    for row, error, reason, qualification in fails:
        if row not in missing:
            if error:
                return ("F", "40", f"{error:x}")
            return ("E", f"{reason | 1 << 31:x}", f"{qualification:x}")
    return None


def is_other_order(fact, direct, nvmx):
    """Entry failures with two qualifications, each of a guest-state rule that is broken, and no rule broken that comes before those."""
    possible = {("E", "80000021", f"{qualification:x}") for _, _, _, qualification in fact.fails}
    both = {direct.outcome(), nvmx.outcome()}
    return len(both) == 2 and both <= possible and not any(error for _, error, _, _ in fact.fails)


def by_outcome(errors, fact, direct, nvmx):
    """The oracle's error that explains two different outcomes, or None."""
    if direct is None or nvmx is None:
        return None
    for error in errors:
        if error.kind == "outcome" and error.holds(fact, direct, nvmx):
            return error.name
        if error.kind == "order" and is_other_order(fact, direct, nvmx):
            return error.name
    if nvmx.kind == "D" or direct.outcome() == nvmx.outcome():
        return None
    if nvmx.outcome() != expected(fact.fails, ()):
        return None
    missing = {}
    for error in errors:
        if error.kind == "rows" and error.holds(fact, direct, nvmx):
            missing.update({row: error.name for row in error.what})
    answer = expected(fact.fails, missing)
    if fact.fails[0][0] not in missing:
        return None
    if direct.outcome() == answer or (answer is None and direct.kind == "E" and not int(direct.words[0], 16) >> 31):
        return missing[fact.fails[0][0]]
    return None


def dump_difference(direct, nvmx):
    """Items of two dumps that are not the same: {item: (direct, nvmx)}."""
    a = {f"{words[0]}:{words[1]}": " ".join(words[2:]) for words in direct}
    b = {f"{words[0]}:{words[1]}": " ".join(words[2:]) for words in nvmx}
    return {item: (a.get(item), b.get(item)) for item in set(a) | set(b) if a.get(item) != b.get(item)}


def by_state(errors, fact, items, direct, nvmx):
    """The first of the oracle's errors that together explain all items, or None."""
    if not items:
        return None
    left = set(items)
    first = None
    for error in errors:
        if error.kind == "state" and error.holds(fact, direct, nvmx) and left & set(error.what):
            left -= set(error.what)
            first = first or error.name
    return None if left else first


def by_step(errors, fact, items):
    """The first of the oracle's errors that together explain all operations of a sequence that differ, or None."""
    first = None
    for item in sorted(items, key=lambda name: int(name[2:], 16)):
        op = fact.operations[int(item[2:], 16)]
        direct, nvmx = items[item]
        if first and op[0] == "error":
            continue  # the VM-instruction error of the operation before
        found = [error.name for error in errors if error.kind == "step" and error.holds(fact, direct, nvmx, op)]
        if not found:
            return None
        first = first or found[0]
    return first
