# SPDX-License-Identifier: MIT
"""One run of Bochs: its configuration, its process, and why it ended."""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time

from .errors import BAD_INPUT, CRASHED, NO_SPACE, POWERED_OFF, TIME_LIMIT, TOOL_MISSING, BootError

# A folder that another Bochs was unpacked into (fetch-bochs): its loader, libraries, plugins and BIOS are used with it.
PREFIX = os.environ.get("NVMX_BOCHS", "") and os.path.abspath(os.environ["NVMX_BOCHS"])
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
BOCHS = "bochs-bin"
BIOS = PREFIX + "/usr/share/bochs/BIOS-bochs-latest"
VGA_BIOS = [PREFIX + "/usr/share/bochs/VGABIOS-lgpl-latest", PREFIX + "/usr/share/vgabios/vgabios.bin"]
# Bochs 2.7 allocates at most this much of the host's memory and swaps the rest to a file.
MOST_HOST_MEMORY = 2048
# The console's ncurses wants a terminal of some size; the text itself is never shown.
SCREEN = struct.pack("HHHH", 30, 90, 0, 0)

CONFIGURATION = """\
config_interface: textconfig
display_library: term
plugin_ctrl: unmapped=1, biosdev=1, speaker=0, serial=1, parallel=0, iodebug=1
romimage: file={bios}, options=fastboot
vgaromimage: file={vga_bios}
cpu: model={cpu}, count={cpus}:1:1, quantum=32, ips={ips}, reset_on_triple_fault=0, ignore_bad_msrs=1
memory: guest={memory}, host={host_memory}
clock: sync=none, time0=1
boot: cdrom
floppy_bootsig_check: disabled=1
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=boot.iso, status=inserted
pci: enabled=1, chipset=i440fx
port_e9_hack: enabled=1
com1: enabled=1, mode=file, dev=com1
{com2}mouse: enabled=0
log: bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore, pc_system=report
debug: action=ignore
"""

# What the last lines of bochs.log mean. The first pattern that matches decides.
ENDINGS = [
    (rb"Shutdown port: shutdown requested", POWERED_OFF, "the guest powered off (port 8900H)"),
    (rb"ACPI control: soft power off", POWERED_OFF, "the guest powered off (ACPI)"),
    (rb"3rd \(\d+\) exception with no resolution", CRASHED, "triple fault: the machine crashed"),
    (rb"No space left on device", NO_SPACE, "no disk space for the machine's files"),
]


def command():
    """The words that start Bochs."""
    if not PREFIX:
        return [BOCHS]
    return [PREFIX + "/lib64/ld-linux-x86-64.so.2", "--library-path", PREFIX + LIBRARIES, PREFIX + "/usr/bin/" + BOCHS]


def environment():
    own = dict(os.environ, TERM="vt100", LC_ALL="C")
    if PREFIX:
        own.update(LTDL_LIBRARY_PATH=PREFIX + LIBRARIES + "/bochs/plugins", BXSHARE=PREFIX + "/usr/share/bochs")
    return own


def require_tools():
    if PREFIX and not all(os.path.exists(word) for word in command() if word.startswith("/")):
        raise BootError(BAD_INPUT, f"NVMX_BOCHS={PREFIX} holds no Bochs: bindings/baremetal/fetch-bochs makes such a folder")
    tools = [("grub-mkimage", "grub-common"), ("xorriso", "xorriso")]
    for tool, package in tools if PREFIX else [(BOCHS, "bochs"), *tools]:
        if shutil.which(tool) is None:
            raise BootError(TOOL_MISSING, f"{tool} is not installed: apt-get install {package}")
    files = [(BIOS, "bochsbios"), ("/usr/lib/grub/i386-pc/multiboot.mod", "grub-pc-bin"), (vga_bios(), "vgabios")]
    plugins = PREFIX + LIBRARIES + "/bochs/plugins"
    if os.path.isdir(plugins):
        files.append((plugins + "/libbx_term_gui.so", "bochs-term"))
    for path, package in files:
        if not os.path.exists(path):
            raise BootError(TOOL_MISSING, f"{path} is missing: apt-get install {package}")


def vga_bios():
    for path in VGA_BIOS:
        if os.path.exists(path):
            return path
    return VGA_BIOS[-1]


