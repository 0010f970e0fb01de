# SPDX-License-Identifier: MIT
"""The trace that L0 prints at its end (option `trace`), out of its lines into a file (include/nvmx/trace.h)."""

import os
import struct

from .errors import BAD_INPUT, BootError

MARK = b"nvmx-trace: "
RECORD_WORDS = 8


def words(text):
    """Words of 16 hexadecimal digits as bytes."""
    digits = text.strip()
    if len(digits) % 16 or len(digits) > 16 * RECORD_WORDS:
        raise ValueError(digits)
    numbers = [int(digits[at:at + 16], 16) for at in range(0, len(digits), 16)]
    return struct.pack(f"<{RECORD_WORDS}Q", *numbers, *[0] * (RECORD_WORDS - len(numbers)))


class Trace:
    """Takes L0's lines and keeps what belongs to the trace."""

    def __init__(self, path):
        self.path = path
        self.header = b""
        self.records = []
        self.complete = False
        folder = os.path.dirname(path) or "."
        if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
            raise BootError(BAD_INPUT, f"--trace {path}: no file can be written there")

    def takes(self, line):
        """Is it a line of the trace?"""
        if not line.startswith(MARK):
            return False
        kind, _, rest = line[len(MARK):].strip().partition(b" ")
        try:
            if kind == b"header":
                self.header, self.records = words(rest), []
            elif kind == b"end":
                self.complete = bool(self.header) and int(rest) == len(self.records)
            else:
                self.records.append(words(kind))
        except ValueError:
            self.header = b""
        return True

    def write(self):
        """Writes the file; returns what is wrong, or None."""
        if not self.complete:
            return "L0 did not come to the end of its trace"
        try:
            with open(self.path + ".new", "wb") as file:
                file.write(self.header + b"".join(self.records))
            os.replace(self.path + ".new", self.path)
        except OSError as error:
            return f"{self.path}: {error.strerror}"
        return None
