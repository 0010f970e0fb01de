# SPDX-License-Identifier: MIT
"""Tests of `nvmx status` and `nvmx enable`: machines in folders, files of VMs, a terminal."""
import json
import os
import pty
import stat
import subprocess
import tempfile
import unittest
from pathlib import Path

SKYLAKE = """480 00d8100000000004
481 7f00000016
482 fff9fffe0401e172
483 7fffff00036dff
484 ffff000011ff
485 600401e0
486 80000021
487 ffffffff
488 2000
489 3767ff
48a 34
48b 77cff00000000
48c f0106714141
48d 7f00000016
48e fff9fffe04006172
48f 7fffff00036dfb
490 ffff000011fb
491 1
"""
VMX, VIRTUAL = 1 << 5, 1 << 31


def leaf(number, text, places):
    """A leaf of CPUID with 4 letters in each of the registers named."""
    registers = dict.fromkeys("abcd", 0x16 if number == 0 else 0)
    for i, place in enumerate(places):
        registers[place] = int.from_bytes(text[4 * i:4 * i + 4].encode().ljust(4, b"\0"), "little")
    return f"{number:08x} " + " ".join(f"{registers[r]:08x}" for r in "abcd") + "\n"


def machine(folder, vendor="GenuineIntel", features=VMX, hypervisor=None, feature_control=5, msrs=SKYLAKE, nested=None, users=None):
    """Files as a Linux of that machine has them."""
    cpu = folder / "dev/cpu/0"
    cpu.mkdir(parents=True)
    text = leaf(0, vendor, "bdc") + f"1 0 0 {features | (VIRTUAL if hypervisor is not None else 0):08x} 0\n"
    if hypervisor is not None:
        text += leaf(0x40000000, hypervisor, "bcd")
    (cpu / "cpuid").write_text(text)
    if msrs:
        (cpu / "msr").write_text(msrs + f"3a {feature_control:x}\n")
    module = folder / "sys/module/kvm_intel"
    if nested is not None or users is not None:
        (module / "parameters").mkdir(parents=True)
        (module / "parameters/nested").write_text((nested or "Y") + "\n")
        (module / "refcnt").write_text(f"{users or 0}\n")
    return str(folder)


def tests(program):
    """The test cases, for this program."""
    def nvmx(*arguments, status=None, text=""):
        done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, timeout=120, check=False)
        if status is not None and done.returncode != status:
            raise AssertionError(f"nvmx {' '.join(arguments)}: status {done.returncode}, not {status}\n{done.stdout}{done.stderr}")
        return done

    class Folder(unittest.TestCase):
        def setUp(self):
            self.holder = tempfile.TemporaryDirectory()
            self.folder = Path(self.holder.name)

        def tearDown(self):
            self.holder.cleanup()

        def vm(self, text, name="lab.vm"):
            path = self.folder / name
            path.write_bytes(text.encode())
            return path

    class Status(Folder):
        def found(self, status, *arguments, **facts):
            root = machine(Path(tempfile.mkdtemp(dir=self.folder)), **facts)
            return json.loads(nvmx("status", "--json", "--root", root, *arguments, status=status).stdout)["machine"]

        def ids(self, status, **facts):
            return [finding["id"] for finding in self.found(status, **facts)["findings"]]

        def test_machines(self):
            self.assertEqual(self.ids(0), [])
            self.assertEqual(self.ids(1, vendor="AuthenticAMD", features=0), ["cpu-amd"])
            self.assertEqual(self.ids(1, vendor="SomeoneElse!", features=0), ["cpu-unknown"])
            self.assertEqual(self.ids(1, features=0), ["no-vmx"])
            self.assertEqual(self.ids(1, features=0, hypervisor="KVMKVMKVM"), ["vmx-hidden"])
            self.assertEqual(self.ids(0, hypervisor="Microsoft Hv"), ["inside-a-hypervisor"])
            self.assertEqual(self.ids(1, feature_control=1), ["firmware-locked"])
            self.assertEqual(self.ids(1, feature_control=3), ["firmware-smx-only"])
            self.assertEqual(self.ids(0, feature_control=0), ["firmware-unlocked"])
            self.assertEqual(self.ids(0, msrs=None), ["msrs-unknown"])
            self.assertEqual(self.ids(0, nested="N"), ["kvm-nested-off"])
            self.assertEqual(self.ids(0, users=2), ["vmx-busy"])

        def test_what_is_known_is_told(self):
            found = self.found(0, hypervisor="KVMKVMKVM", nested="1", users=1)
            self.assertTrue(found["ready"])
            self.assertEqual((found["hypervisor"], found["kvm_nested"], found["vmx_used_by"]), ("KVM", "on", "kvm_intel"))
            self.assertIn("EPT", found["l1_sees"])
            self.assertEqual(found["feature_control"], "0x5")
            self.assertIsNone(self.found(0)["kvm_nested"])

        def test_no_permission_is_said_plainly(self):
            root = machine(self.folder / "m")
            os.chmod(self.folder / "m/dev/cpu/0/msr", 0)
            done = nvmx("status", "--root", root)
            if os.getuid() == 0:
                self.assertEqual(done.returncode, 0)
            else:
                self.assertIn("no permission", done.stdout)

        def test_text(self):
            root = machine(self.folder / "m", vendor="AuthenticAMD", features=0)
            done = nvmx("status", "--root", root, status=1)
            self.assertIn("NO nested VMX on this machine", done.stdout)
            self.assertIn("AMD", done.stdout)
            self.assertNotIn("\033", done.stdout)
            self.assertIn("YES nested VMX on this machine", nvmx("status", "--root", machine(self.folder / "n"), status=0).stdout)

        def test_this_machine(self):
            done = nvmx("status")
            self.assertIn(done.returncode, (0, 1))
            self.assertRegex(done.stdout, r"(?m)^  (YES|NO) nested VMX on this machine")

        def test_malformed_facts(self):
            root = self.folder / "m"
            machine(root)
            (root / "dev/cpu/0/cpuid").write_text("0 1 2\n")
            self.assertIn("cpuid:1: ", nvmx("status", "--root", str(root), status=2).stderr)
            (root / "dev/cpu/0/cpuid").unlink()
            nvmx("status", "--root", str(root), status=3)
            (root / "dev/cpu/0/cpuid").write_text("")
            self.assertIn("nothing is known", nvmx("status", "--root", str(root), status=1).stdout)

        def test_usage(self):
            nvmx("status", "--nonsense", status=2)
            nvmx("status", "a", "b", status=2)
            nvmx("status", "/nonexistent.vm", status=3)

    class VmFiles(Folder):
        def found(self, text, status):
            root = machine(Path(tempfile.mkdtemp(dir=self.folder)))
            done = nvmx("status", "--json", "--root", root, str(self.vm(text)), status=status)
            return [finding["id"] for finding in json.loads(done.stdout)["vm"]["findings"]]

        def test_findings(self):
            good = "expose=yes\nmac_spoofing = on\nmemory=8G\n"
            self.assertEqual(self.found(good, 0), [])
            self.assertEqual(self.found("", 1), ["not-exposed", "no-mac-spoofing"])
            self.assertEqual(self.found("mac-spoofing: x = yes\nmac spoofing = yes", 1), ["not-exposed"])
            self.assertEqual(self.found("state = running\nmac_spoofing = yes", 1), ["not-exposed-running"])
            self.assertEqual(self.found("state = saved # since May\nmac_spoofing = yes", 1), ["not-exposed-saved"])
            self.assertEqual(self.found(good + "state=running\ndynamic_memory=yes\ncheckpoint_parent=clean\nlive_migration=true", 0),
                             ["dynamic-memory-is-no-obstacle", "running-is-no-obstacle", "checkpoint-is-no-obstacle", "migration-is-no-obstacle"])
            self.assertEqual(self.found("expose=yes\nmac_spoofing=1\nmemory=512", 0), ["little-memory"])
            self.assertEqual(self.found("expose=yes\nmac_spoofing=1\nmemory=1024MiB", 0), ["memory-is-no-obstacle"])
            self.assertEqual(self.found("expose=yes\nmac_spoofing=1\nmemory=4194304K\ncheckpoint_parent = none", 0), [])

        def test_malformed(self):
            for text, line, reason in [
                    ("expose = maybe", 1, "yes or no"), ("\n\nnonsense\n", 3, "key = value"), ("expose=no\n\nEXPOSE = yes", 3, "before, in line 1"),
                    ("memory = 4Q", 1, "a size"), ("memory = -1", 1, "a size"), ("memory = 0", 1, "a size"), ("memory=99999999999999999999G", 1, "a size"),
                    ("state = asleep", 1, "off, running or saved"), ("= 5", 1, "key = value"), ("expose =", 1, "yes or no"),
                    ("name = " + "x" * 300, 1, "too long"), ("what # is = this", 1, "key = value"), ("a\0b", 1, "not text")]:
                with self.subTest(text):
                    done = nvmx("status", str(self.vm(text)), status=2)
                    self.assertIn(f"lab.vm:{line}: ", done.stderr)
                    self.assertIn(reason, done.stderr)
                    self.assertIn(reason, nvmx("enable", "--yes", str(self.folder / "lab.vm"), status=2).stderr)
                    self.assertEqual((self.folder / "lab.vm").read_bytes(), text.encode())

    class Enable(Folder):
        def expect(self, before, after, *options):
            path = self.vm(before)
            nvmx("enable", "--yes", *options, str(path), status=0)
            self.assertEqual(path.read_bytes().decode(), after)
            self.assertEqual(sorted(p.name for p in self.folder.iterdir() if p.name != "lab.vm" and not p.name.endswith(".orig")), [])

        def test_only_the_values_change(self):
            self.expect("# mine\n\n\tname = x  # y\nexpose=no # now\ndisk = /a#b = c\nmemory   =  256M\n",
                        "# mine\n\n\tname = x  # y\nexpose= yes # now\ndisk = /a#b = c\nmemory   =  4G\nmac_spoofing = yes\n")
            self.expect("disk = a\r\nexpose = off\r\nmac_spoofing = no\r\n", "disk = a\r\nexpose = yes\r\nmac_spoofing = yes\r\n")
            self.expect("\ufeff# of Windows\r\nexpose = no\r\nmac_spoofing = 1\r\n", "\ufeff# of Windows\r\nexpose = yes\r\nmac_spoofing = 1\r\n")
            self.expect("name = z", "name = z\nexpose = yes\nmac_spoofing = yes\n")
            self.expect("", "expose = yes\nmac_spoofing = yes\n")
            self.expect("expose = yes\nmac_spoofing = yes", "expose = yes\nmac_spoofing = yes")

        def test_then_it_is_ready(self):
            path = self.vm("memory = 1\n")
            nvmx("enable", "-y", str(path), status=0)
            done = json.loads(nvmx("status", "--json", str(path)).stdout)
            self.assertTrue(done["vm"]["ready"])
            self.assertIn("nothing to change", nvmx("enable", str(path), status=0).stdout)

        def test_mode_links_and_backup(self):
            path = self.vm("expose = no\n", "real.vm")
            os.chmod(path, 0o640)
            link = self.folder / "lab.vm"
            link.symlink_to("real.vm")
            nvmx("enable", "--yes", "--backup", str(link), status=0)
            self.assertTrue(link.is_symlink())
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o640)
            self.assertIn("expose = yes", path.read_text())
            self.assertEqual((self.folder / "real.vm.orig").read_text(), "expose = no\n")
            path.write_text("expose = no\n")
            self.assertIn("backup", nvmx("enable", "--yes", "--backup", str(link), status=3).stderr)
            self.assertEqual(path.read_text(), "expose = no\n")

        def test_other_names_of_the_file(self):
            path = self.vm("expose = no\n")
            os.link(path, self.folder / "other.vm")
            self.assertIn("hard links", nvmx("enable", "--yes", str(path), status=3).stderr)
            self.assertEqual(path.read_text(), "expose = no\n")

        def test_a_folder_that_cant_be_written(self):
            if os.getuid() == 0:
                self.skipTest("root may write everywhere")
            path = self.vm("expose = no\n")
            os.chmod(self.folder, 0o500)
            nvmx("enable", "--yes", str(path), status=3)
            os.chmod(self.folder, 0o700)
            self.assertEqual(path.read_text(), "expose = no\n")

        def test_refused(self):
            for state in ("running", "saved"):
                text = f"expose = no\nstate = {state}\n"
                path = self.vm(text)
                self.assertIn("not-exposed-" + state, nvmx("enable", "--yes", str(path), status=1).stderr)
                self.assertEqual(path.read_text(), text)
            nvmx("enable", "--yes", str(self.folder), status=3)
            nvmx("enable", "--yes", "/dev/null", status=3)
            nvmx("enable", "--yes", "/nonexistent", status=3)
            nvmx("enable", status=2)

        def test_nothing_is_changed_that_could_not_be_told(self):
            path = self.vm("expose = no\n")
            with open("/dev/full", "wb") as full:
                done = subprocess.run([program, "enable", "--yes", str(path)], stdout=full, stderr=subprocess.PIPE, check=False)
            self.assertEqual(done.returncode, 3)
            self.assertEqual(path.read_text(), "expose = no\n")

        def test_nobody_to_ask(self):
            path = self.vm("expose = no\n")
            self.assertIn("--yes", nvmx("enable", str(path), status=2, text="y\n").stderr)
            self.assertEqual(path.read_text(), "expose = no\n")
            self.assertIn("expose = yes (was: no)", nvmx("enable", "--dry-run", str(path), status=0).stdout)
            self.assertEqual(path.read_text(), "expose = no\n")

        def ask(self, path, answer):
            """On a terminal."""
            here, there = pty.openpty()
            process = subprocess.Popen([program, "enable", str(path)], stdin=there, stdout=there, stderr=there, close_fds=True,
                                       env={**os.environ, "TERM": "dumb"})
            os.close(there)
            text = b""
            while b"[y/N] " not in text:
                text += os.read(here, 1000)
            os.write(here, answer)
            status = process.wait(60)
            os.close(here)
            return status, text.decode()

        def test_asked_on_a_terminal(self):
            path = self.vm("expose = no\n")
            status, text = self.ask(path, b"n\n")
            self.assertEqual((status, path.read_text()), (1, "expose = no\n"))
            self.assertIn("expose = yes (was: no)", text)
            self.assertEqual(self.ask(path, b"\n")[0], 1)
            status, text = self.ask(path, b"y\n")
            self.assertEqual((status, path.read_text()), (0, "expose = yes\nmac_spoofing = yes\n"))

        def test_json(self):
            path = self.vm("expose = no\nmac_spoofing = yes\n")
            nvmx("enable", "--json", str(path), status=2)
            done = json.loads(nvmx("enable", "--json", "--yes", str(path), status=0).stdout)
            self.assertEqual(done["changes"], [{"setting": "expose", "from": "no", "to": "yes"}])
            self.assertTrue(done["written"])

    return [Status, VmFiles, Enable]
