# SPDX-License-Identifier: MIT
"""Tests of `nvmx state` and `nvmx trace`: blobs of Debian's KVM (tests/kvm-state), traces made here."""
import json
import os
import resource
import signal
import stat
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

STATES = Path(__file__).resolve().parents[1] / "kvm-state/states.txt"
NO_RULE = 0xffff
ENTER, REFLECT, EXIT, VMFAIL, ENTRY_FAIL, FAULT, STOP = range(1, 8)
HOST, LIBRARY, L1, L2 = range(4)


def kvm_states():
    """{name: (blob, text of what KVM keeps elsewhere)}"""
    common, states, current = [], {}, None
    for line in STATES.read_text().splitlines():
        word, _, rest = line.partition(" ")
        if line.startswith("#"):
            continue
        if word == "state":
            current = states[rest] = ([], bytearray())
        elif current is None:
            common.append(line)
        elif word == "bytes":
            current[1].extend(bytes(int(rest)))
        elif word.startswith("@"):
            at, data = int(word[1:], 16), bytes.fromhex(rest)
            current[1][at:at + len(data)] = data[:len(current[1]) - at]
        else:
            current[0].append(line)
    return {name: (bytes(blob), "\n".join(common + lines) + "\n") for name, (lines, blob) in states.items()}


def record(time, event, level, handler, reason, detail=0, number=0, rule=NO_RULE, vcpu=0, costs=(1, 2, 3), info=0):
    return struct.pack("<QQQIIIHHHHHBBBB14x", time, 0x7000, detail, reason, number, info, vcpu, rule, *costs, 1, event, level, handler)


def trace_file(records, lost=0, ticks=1000, version=1, size=64, rows=None):
    return struct.pack("<8sIIQQI28x", b"NVMXTRCE", version, size, ticks, lost, rows or 0) + b"".join(records)


