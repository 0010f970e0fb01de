# SPDX-License-Identifier: MIT
"""The bootable CD: GRUB with one fixed script, L0, the image and its modules."""

import errno
import os
import shutil
import subprocess

from .errors import BAD_INPUT, NO_SPACE, TOOL_MISSING, BootError
from .image import LINUX

# GRUB's own lines on COM1 that `boot` reads and does not pass on.
MARK_LOADING = b"boot.grub: loading"
MARK_START = b"boot.grub: start"
MARK_FAILED = b"boot.grub: failed"

GRUB_MODULES = ["biosdisk", "iso9660", "multiboot", "linux", "serial", "terminal", "echo", "iorw"]
GRUB_FOLDER = "/usr/lib/grub/i386-pc"
SHUTDOWN_PORT = 0x8900
# The ISO's own structures and GRUB, and the log of the machine.
OVERHEAD = 16 << 20


def quote(word):
    if "\n" in word or "\0" in word:
        raise BootError(BAD_INPUT, "arguments can't contain line breaks")
    return "'" + word.replace("'", "'\\''") + "'"


def command(name, *words):
    return " ".join([name] + [quote(word) for word in words])


class Module:
    """One --module: its file, and the words after the comma."""

    def __init__(self, text):
        self.path, _, arguments = text.partition(",")
        if not os.path.exists(self.path) and os.path.exists(text):
            self.path, arguments = text, ""
        self.arguments = arguments.split()

    def words(self):
        return [os.path.basename(self.path)] + self.arguments


def load_commands(kind, image, arguments, modules, l0, l0_words, levels=1):
    """The GRUB commands that load everything; the caller adds `boot`. Without an image L0 gets its L1 from elsewhere."""
    if image is None:
        return [command("multiboot", "/nvmx", "nvmx", *l0_words)]
    name = os.path.basename(image)
    loaded = [command("module", f"/mod{n}", *module.words()) for n, module in enumerate(modules, 1)]
    if l0:
        # Each nvmx takes its first module as its L1 and hands on the others.
        chain = [command("multiboot", "/nvmx", "nvmx", *l0_words)] + [command("module", "/nvmx", "nvmx")] * (levels - 1)
        return chain + [command("module", "/image", name, *arguments)] + loaded
    if kind != LINUX:
        return [command("multiboot", "/image", name, *arguments)] + loaded
    if len(modules) > 1:
        raise BootError(BAD_INPUT, "Linux takes one --module, its initramfs")
    initrd = [command("initrd", "/mod1")] if modules else []
    return ["set gfxpayload=text", command("linux", "/image", *arguments)] + initrd


def script(commands):
    """GRUB runs line after line even when one fails, so what comes after `boot` is the failure path."""
    lines = ["serial --unit=0 --speed=115200", "terminal_output serial", command("echo", MARK_LOADING.decode())]
    lines += commands + [command("echo", MARK_START.decode()), "boot", command("echo", MARK_FAILED.decode())]
    lines += [f"outb {SHUTDOWN_PORT:#x} {letter:#x}" for letter in b"Shutdown"]
    return "\n".join(lines) + "\n"


def check_space(folder, files):
    need = sum(os.path.getsize(path) for path in files.values()) + OVERHEAD
    free = os.statvfs(folder)
    if free.f_bavail * free.f_frsize < need:
        have = free.f_bavail * free.f_frsize
        raise BootError(NO_SPACE, f"no disk space: {need >> 20} MB needed in {folder}, {have >> 20} MB free"
                                  " (TMPDIR chooses another folder)")


def run_tool(arguments, folder):
    try:
        done = subprocess.run(arguments, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
    except FileNotFoundError:
        raise BootError(TOOL_MISSING, f"{arguments[0]} is not installed") from None
    if done.returncode != 0:
        text = done.stdout.decode("utf-8", "replace").strip()
        status = NO_SPACE if os.strerror(errno.ENOSPC) in text else TOOL_MISSING
        last = text.splitlines()[-1] if text else f"exit status {done.returncode}"
        raise BootError(status, f"{arguments[0]} failed: {last}")


def build(folder, files, commands):
    """
    Writes boot.iso into folder.

    files maps names on the CD (without the slash) to the files outside; they are reached by
    links, so that nothing is copied twice and odd characters in paths meet no tool.
    """
    check_space(folder, files)
    try:
        tree = os.path.join(folder, "cd")
        os.mkdir(tree)
        for name, path in files.items():
            os.symlink(os.path.abspath(path), os.path.join(tree, name))
        with open(os.path.join(folder, "grub.cfg"), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(script(commands))
    except OSError as error:
        raise BootError(NO_SPACE, f"can't write to {folder}: {error.strerror}") from None
    run_tool(["grub-mkimage", "-O", "i386-pc-eltorito", "-d", GRUB_FOLDER, "-p", "/", "-c", "grub.cfg",
              "-o", "cd/grub.img"] + GRUB_MODULES, folder)
    run_tool(["xorriso", "-as", "mkisofs", "-quiet", "-f", "-R", "-b", "grub.img", "-no-emul-boot",
              "-boot-load-size", "4", "-boot-info-table", "-o", "boot.iso", "cd"], folder)
    shutil.rmtree(tree)
