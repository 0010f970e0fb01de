#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests of the command-line tool.

usage: run.py NVMX [--update] [TEST...]

Makes each dump of cases.py, lets NVMX explain it, and compares with expected.txt; then everything else: formats, what is undecided, malformed input, tables,
capabilities, help, colours. --update writes expected.txt anew from what NVMX says: look at the difference before you commit it.
"""
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import files
import ready
from cases import CASES
from formats import FORMATS
from states import BASES, ENCODING, NAME, width

HERE = Path(__file__).resolve().parent
EXPECTED = HERE / "expected.txt"
MAN = HERE.parents[1] / "bindings/cli/nvmx.1"
NVMX = sys.argv[1] if len(sys.argv) > 1 else "nvmx"
IDENTIFIER = {name: identifier for identifier, name in NAME.items()}
COMMANDS = ("explain", "caps", "fields", "checks", "exits", "status", "enable", "state", "trace")


def nvmx(*arguments, text="", status=None):
    done = subprocess.run([NVMX, *arguments], input=text.encode("latin-1"), capture_output=True, timeout=120, check=False)
    done.out = done.stdout.decode("utf-8")
    done.err = done.stderr.decode("utf-8")
    if status is not None and done.returncode != status:
        raise AssertionError(f"nvmx {' '.join(arguments)}: status {done.returncode}, not {status}\n{done.out}{done.err}")
    return done


def explain(text, *arguments, status=None):
    """The only dump's explanation."""
    explanations = json.loads(nvmx("explain", "--json", *arguments, text=text, status=status).out)
    assert len(explanations) == 1
    return explanations[0]


def ids(rules):
    return [rule["id"] for rule in rules]


def planted(case):
    fields = BASES[case.base]()
    fields.update(case.change)
    return fields


def block(case):
    """What is compared with expected.txt: the rule, its fields with values and lines, and the remedy; not the wording of rules, which is the library's."""
    out = nvmx("explain", "--caps", case.caps, text=FORMATS[case.format](planted(case)), status=1).out
    lines = [f"== {case.name} ({case.base}, {case.format}, {case.caps})"]
    for line in out.splitlines():
        if re.match(r"C-|\d+ rules? broken", line) or re.match(r"    ([0-9A-F]{4}H|holds with)", line) or "then broken" in line:
            lines.append(line.rstrip())
    return "\n".join(lines) + "\n"


def expected_blocks():
    blocks = re.split(r"(?m)^(?=== )", EXPECTED.read_text())
    return {re.match(r"== (\S+)", block).group(1): block for block in blocks if block.startswith("== ")}


class PlantedErrors(unittest.TestCase):
    def test_exactly_the_planted_rule_is_named(self):
        for case in CASES:
            with self.subTest(case.name):
                found = explain(FORMATS[case.format](planted(case)), "--caps", case.caps, status=1)
                self.assertEqual(ids(found["broken"]), [case.rule])
                named = {field["name"]: field for field in found["broken"][0]["fields"]}
                shown = [name for name in map(NAME.get, case.change) if name in named]
                self.assertTrue(shown, f"none of the changed fields is named: {list(named)}")
                for name in shown:
                    self.assertEqual(int(named[name]["value"], 16), case.change[IDENTIFIER[name]])

    def test_output_is_the_expected_one(self):
        expected = expected_blocks()
        for case in CASES:
            with self.subTest(case.name):
                self.assertEqual(block(case), expected.get(case.name))
        self.assertEqual(set(expected), {case.name for case in CASES})

    def test_what_satisfies_a_rule_satisfies_it(self):
        for case in CASES:
            with self.subTest(case.name):
                fields = planted(case)
                remedy = explain(FORMATS["pairs"](fields), "--caps", case.caps, status=1)["broken"][0]["holds_with"]
                self.assertEqual(remedy["breaks"], 0)
                fields[IDENTIFIER[remedy["name"]]] = int(remedy["value"], 16)
                self.assertEqual(explain(FORMATS["pairs"](fields), "--caps", case.caps, status=0)["broken"], [])

    def test_there_are_enough(self):
        self.assertGreaterEqual(len(CASES), 30)
        self.assertEqual(len({case.name for case in CASES}), len(CASES))
        self.assertEqual({case.format for case in CASES}, set(FORMATS))
        self.assertEqual({case.base for case in CASES}, set(BASES))