def models():
    """The CPU models that the installed Bochs knows."""
    done = subprocess.run([*command(), "-q", "--help", "cpu"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env=environment(), check=False)
    _, _, listing = done.stdout.decode("utf-8", "replace").partition("Supported CPU models:")
    return re.findall(r"^(\w+)$", listing, re.MULTILINE)


def require_model(cpu):
    known = models()
    if known and cpu not in known:
        raise BootError(BAD_INPUT, f"unknown CPU model {cpu}; Bochs knows: {' '.join(known)}")


class Machine:
    """Starts Bochs in its own session on a terminal of its own, so that ^C reaches only `boot`."""

    def __init__(self, folder, cpu, memory, ips, cpus=1, link=None):
        self.folder = folder
        self.link = link
        self.log_offset = 0
        self.resets = 0
        self.log_text = b""
        self.screen = b""
        self.status = None
        self.pid = None
        self.terminal = None
        self.write_configuration(cpu, memory, ips, cpus)
        os.mkfifo(os.path.join(folder, "com1"))
        # Opened for writing too, so that Bochs's close isn't an end of file before all is read.
        self.serial = os.open(os.path.join(folder, "com1"), os.O_RDWR | os.O_NONBLOCK)

    def write_configuration(self, cpu, memory, ips, cpus):
        for name, path in (("bios", BIOS), ("vgabios", vga_bios())):
            os.symlink(path, os.path.join(self.folder, name))
        text = CONFIGURATION.format(bios="bios", vga_bios="vgabios", cpu=cpu, ips=ips, cpus=cpus, memory=memory,
                                    host_memory=min(memory, MOST_HOST_MEMORY),
                                    com2=f"com2: enabled=1, mode=term, dev={self.link.device}\n" if self.link else "")
        with open(os.path.join(self.folder, "bochsrc"), "w", encoding="utf-8") as file:
            file.write(text)
        # Debian's Bochs has the debugger built in: it waits for this command.
        with open(os.path.join(self.folder, "continue"), "w", encoding="utf-8") as file:
            file.write("c\n")

    def start(self):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(self.folder)
                os.execvpe(command()[0], [*command(), "-q", "-f", "bochsrc", "-rc", "continue"], environment())
            finally:
                os._exit(127)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, SCREEN)

    def poll(self, seconds):
        """Waits up to `seconds` for serial output and returns what came (b"" if nothing)."""
        reads, writes = self.link.waits_for() if self.link else ([], [])
        readable, _, _ = select.select([self.serial, self.terminal] + reads, writes, [], seconds)
        if self.link:
            self.link.work(readable)
        if self.terminal in readable:
            self.drain_terminal()
        return self.read_serial()

    def read_serial(self):
        try:
            return os.read(self.serial, 1 << 16)
        except BlockingIOError:
            return b""

    def drain_terminal(self):
        try:
            data = os.read(self.terminal, 1 << 16)
        except OSError:
            data = b""
        if not data:
            time.sleep(0.01)
        self.screen = (self.screen + data)[-4096:]

    def ended(self):
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def read_log(self):
        """Follows bochs.log; returns how often the machine was reset since it was switched on."""
        try:
            with open(os.path.join(self.folder, "bochs.log"), "rb") as file:
                file.seek(self.log_offset)
                data = file.read()
        except FileNotFoundError:
            data = b""
        self.log_offset += len(data)
        self.log_text = (self.log_text + data)[-16384:]
        self.resets += len(re.findall(rb"bx_pc_system_c::Reset\(\w+\) called", data))
        return max(self.resets - 1, 0)

    def stopped_in_debugger(self):
        return b"<bochs:" in self.screen[-64:]

    def ending(self):
        """(exit status, one line) of a Bochs that has ended by itself."""
        self.read_log()
        for pattern, status, text in ENDINGS:
            if re.search(pattern, self.log_text):
                return status, text
        panic = re.findall(rb">>PANIC<< (.*)", self.log_text)
        if panic:
            return CRASHED, "Bochs stopped: " + panic[-1].decode("utf-8", "replace").strip()
        if self.status == 127:
            return TOOL_MISSING, f"{BOCHS} can't be run"
        text = re.sub(rb"\x1b[\[(][0-9;?]*[a-zA-Z]|[^\x20-\x7e\n]", b"", self.screen).decode().strip()
        last = text.splitlines()[-1].strip() if text else ""
        return CRASHED, f"Bochs ended with status {self.status}" + (f": {last}" if last else "")

    def stop(self):
        """Ends Bochs and whatever it started, whether or not it still runs."""
        if self.pid is None or self.pid == 0:
            return
        if not self.ended():
            for number, patience in [(signal.SIGTERM, 1.0), (signal.SIGKILL, 10.0)]:
                self.signal(number)
                end = time.monotonic() + patience
                while not self.ended() and time.monotonic() < end:
                    time.sleep(0.02)
        self.pid = None
        os.close(self.terminal)
        os.close(self.serial)

    def signal(self, number):
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass
