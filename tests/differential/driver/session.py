# SPDX-License-Identifier: MIT
"""All runs on one CPU model, their comparison and its report."""

import os
import shutil
import subprocess
import tempfile
import time

from . import explain, machine

BATCH = 12500
# A machine that dies at a vector is started again behind it, so often.
DEATHS = 12
SHOWN = 40
# With so many vectors each entry check has one that fails it and one that passes it, where L1 has what that takes.
ENOUGH = 5000
NOT_REACHED = "not reached by any vector"


class Session:
    def __init__(self, options, here, project, model):
        self.options = options
        self.project = project
        self.model = model
        self.caps = os.path.join(here, "caps", model + ".txt")
        self.errors = explain.load(os.path.join(here, "oracle_errors.tsv"))
        build = options.build
        self.generator = os.path.join(build, "tests/differential/nvmx-generate")
        self.image = os.path.join(build, "tests/differential/nvmx-differential.elf")
        self.l0 = os.environ.get("NVMX_BAREMETAL") or os.path.join(build, "bindings/baremetal/nvmx-baremetal.elf")
        for path in (self.generator, self.image, self.l0):
            if not os.path.exists(path):
                raise machine.Failure(f"{path} is not built")
        self.folder = None
        self.seconds = {True: 0.0, False: 0.0}
        self.boots = 0

    def generate(self, *words):
        command = [self.generator, "--caps", self.caps, "--unchecked", ",".join(explain.unchecked(self.errors)),
                   "--seed", str(self.options.seed), *map(str, words)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise machine.Failure(f"{' '.join(command)} failed")
        return done.stdout.decode()

    def boot(self, direct, *what):
        """One boot over what the words select."""
        module = os.path.join(self.folder, f"{self.model}-{self.boots}.bin")
        self.boots += 1
        self.generate(*what, "--out", module)
        start = time.monotonic()
        result = machine.boot(self.project, self.model, self.image, module, self.l0, direct, module + ".log")
        self.seconds[direct] += time.monotonic() - start
        self.check_capabilities(result, direct)
        return result

    def check_capabilities(self, result, direct):
        """L1 must see what the generator counts on."""
        if direct:
            with open(self.caps, encoding="ascii") as file:
                expected = file.read().split("\n")
        else:
            expected = self.generate("--l1").split("\n")
        # An MSR that isn't there reads as nothing on one CPU and as 0 on another.
        expected = sorted(line for line in expected if line.startswith("msr ") and not line.endswith(" 0"))
        seen = sorted(line for line in result.capabilities if line.startswith("msr ") and not line.endswith(" 0"))
        if seen != expected:
            differ = sorted(set(seen) ^ set(expected))
            raise machine.Failure(f"L1 sees other capabilities {'on the CPU' if direct else 'on nvmx'} than the generator"
                                  f" counts on: {'; '.join(differ)}")

    def results(self, direct, kind, first, count):
        """Results of vectors or sequences by number; None where the machine died of one."""
        found = {}
        deaths = 0
        end = first + count
        while first < end:
            size = min(BATCH, end - first)
            words = ["--first", first, "--vectors", size] if kind == "vectors" else ["--first-sequence", first, "--sequences", size]
            run = self.boot(direct, *words)
            found.update(getattr(run, kind))
            if run.ended:
                first += size
                continue
            culprit = first if run.last is None else run.last + 1
            print(f"{self.model}: {'direct' if direct else 'nvmx'}: died at {kind[:-1]} {culprit:x}: {run.why}", flush=True)
            found[culprit] = machine.Result("D", [run.why])
            first = culprit + 1
            deaths += 1
            if deaths == DEATHS:
                raise machine.Failure(f"the machine died {deaths} times")
        return found

    def run(self):
        options = self.options
        self.folder = options.keep or tempfile.mkdtemp(prefix="nvmx-differential-")
        os.makedirs(self.folder, exist_ok=True)
        try:
            if options.only:
                return self.show("vectors", options.only)
            if options.only_sequences:
                return self.show("sequences", options.only_sequences)
            good = self.compare("vectors", options.first, options.count)
            good &= self.compare("sequences", 0, options.sequences)
            return self.hits() and good
        finally:
            if not options.keep:
                shutil.rmtree(self.folder, ignore_errors=True)

    def compare(self, kind, first, count):
        if count == 0:
            return True
        self.seconds = {True: 0.0, False: 0.0}
        direct = self.results(True, kind, first, count)
        nvmx = self.results(False, kind, first, count)
        numbers = sorted(set(direct) | set(nvmx))
        different = [n for n in numbers if n not in direct or n not in nvmx or direct[n] != nvmx[n]]
        known, unknown = self.judge(kind, different, direct, nvmx)
        print(f"{self.model}: {len(numbers)} {kind}, {len(different)} differ, {sum(known.values())} by the oracle's errors,"
              f" {len(unknown)} unexplained; {self.seconds[True]:.0f} s on the CPU, {self.seconds[False]:.0f} s on nvmx")
        if kind == "vectors":
            self.statistics(nvmx)
        for name, times in sorted(known.items()):
            print(f"  oracle error {name}: {times}")
        for text in unknown[:SHOWN]:
            print(text)
        if len(unknown) > SHOWN:
            print(f"  ... and {len(unknown) - SHOWN} more")
        return not unknown

    @staticmethod
    def statistics(results):
        kinds = {}
        for result in results.values():
            name = str(result) if result.kind == "F" else str(result).split(",", maxsplit=1)[0]
            kinds[name] = kinds.get(name, 0) + 1
        print("  " + "; ".join(f"{name}: {times}" for name, times in sorted(kinds.items(), key=lambda item: -item[1])))

    def judge(self, kind, different, direct, nvmx):
        """Differences by the oracle's error that explains them, and texts about the others."""
        known, unknown = {}, []
        if not different:
            return known, unknown
        listing = ",".join(f"{n:x}" for n in different)
        option = "--only" if kind == "vectors" else "--only-sequences"
        facts = explain.parse(self.generate(option, listing, "--explain"))
        by_state = []
        for number in different:
            fact = facts[number]
            a, b = direct.get(number), nvmx.get(number)
            name = explain.by_outcome(self.errors, fact, a, b)
            if name:
                known[name] = known.get(name, 0) + 1
            elif a and b and a.outcome() == b.outcome() or a and b and a.kind == b.kind == "S":
                by_state.append(number)
            else:
                unknown.append(explain.text(fact, a, b))
        self.judge_state(option, by_state, facts, known, unknown, direct, nvmx)
        return known, unknown

    def judge_state(self, option, numbers, facts, known, unknown, direct, nvmx):
        """Same outcome, other state: run those again with everything printed."""
        for start in range(0, len(numbers), 400):
            part = numbers[start:start + 400]
            listing = ",".join(f"{n:x}" for n in part)
            a = self.boot(True, option, listing, "--dump")
            b = self.boot(False, option, listing, "--dump")
            for number in part:
                items = explain.dump_difference(a.dumps.get(number, []), b.dumps.get(number, []))
                if option == "--only":
                    name = explain.by_state(self.errors, facts[number], items, direct[number], nvmx[number])
                else:
                    name = explain.by_step(self.errors, facts[number], items)
                if name:
                    known[name] = known.get(name, 0) + 1
                else:
                    what = "\n".join(f"    {item}: direct {x}, nvmx {y}" for item, (x, y) in sorted(items.items()))
                    unknown.append(explain.text(facts[number], direct[number], nvmx[number]) + "\n" +
                                   (what or "    (the same when run alone)"))

    def show(self, kind, listing):
        option = "--only" if kind == "vectors" else "--only-sequences"
        facts = explain.parse(self.generate(option, listing, "--explain"))
        a = self.boot(True, option, listing, "--dump")
        b = self.boot(False, option, listing, "--dump")
        for number in sorted(facts):
            x, y = getattr(a, kind).get(number), getattr(b, kind).get(number)
            print(explain.text(facts[number], x, y))
            for item, (u, v) in sorted(explain.dump_difference(a.dumps.get(number, []), b.dumps.get(number, [])).items()):
                print(f"    {item}: direct {u}, nvmx {v}")
        return True

    def hits(self):
        table = self.generate("--first", self.options.first, "--vectors", self.options.count, "--hits")
        lines = table.strip().split("\n")
        print(f"{self.model}: entry checks: {lines[-1][2:]}")
        if self.options.hits:
            with open(f"{self.options.hits}.{self.model}", "w", encoding="ascii") as file:
                file.write(table)
        missed = [line.split("\t")[0] for line in lines if line.endswith("\t" + NOT_REACHED)]
        if missed and self.options.first == 0 and self.options.count >= ENOUGH:
            print(f"{self.model}: no vector fails, or none passes, {' '.join(missed)}; and L1 has what that takes")
            return False
        return True