class Formats(unittest.TestCase):
    def test_valid_states_break_nothing_in_any_format(self):
        for base, state in BASES.items():
            for name, write in FORMATS.items():
                with self.subTest(f"{base} {name}"):
                    found = explain(write(state()), "--caps", "skylake_x", status=0)
                    self.assertEqual(found["broken"], [])

    def test_formats_are_recognised(self):
        of = {"linux": "Linux (KVM)", "syslog": "Linux (KVM)", "bare": "Linux (KVM)", "wrapped": "Linux (KVM)", "xen": "Xen", "xen_stamped": "Xen",
              "own": "nvmx"}
        for name, write in FORMATS.items():
            self.assertEqual(explain(write(BASES["long64"]()))["format"], of.get(name, "pairs"))

    def test_complete_formats_leave_nothing_undecided(self):
        for name in ("own", "pairs", "pairs_0x", "pairs_h", "names", "sdm_names"):
            self.assertEqual(explain(FORMATS[name](BASES["long64"]()), "--caps", "skylake_x")["undecided"], [])

    def test_several_dumps_in_one_log(self):
        wrong = BASES["long64"]()
        wrong["GUEST_RFLAGS"] = 0x244
        for name in ("linux", "xen", "own"):
            text = FORMATS[name](BASES["long64"]()) + FORMATS[name](wrong) + FORMATS[name](BASES["real"]())
            found = json.loads(nvmx("explain", "--json", "--caps", "skylake_x", text=text, status=1).out)
            self.assertEqual([ids(one["broken"]) for one in found], [[], ["C-29.3.1.4-04"], []])
            self.assertEqual(len({one["line"] for one in found}), 3)

    def test_dumps_of_both_kinds_in_one_log(self):
        wrong = BASES["long64"]()
        wrong["GUEST_RFLAGS"] = 0x244
        for first, second, formats in (("own", "linux", ["nvmx", "Linux (KVM)"]), ("linux", "own", ["Linux (KVM)", "nvmx"]), ("xen", "own", ["Xen", "nvmx"])):
            with self.subTest(first=first, second=second):
                text = FORMATS[first](wrong) + "\n" + FORMATS[second](BASES["long64"]()) + "\n" + FORMATS[first](BASES["real"]())
                done = nvmx("explain", "--json", "--caps", "skylake_x", text=text, status=1)
                found = json.loads(done.out)
                self.assertEqual([one["format"] for one in found], [*formats, formats[0]])
                self.assertEqual([ids(one["broken"]) for one in found], [["C-29.3.1.4-04"], [], []])
                self.assertEqual(done.err, "")

    def test_other_lines_of_a_log_are_passed_over_and_named(self):
        lines = FORMATS["linux"](BASES["long64"]()).splitlines()
        lines.insert(20, "[  673.851000] eth0: renamed from veth1a2b")
        done = nvmx("explain", "--caps", "skylake_x", text="\n".join(lines), status=0)
        self.assertIn("stdin:21: not part of the dump", done.err)

    def test_a_heading_with_nothing_behind_it_is_no_dump(self):
        heading = {"linux": "*** Guest State ***", "xen": "(XEN) *** Guest State ***", "own": "nvmx: VMCS 6000 (vmcs12)"}
        for name, empty in heading.items():
            good = FORMATS[name](BASES["long64"]()).rstrip("\n") + "\n"
            for text, line in ((f"{empty}\n\n{good}", 1), (f"{good}{empty}\n", good.count("\n") + 1)):
                with self.subTest(name, line=line):
                    done = nvmx("explain", "--json", "--caps", "skylake_x", text=text, status=0)
                    self.assertEqual(len(json.loads(done.out)), 1)
                    self.assertIn(f"stdin:{line}: no field of a VMCS follows this heading", done.err)

    def test_efer_that_is_not_the_vmcs_field_is_not_taken_for_it(self):
        fields = BASES["long64"]()
        fields["VM_ENTRY_CONTROLS"] &= ~(1 << 15)
        fields["GUEST_EFER"] = 0xffff
        self.assertEqual(explain(FORMATS["linux"](fields), "--caps", "skylake_x", status=0)["broken"], [])

    def test_names_of_linux(self):
        found = explain("GUEST_IA32_EFER 0xd01\nCPU_BASED_VM_EXEC_CONTROL: b5a06dfa\nguest cs ar bytes = a09b\nVMCS_GUEST_RIP 1\n", "-v")
        self.assertEqual(found["format"], "pairs")

    def test_text_from_windows(self):
        text = "\xef\xbb\xbf" + FORMATS["pairs"](BASES["long64"]()).replace("\n", "\r\n")
        self.assertEqual(explain(text, "--caps", "skylake_x", status=0)["broken"], [])

    def test_halves_of_64_bit_fields(self):
        text = FORMATS["pairs"](BASES["long64"]()) + "2801 ffffffff\n201b 00020001\n"
        self.assertEqual(ids(explain(text, "--caps", "skylake_x", status=1)["broken"]), ["C-29.2.1.1-58"])


class Undecided(unittest.TestCase):
    def test_a_field_left_out_makes_its_rules_undecided(self):
        for field, rules in (("GUEST_CR3", ["C-29.3.1.1-12"]), ("HOST_TR_SELECTOR", ["C-29.2.3-07", "C-29.2.3-09"]),
                             ("VPID", ["C-29.2.1.1-52"]), ("GUEST_GDTR_LIMIT", ["C-29.3.1.3-02"]), ("APIC_ACCESS_ADDRESS", [])):
            with self.subTest(field):
                fields = BASES["long64"]()
                del fields[field]
                found = explain(FORMATS["pairs"](fields), "--caps", "skylake_x", status=0)
                self.assertEqual(ids(found["undecided"]), rules)
                self.assertEqual([lack["name"] for lack in found["lacking"]], [NAME[field]] if rules else [])

    def test_a_rule_is_decided_where_what_lacks_does_not_matter(self):
        fields = BASES["long64"]()
        fields["GUEST_CS_ACCESS_RIGHTS"] = 0xa0fb
        del fields["GUEST_SS_SELECTOR"]
        found = explain(FORMATS["pairs"](fields), "--caps", "skylake_x", status=1)
        self.assertEqual(ids(found["broken"]), ["C-29.3.1.2-48"])

    def test_strict_counts_them(self):
        fields = BASES["long64"]()
        del fields["GUEST_CR3"]
        nvmx("explain", "--caps", "skylake_x", "--strict", text=FORMATS["pairs"](fields), status=1)
        fields["GUEST_CR3"] = 0
        nvmx("explain", "--caps", "skylake_x", "--strict", text=FORMATS["pairs"](fields), status=0)

    def test_l1s_mode_is_inferred_from_host_state_only_if_it_shows(self):
        fields = BASES["long64"]()
        fields["VM_EXIT_CONTROLS"] &= ~(1 << 9)
        self.assertIn("C-29.2.4-03", ids(explain(FORMATS["pairs"](fields), "--caps", "skylake_x", status=1)["broken"]))
        low = {name: value & 0xffffffff if name.startswith("HOST_") else value for name, value in BASES["long64"]().items()}
        mode = {"C-29.2.4-01", "C-29.2.4-02"}
        self.assertEqual(mode & set(ids(explain(FORMATS["pairs"](low), "--caps", "skylake_x")["undecided"])), mode)
        self.assertIn("C-29.2.4-01", ids(explain(FORMATS["pairs"](low), "--caps", "skylake_x", "--long-mode", "no")["broken"]))

    def test_what_no_vmcs_holds_can_be_given(self):
        fields = BASES["restricted64"]()
        fields.update(SECONDARY_CONTROLS=0x2a, TPR_THRESHOLD=5, VMCS_LINK_POINTER=0x5000)
        text = FORMATS["pairs"](fields)
        open_ones = {"C-29.2.1.1-35", "C-29.3.1.5-30", "C-29.3.1.5-31", "C-29.3.1.5-32"}
        self.assertEqual(set(ids(explain(text, "--caps", "skylake_x", status=0)["undecided"])), open_ones)
        given = ("--vtpr", "40", "--vmcs-pointer=5000", "--link-revision", "8000002b")
        found = explain(text, "--caps", "skylake_x", *given, status=1)
        self.assertEqual(set(ids(found["broken"])), {"C-29.2.1.1-35", "C-29.3.1.5-31", "C-29.3.1.5-32"})
        found = explain(text + "vtpr 50\ncurrent_vmcs 6000\nlink_revision 2b\n", "--caps", "skylake_x", status=0)
        self.assertEqual((found["broken"], found["undecided"]), ([], []))

    def test_empty_lists_are_known_from_a_kernel_that_prints_them(self):
        fields = BASES["long64"]()
        new = ids(explain(FORMATS["linux"](fields), "--caps", "skylake_x")["undecided"])
        old = ids(explain(FORMATS["syslog"](fields), "--caps", "skylake_x")["undecided"])
        self.assertNotIn("C-29.2.1.3-20", new)
        self.assertIn("C-29.2.1.3-20", old)
        fields["VM_ENTRY_MSR_LOAD_COUNT"] = 2
        self.assertIn("C-29.2.1.3-20", ids(explain(FORMATS["linux"](fields), "--caps", "skylake_x")["undecided"]))