def tests(program):
    """The test cases, for this program."""
    def nvmx(*arguments, status=None, data=b""):
        done = subprocess.run([program, *map(str, arguments)], input=data, capture_output=True, timeout=120, check=False)
        done.out, done.err = done.stdout.decode(), done.stderr.decode()
        if status is not None and done.returncode != status:
            raise AssertionError(f"nvmx {' '.join(map(str, arguments))}: status {done.returncode}, not {status}\n{done.out}{done.err}")
        return done

    class Folder(unittest.TestCase):
        def setUp(self):
            self.holder = tempfile.TemporaryDirectory()
            self.folder = Path(self.holder.name)

        def tearDown(self):
            self.holder.cleanup()

        def put(self, name, data):
            path = self.folder / name
            path.write_bytes(data)
            return path

    class State(Folder):
        def kvm(self, name):
            blob, elsewhere = kvm_states()[name]
            self.put(name + ".elsewhere", elsewhere.encode())
            return self.put(name, blob), blob, dict(line.split(" ", 1) for line in elsewhere.splitlines())

        def test_kvms_blobs_are_good_and_come_back(self):
            for name in kvm_states():
                with self.subTest(name):
                    path, blob, elsewhere = self.kvm(name)
                    self.assertIn("good", nvmx("state", "check", path, status=0).out)
                    nvmx("state", "convert", path, f"{path}.own", status=0)
                    self.assertIn("good", nvmx("state", "check", f"{path}.own", status=0).out)
                    nvmx("state", "convert", "--l1-tsc", elsewhere["l1_tsc"], f"{path}.own", f"{path}.kvm", status=0)
                    again = bytearray((self.folder / f"{name}.kvm").read_bytes())
                    if blob[0] & 1:  # the launch state: see tests/unit/state_kvm_taken.c
                        again[136] = blob[136]
                    self.assertEqual(bytes(again), blob)
                    nvmx("state", "convert", f"{path}.kvm", f"{path}.own2", status=0)
                    self.assertEqual((self.folder / f"{name}.own").read_bytes(), (self.folder / f"{name}.own2").read_bytes())

        def test_show(self):
            path, blob, _ = self.kvm("l2")
            shown = json.loads(nvmx("state", "show", "--json", path, status=0).out)
            self.assertEqual(shown["kind"], "KVM")
            self.assertEqual(int(shown["header"]["vmxon_pointer"], 16), int.from_bytes(blob[8:16], "little"))
            self.assertEqual(int(shown["vmcs12"]["GUEST_RIP"], 16), int.from_bytes(blob[128 + 544:128 + 552], "little"))
            self.assertIn("guest mode", shown["header"]["flags"])
            nvmx("state", "convert", path, f"{path}.own", status=0)
            own = json.loads(nvmx("state", "show", "--json", f"{path}.own", status=0).out)
            self.assertEqual(own["kind"], "nvmx")
            l2 = next(part for part in own["records"] if part["tag"] == 7)
            self.assertEqual(l2["items"]["GUEST_RIP"], shown["vmcs12"]["GUEST_RIP"])
            text = nvmx("state", "show", f"{path}.own", status=0).out
            for word in ("L2 runs", "what L1 sees", "IA32_VMX_BASIC", "Guest RIP", "launched"):
                self.assertIn(word, text)
            self.assertIn("L2 runs", nvmx("state", "show", path, status=0).out)

        def test_what_is_wrong_is_named(self):
            path, blob, _ = self.kvm("l2")
            nvmx("state", "convert", path, f"{path}.own", status=0)
            own = bytearray((self.folder / "l2.own").read_bytes())
            for at, byte, words in [(200, own[200] ^ 1, "checksum|damaged"), (8, 9, "version")]:
                bad = bytearray(own)
                bad[at] = byte
                done = nvmx("state", "check", self.put("bad", bytes(bad)), status=1)
                self.assertRegex(done.out, words)
                self.assertFalse(json.loads(nvmx("state", "check", "--json", self.folder / "bad", status=1).out)["good"])
                nvmx("state", "convert", self.folder / "bad", self.folder / "no", status=1)
                self.assertFalse((self.folder / "no").exists())
            self.assertRegex(nvmx("state", "check", self.put("short", bytes(own[:64])), status=1).out, "shorter|refused")
            rflags = bytearray(blob)
            rflags[128 + 552] = 0
            self.put("rflags", bytes(rflags))
            self.put("rflags.elsewhere", (self.folder / "l2.elsewhere").read_bytes())
            self.assertIn("C-29.3.1.4", nvmx("state", "check", self.folder / "rflags", status=1).out)
            self.assertEqual(nvmx("state", "convert", self.folder / "rflags", self.folder / "no", status=1).out.count("refused"), 1)
            self.assertIn("cut short", nvmx("state", "show", self.folder / "short", status=1).err)
            self.assertIn("cut short", nvmx("state", "show", self.put("short-kvm", blob[:-1]), status=2).err)

        def test_what_is_not_carried_is_named(self):
            path, blob, _ = self.kvm("l2")
            more = bytearray(blob)
            more[128 + 320] = 5  # the ENCLS-exiting bitmap, which L1 does not have
            path.write_bytes(bytes(more))
            done = nvmx("state", "convert", path, f"{path}.own", status=1)
            self.assertIn("lost: ", done.out)
            self.assertIn("202EH ENCLS-exiting bitmap", done.out)
            self.assertIn("good", nvmx("state", "check", f"{path}.own", status=0).out)
            shadow, blob, _ = self.kvm("l2-shadow")
            nvmx("state", "convert", shadow, f"{shadow}.own", status=0)
            done = nvmx("state", "convert", f"{shadow}.own", f"{shadow}.kvm", status=0)
            for words in ("besides: what L1 sees", "besides: L2's EFER", "besides: other active VMCSs"):
                self.assertIn(words, done.out)
            region = list(self.folder.glob("l2-shadow.kvm.region-*"))
            self.assertEqual([one.read_bytes() for one in region], [blob[128 + 4096:]])

        def test_a_conversion_writes_all_its_files_or_none(self):
            path, _, _ = self.kvm("l2-shadow")
            own, out = self.folder / "own", self.folder / "out"
            nvmx("state", "convert", path, own, status=0)
            nvmx("state", "convert", own, out, status=0)
            made = sorted(self.folder.glob("out*"))
            self.assertEqual(len(made), 3)
            for there in made:
                for one in made:
                    one.unlink(missing_ok=True)
                there.write_bytes(b"precious")
                self.assertIn(f"{there.name}: there is a file", nvmx("state", "convert", own, out, status=3).err)
                self.assertEqual(sorted(self.folder.glob("out*")), [there])
            self.assertIn("same file", nvmx("state", "convert", "--force", "--elsewhere", out, own, out, status=2).err)
            for arguments in (("convert", own, "-"), ("convert", "--elsewhere", "-", own, out), ("check", "--elsewhere", "-", "-")):
                nvmx("state", *arguments, status=2)
            self.assertFalse(Path("-").exists())

        def test_a_file_that_cant_be_written_over_stays(self):
            path, _, _ = self.kvm("l2-shadow")
            own, there = self.folder / "own", self.put("there", b"precious")
            nvmx("state", "convert", path, own, status=0)
            os.chmod(there, 0o640)
            before = sorted(self.folder.iterdir())

            def small_files():
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

            for arguments, status in ((("--force", path, there), 3), ((path, self.folder / "new"), 3)):
                done = subprocess.run([program, "state", "convert", *arguments], capture_output=True, preexec_fn=small_files, check=False)
                self.assertEqual(done.returncode, status, done.stderr)
                self.assertEqual(sorted(self.folder.iterdir()), before)
                self.assertEqual(there.read_bytes(), b"precious")
            nvmx("state", "convert", "--force", path, there, status=0)
            self.assertEqual(there.read_bytes(), own.read_bytes())
            self.assertEqual(stat.S_IMODE(there.stat().st_mode), 0o640)

        def test_usage_and_files(self):
            path, blob, _ = self.kvm("l2")
            other = self.put("alone", blob)
            self.assertIn("--elsewhere", nvmx("state", "check", other, status=2).err)
            nvmx("state", "check", "--elsewhere", f"{path}.elsewhere", other, status=0)
            nvmx("state", "show", "-", status=0, data=blob)
            nvmx("state", "show", self.put("junk", b"junk" * 100), status=2)
            nvmx("state", "show", self.put("empty", b""), status=2)
            nvmx("state", "show", self.folder / "nothing", status=3)
            nvmx("state", "paint", path, status=2)
            nvmx("state", status=2)
            nvmx("state", "convert", path, status=2)
            nvmx("state", "show", "--nonsense", path, status=2)
            for option in ("--elsewhere", "--shadow"):
                self.assertIn(f"{option} wants a value", nvmx("state", "check", path, option, status=2).err)
                self.assertIn(f"{option} wants a value", nvmx("state", "check", option, "", path, status=2).err)
            there = self.put("there", b"precious")
            self.assertIn("--force", nvmx("state", "convert", path, there, status=3).err)
            self.assertEqual(there.read_bytes(), b"precious")
            nvmx("state", "convert", "--force", path, there, status=0)
            for bad, place in [("efer zz\n", 1), ("efer 1 2\n", 1), ("nonsense 5\n", 1), ("\nevent_info 123456789\n", 2)]:
                done = nvmx("state", "check", "--elsewhere", self.put("bad.txt", bad.encode()), other, status=2)
                self.assertIn(f"bad.txt:{place}: ", done.err)

    class Trace(Folder):
        def records(self):
            """Two round trips of CPUID (10): 30 and 100 ticks; one of HLT with a refused entry in it: 1000."""
            trips = [
                record(100, REFLECT, 2, L1, 10, 0x55), record(110, EXIT, 1, LIBRARY, 23), record(130, ENTER, 1, L2, 24, 0x1000),
                record(200, REFLECT, 2, L1, 10), record(300, ENTER, 1, L2, 24), record(400, EXIT, 2, HOST, 1),
                record(500, REFLECT, 2, L1, 12), record(600, ENTRY_FAIL, 1, L1, 33, 0, rule=5), record(700, FAULT, 1, L1, 13, 4),
                record(800, VMFAIL, 1, L1, 0), record(1500, ENTER, 1, L2, 20), record(1600, REFLECT, 2, L1, 0, 9, info=0x80000b0e),
                record(1700, STOP, 1, LIBRARY, 24, 1), record(1800, ENTER, 1, L2, 24)]
            return [one[:28] + struct.pack("<I", i) + one[32:] for i, one in enumerate(trips)]

        def test_round_trips(self):
            path = self.put("trace", trace_file(self.records(), lost=3))
            found = json.loads(nvmx("trace", "--json", path, status=0).out)
            self.assertEqual((found["count"], found["lost"], found["ticks_per_second"]), (14, 3, 1000))
            trips = {trip["reason"]: trip for trip in found["round_trips"]}
            self.assertEqual(set(trips), {10, 12})
            self.assertEqual([trips[10][key] for key in ("count", "min", "median", "max", "l1_exits")], [2, 30, 100, 100, 1])
            self.assertEqual([trips[12][key] for key in ("count", "min", "max", "l1_exits")], [1, 1000, 1000, 3])
            self.assertEqual(trips[10]["log2_histogram"], [{"from": 16, "count": 1}, {"from": 64, "count": 1}])
            self.assertEqual(found["records"][7]["rule"], "rule 5 of another version")

        def test_two_vcpus(self):
            mixed = [record(0, REFLECT, 2, L1, 10, vcpu=0), record(5, REFLECT, 2, L1, 12, vcpu=7), record(7, ENTER, 1, L2, 24, vcpu=7),
                     record(50, ENTER, 1, L2, 24, vcpu=0)]
            found = json.loads(nvmx("trace", "--json", "--summary", "-", status=0, data=trace_file(mixed)).out)
            self.assertEqual([(trip["reason"], trip["max"]) for trip in found["round_trips"]], [(10, 50), (12, 2)])
            self.assertNotIn("records", found)

        def test_text(self):
            out = nvmx("trace", self.put("trace", trace_file(self.records(), lost=3)), status=0).out
            for word in ("14 records, 3 older ones were lost", "L2 -> L1", "CPUID, qualification 55H", "VMfailInvalid", "vector 13, error code 4H",
                         "interruption 80000B0EH", "(1 calls, 2 read, 3 written)", "10 CPUID: 2, min 30, median 100, max 100", "#"):
                self.assertIn(word, out)
            self.assertNotIn("(1 calls", nvmx("trace", "--summary", self.folder / "trace", status=0).out)
            self.assertIn("0 records", nvmx("trace", self.put("none", trace_file([])), status=0).out)

        def test_malformed(self):
            good = trace_file(self.records())
            self.assertIn("cut off", nvmx("trace", self.put("cut", good[:-5]), status=2).err)
            self.assertIn("no trace", nvmx("trace", self.put("junk", b"x" * 200), status=2).err)
            self.assertIn("no trace", nvmx("trace", self.put("short", good[:40]), status=2).err)
            self.assertIn("version 2", nvmx("trace", self.put("new", trace_file([], version=2)), status=2).err)
            self.assertIn("48 bytes", nvmx("trace", self.put("small", trace_file([], size=48)), status=2).err)
            bad = bytearray(good)
            bad[64 + 46] = 9
            self.assertIn("record 0 is of version 9", nvmx("trace", self.put("bad", bytes(bad)), status=2).err)
            nvmx("trace", self.folder / "nothing", status=3)
            self.assertIn("Is a directory", nvmx("trace", self.folder, status=3).err)
            nvmx("trace", status=2)
            nvmx("trace", "a", "b", status=2)
            nvmx("trace", "--nonsense", "a", status=2)

    return [State, Trace]
