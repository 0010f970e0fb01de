# SPDX-License-Identifier: MIT
"""What kind of file is to be booted, told by its magic numbers alone."""

import os
import stat
import struct

from .errors import BAD_INPUT, BootError

LINUX = "linux"
MULTIBOOT = "multiboot"

# The multiboot 1 header is 4-byte aligned and lies wholly within the first 8 KiB.
MULTIBOOT_SEARCH = 8192
MULTIBOOT_MAGIC = 0x1BADB002
MULTIBOOT_ADDRESS_FIELDS = 1 << 16
MULTIBOOT2_MAGIC = 0xE85250D6
# bzImage: Documentation/x86/boot.rst, "The Real-Mode Kernel Header".
LINUX_BOOT_FLAG = 0x1FE
LINUX_LOADED_HIGH = 1


def read_head(path, what):
    """The first bytes of a file that must exist, be a plain file, and be readable."""
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise BootError(BAD_INPUT, f"{what} {path} is not a file")
        if info.st_size == 0:
            raise BootError(BAD_INPUT, f"{what} {path} is empty")
        with open(path, "rb") as file:
            return file.read(MULTIBOOT_SEARCH)
    except FileNotFoundError:
        raise BootError(BAD_INPUT, f"{what} {path} does not exist") from None
    except OSError as error:
        raise BootError(BAD_INPUT, f"{what} {path} can't be read: {error.strerror}") from None


def is_linux(head, path):
    if len(head) < 0x212 or head[LINUX_BOOT_FLAG:LINUX_BOOT_FLAG + 2] != b"\x55\xaa":
        return False
    if head[0x202:0x206] != b"HdrS":
        return False
    if not head[0x211] & LINUX_LOADED_HIGH:
        raise BootError(BAD_INPUT, f"{path} is a zImage that loads low; only a bzImage can be booted")
    return True


def multiboot_flags(head):
    """The flags of the multiboot 1 header, or None if there is no valid one."""
    for offset in range(0, len(head) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<III", head, offset)
        if magic == MULTIBOOT_MAGIC and (magic + flags + checksum) & 0xFFFFFFFF == 0:
            return flags
    return None


def is_multiboot(head, path):
    flags = multiboot_flags(head)
    if flags is None:
        return False
    if not flags & MULTIBOOT_ADDRESS_FIELDS and head[:4] != b"\x7fELF":
        raise BootError(BAD_INPUT,
                        f"{path} has a multiboot header, but is no ELF file and has no address fields")
    return True


def reason_not_bootable(head):
    if head[:2] == b"\x1f\x8b":
        return "is compressed with gzip: unpack it first"
    for offset in range(0, len(head) - 3, 4):
        if struct.unpack_from("<I", head, offset)[0] == MULTIBOOT2_MAGIC:
            return "has only a multiboot 2 header; multiboot 1 is needed"
    return "is not bootable: neither a Linux bzImage nor an image with a multiboot 1 header in its first 8 KiB"


def kind_of(path):
    """LINUX or MULTIBOOT; anything else is an error that says what is wrong."""
    head = read_head(path, "image")
    if is_linux(head, path):
        return LINUX
    if is_multiboot(head, path):
        return MULTIBOOT
    raise BootError(BAD_INPUT, f"{path} {reason_not_bootable(head)}")