class Capabilities(unittest.TestCase):
    DUMPED = "\n".join(["msr 0x480 = 00d810000000002b", "481 7f00000016", "IA32_VMX_PROCBASED_CTLS f7f9fffe0401e172", "483 007fffff00036dff",
                        "484 0000ffff000011ff", "485 600401e0", "486 80000021", "487 ffffffff", "488 2000", "489 3727ff", "48a 34",
                        "48b 02177fff00000000", "48c 00000f0106334141", "48d 7f00000016", "48e f7f9fffe04006172", "48f 007fffff00036dfb",
                        "490 0000ffff000011fb", "491 1", "physical_address_bits 40", "cpu LONG_MODE NX SYSCALL"]) + "\n"

    def test_the_dumps_own_come_first_then_permissive(self):
        text = FORMATS["pairs"](BASES["long64"]())
        found = explain(text)
        self.assertTrue(found["capabilities_assumed"])
        self.assertIn("permissive", found["capabilities"])
        found = explain(text + self.DUMPED)
        self.assertEqual((found["capabilities"], found["capabilities_assumed"]), ("the dump's own", False))
        self.assertIn("skylake_x", explain(text + self.DUMPED, "--caps", "skylake_x")["capabilities"])

    def test_they_decide(self):
        fields = BASES["long64"]()
        fields["HOST_CR4"] |= 1 << 11
        text = FORMATS["linux"](fields)
        self.assertEqual(ids(explain(text, "--caps", "skylake_x", status=1)["broken"]), ["C-29.2.2-04"])
        self.assertEqual(ids(explain(text, "--caps", "icelake_u", status=0)["broken"]), [])
        self.assertEqual(ids(explain(text, "--caps", "permissive", status=0)["broken"]), [])

    def test_for_l1_what_is_not_offered_is_refused(self):
        bits = json.loads(nvmx("caps", "--json", "permissive", status=0).out)["bits"]
        not_offered = [bit["bit"] for bit in bits if bit["msr"] == "0x48b" and bit["reason"] == "not_emulated"]
        bit = next((bit for bit in (51, 53, 59, 60, 62, 63) if bit in not_offered), None)  # controls with no rules about others
        if bit is None:
            self.skipTest("nvmx offers all of them now")
        fields = BASES["long64"]()
        fields["SECONDARY_CONTROLS"] |= 1 << (bit - 32)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(self.DUMPED.replace("02177fff00000000", f"{0x02177fff00000000 | 1 << bit:x}"))
            file.flush()
            nvmx("explain", "--caps", file.name, text=FORMATS["names"](fields), status=0)
            found = explain(FORMATS["names"](fields), "--caps", file.name, "--l1", status=1)
        self.assertEqual(ids(found["broken"]), ["C-29.2.1.1-05"])

    def test_a_field_that_does_not_exist_is_pointed_out(self):
        fields = BASES["long64"]()
        out = nvmx("explain", "--caps", "skylake_x", text=FORMATS["pairs"](fields) + "2034 1\n", status=0).out
        self.assertIn("does not exist with these capabilities", out)

    def test_decoding(self):
        for name in ("skylake_x", "icelake_u", "permissive"):
            decoded = json.loads(nvmx("caps", "--json", name, status=0).out)
            bits = {(bit["msr"], bit["bit"]): bit for bit in decoded["bits"]}
            self.assertEqual(bits["0x48b", 33]["reason"], "offered")
            self.assertTrue(bits["0x481", 33]["l1_must_be_1"])
            for bit in decoded["bits"]:
                self.assertTrue(bit["why"], bit)
                if bit["reason"] == "not_emulated":
                    self.assertRegex(bit["why"], "^not emulated: .")
            self.assertEqual(len(decoded["msrs"]), 20)
            self.assertIn("offered to L1", nvmx("caps", "--all", name, status=0).out)
        self.assertEqual(bits["0x480", 49]["l1"], "0x0")

    def test_a_mask_and_what_depends_on_it(self):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(self.DUMPED.replace("02177fff00000000", "02177ffd00000000"))  # without EPT
            file.flush()
            decoded = json.loads(nvmx("caps", "--json", "--mask", file.name, "skylake_x", status=0).out)
        bits = {(bit["msr"], bit["bit"]): bit for bit in decoded["bits"]}
        self.assertEqual(bits["0x48b", 33]["reason"], "masked")
        self.assertEqual(bits["0x48b", 39]["reason"], "dependency")
        self.assertIn("Enable EPT", bits["0x48b", 39]["why"])

    def test_difference(self):
        self.assertEqual(json.loads(nvmx("caps", "--json", "skylake_x", "skylake_x", status=0).out), [])
        found = json.loads(nvmx("caps", "--json", "skylake_x", "icelake_u", status=1).out)
        self.assertIn("Monitor trap flag", [one["name"] for one in found])
        self.assertEqual(json.loads(nvmx("caps", "--json", "skylake_x", "-", text=self.DUMPED, status=1).out),
                         [one for one in json.loads(nvmx("caps", "--json", "skylake_x", "-", text=self.DUMPED, status=1).out) if one["name"] == "RTM"])

    def test_a_path_is_never_the_name_of_a_built_in_set(self):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([os.path.abspath(NVMX), "caps", "./skylake_x"], cwd=folder, capture_output=True, check=False)
        self.assertEqual(done.returncode, 3)
        self.assertIn(b"can't be opened", done.stderr)

    def test_from_a_log_or_a_dump(self):
        log = "boot: the image starts\n" + "".join(f"l1: {line}\n" for line in self.DUMPED.splitlines()[3:18])
        log += "l1: 480 00d810000000002b\nl1: 481 7f00000016\nl1: 482 f7f9fffe0401e172\n"
        nvmx("caps", "-", text=log, status=0)
        nvmx("caps", "-", text=FORMATS["linux"](BASES["long64"]()) + self.DUMPED, status=0)

    def test_malformed_sets(self):
        for text, status, reason in (
                ("", 2, "IA32_VMX_BASIC (480H) is missing"), ("480 1\nhello\n", 2, "stdin:2: not a capability MSR"),
                ("480 xyz\n", 2, "stdin:1: not a hexadecimal number"), ("480 1\n480 2\n", 2, "stdin:2: MSR 480H has another value"),
                ("481 IA32_VMX_BASIC 1\n", 2, "stdin:1: this is not the name"), ("physical_address_bits 99\n", 2, "stdin:1: not a decimal number"),
                ("cpu LONG_MODE MMX\n", 2, "stdin:1: no such CPU feature here: 'MMX'"), (self.DUMPED.replace("48d ", "# "), 2, "(48DH) is missing")):
            with self.subTest(reason):
                self.assertIn(reason, nvmx("caps", "-", text=text, status=status).err)
        self.assertIn("neither a file nor a built-in set", nvmx("caps", "nehalem", status=2).err)
        self.assertIn("can't be opened", nvmx("caps", "/no/such/file", status=3).err)


class MalformedInput(unittest.TestCase):
    def check(self, text, line, reason):
        with self.subTest(reason):
            err = nvmx("explain", text=text, status=2).err
            self.assertIn(f"nvmx: stdin:{line}: ", err)
            self.assertIn(reason, err)

    def test_pairs(self):
        self.check("", 1, "no VMCS dump in it")
        self.check("# nothing\n\n", 2, "no VMCS dump in it")
        self.check("4000 16\nbogus\n", 2, "a field and its value are expected")
        self.check("4000 16\n4002 12345678z\n", 2, "not a hexadecimal number")
        self.check("4000 16\n\n6800 11112222333344445\n", 3, "not a hexadecimal number of at most 64 bits")
        self.check("4444 1\n", 1, "4444H is not the encoding of a VMCS field")
        self.check("4001 1\n", 1, "4001H is not the encoding")
        self.check("10000 1\n", 1, "10000H is not the encoding")
        self.check("GUEST_FOO 1\n", 1, "no VMCS field is called 'GUEST_FOO'")
        self.check("0802 12345\n", 1, "12345H does not fit into Guest CS selector (0802H), which has 16 bits")
        self.check("4000 100000016\n", 1, "which has 32 bits")
        self.check("4000 16\n4002 2\n4000 17\n", 3, "is 17H here and 16H on line 1")
        self.check("4000 Guest RIP 16\n", 1, "4000H is Pin-based VM-execution controls, not 'Guest RIP'")
        self.check("vtpr 100\n", 1, "vtpr is at most FFH")
        self.check("2001 100000000\n", 1, "does not fit into the high half")
        self.check("4000 16\0\n", 1, "this is not text")

    def test_sections(self):
        good = FORMATS["bare"](BASES["long64"]())

        def change(old, new):
            self.assertIn(old, good)
            return good.replace(old, new)

        self.check(change("CR3 = 0x000000001a2e4006", "CR3 = 0xzz"), 4, "a hexadecimal number of at most 64 bits is expected after 'CR3 = '")
        self.check(change(", limit=0xffffffff, base=0x0000000000000000\nDS", "\nDS"), 10, "', limit=")
        self.check(change("PinBased=0x0000003f", "PinBased=0x1000000ff"), 35, "1000000FFH does not fit into Pin-based")
        self.check(change("DR7 = 0x0000000000000400", "DR7 = 0x0000000000000400 junk"), 8, "'junk' at the end of a line of the dump")
        self.check(change("gh_mask=fffffffffffffff7", "gh_mask="), 2, "a hexadecimal number")
        self.check("*** Guest State ***\nRIP of nobody\n*** Control State ***\n", 1, "no field of a VMCS follows this heading")
        self.check(good + "CR3 = 0x1\n*** Guest State ***\nCR3 = 1\nCR3 = 2\n", good.count("\n") + 4, "is 2H here and 1H on line")

    def test_own(self):
        self.check("\nnvmx: VMCS 6000 (vmcs12)\n", 2, "no field of a VMCS follows this heading")
        good = FORMATS["own"](BASES["long64"]())
        self.check(good.replace("  4000 Pin-based", "  4000 Pinbased"), good[:good.index("  4000 ")].count("\n") + 1, "not 'Pinbased")
        self.check(good.replace("  6800 Guest CR0", "  68o0 Guest CR0"), good[:good.index("  6800 ")].count("\n") + 1, "no VMCS field is called")


class Usage(unittest.TestCase):
    def test_wrong_usage(self):
        for arguments in ((), ("frobnicate",), ("explain", "--frob"), ("explain", "a", "b"), ("explain", "--caps"), ("explain", "--vtpr", "xyz"),
                          ("explain", "--vtpr", "100"), ("explain", "--long-mode", "maybe"), ("explain", "--caps", "-"), ("caps", "a", "b", "c"),
                          ("caps", "--frob"), ("caps", "-", "-"), ("fields", "x"), ("exits", "x"), ("checks", "a", "b"), ("help", "x"),
                          ("explain", "--caps", "pentium"), ("caps", "--mask", "-", "-"), ("caps", "--mask", "permissive", "skylake_x", "icelake_u")):
            with self.subTest(" ".join(arguments)):
                done = nvmx(*arguments, status=2)
                self.assertTrue(done.err)
                self.assertEqual(done.out, "")
        for command, option in (("caps", "--mask"), ("fields", "--caps"), ("status", "--root")):
            for arguments in ((option,), (option, ""), (f"{option}=",)):
                self.assertIn(f"{option} wants a value", nvmx(command, *arguments, status=2).err)

    def test_a_file_that_is_not_there(self):
        self.assertIn("can't be opened", nvmx("explain", "/no/such/file", status=3).err)
        self.assertIn("can't be read", nvmx("explain", "/", status=3).err)

    def test_stdout_that_is_full(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("no /dev/full")
        with open("/dev/full", "wb") as full:
            done = subprocess.run([NVMX, "checks"], stdout=full, stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 3)

    def test_help(self):
        for arguments in (("--help",), ("-h",), ("help",)):
            self.assertIn("usage: nvmx COMMAND", nvmx(*arguments, status=0).out)
        for command in COMMANDS:
            text = nvmx(command, "--help", status=0).out
            self.assertTrue(text.startswith(f"usage: nvmx {command}"))
            self.assertEqual(text, nvmx("help", command, status=0).out)
            self.assertLess(max(map(len, text.splitlines())), 150)
            self.assertIn(command, nvmx("help").out)
        self.assertRegex(nvmx("version", status=0).out, r"^nvmx \d+\.\d+\.\d+\n$")

    def test_the_man_page_has_every_command_and_option(self):
        man = MAN.read_text().replace("\\-", "-")
        for command in COMMANDS:
            self.assertIn(f"nvmx {command}", man)
            for option in re.findall(r"--[a-z0-9-]+", nvmx(command, "--help").out):
                self.assertIn(option, man)

    def test_no_colours_but_on_a_terminal(self):
        text = FORMATS["pairs"](BASES["real"]())
        for arguments in (("explain",), ("checks",), ("caps", "skylake_x"), ("fields",), ("exits",), ("caps", "skylake_x", "icelake_u")):
            self.assertNotIn("\033", nvmx(*arguments, text=text).out)
        self.assertIn(b"\033[1m", self.on_terminal({"TERM": "xterm"}))
        self.assertNotIn(b"\033", self.on_terminal({"TERM": "xterm", "NO_COLOR": "1"}))
        self.assertNotIn(b"\033", self.on_terminal({"TERM": "dumb"}))

    def on_terminal(self, environment):
        parent, child = pty.openpty()
        process = subprocess.Popen([NVMX, "exits"], stdout=child, stdin=subprocess.DEVNULL, env=environment)
        os.close(child)
        out = b""
        try:
            while data := os.read(parent, 4096):
                out += data
        except OSError:  # the terminal is closed when the program ends
            pass
        os.close(parent)
        process.wait()
        return out

    def test_control_characters_of_the_input_are_not_printed(self):
        done = nvmx("explain", text="\033[31mred 5\n", status=2)
        self.assertNotIn("\033", done.err)


class Tables(unittest.TestCase):
    def test_checks(self):
        table = json.loads(nvmx("checks", "--json", status=0).out)
        rows = table["checks"]
        self.assertGreaterEqual(len(rows), 390)
        self.assertEqual(len({row["id"] for row in rows}), len(rows))
        self.assertEqual(table["rules"], len(rows))
        self.assertEqual(table["live"], sum(row["live"] for row in rows))
        self.assertEqual(sum(feature["rules"] for feature in table["features"]), len(rows))
        self.assertEqual(sum(feature["live"] for feature in table["features"]), table["live"])
        for row in rows:
            self.assertTrue(row["rule"])
            self.assertEqual(bool(row["elsewhere"]), not row["live"])
        text = nvmx("checks", status=0).out
        for row in rows:
            self.assertIn(row["id"], text)
        self.assertIn(f"{len(rows)} rules, {table['live']} live", text)

    def test_checks_by_word(self):
        rows = json.loads(nvmx("checks", "--json", "29.2.3", status=0).out)["checks"]
        self.assertTrue(rows and all("29.2.3" in row["id"] for row in rows))
        rows = json.loads(nvmx("checks", "--json", "enable ept", status=0).out)["checks"]
        self.assertTrue(rows and all(row["feature"] == "Enable EPT" for row in rows))
        self.assertNotIn("C-29", nvmx("checks", "--summary", status=0).out)

    def test_fields(self):
        fields = json.loads(nvmx("fields", "--json", status=0).out)
        self.assertEqual({field["identifier"]: int(field["encoding"], 16) for field in fields}, ENCODING)
        self.assertEqual({field["identifier"]: field["name"] for field in fields}, NAME)
        digits = {"16": 4, "32": 8, "64": 16, "natural": 16}
        for field in fields:
            self.assertEqual(digits[field["width"]], width(field["identifier"]))
        some = json.loads(nvmx("fields", "--json", "--caps", "skylake_x", status=0).out)
        self.assertLess(len(some), len(fields))
        self.assertNotIn("HLAT_POINTER", [field["identifier"] for field in some])
        self.assertIn(f"{len(fields)} fields", nvmx("fields").out)

    def test_exits(self):
        exits = json.loads(nvmx("exits", "--json", status=0).out)
        self.assertEqual([one["reason"] for one in exits], list(range(len(exits))))
        self.assertEqual(exits[10]["name"], "CPUID")
        self.assertEqual(exits[12]["goes_to"], "L1 if HLT exiting")
        self.assertIn("qualification", exits[48]["information"])
        for one in exits:
            self.assertRegex(one["goes_to"], r"^(L1|the host)\b")
        self.assertIn("CPUID", nvmx("exits", status=0).out)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for case in ready.tests(NVMX) + files.tests(NVMX):
        globals()[case.__name__] = case
    if "--update" in sys.argv:
        EXPECTED.write_text("".join(block(case) for case in CASES))
        sys.exit(0)
    unittest.main(argv=[sys.argv[0]] + sys.argv[2:])
