# SPDX-License-Identifier: MIT
"""The frames of a moving L1 (MOVE.md), and checkpoint files, which are such frames one after the other."""

import os
import struct
import zlib

from .errors import BAD_INPUT, BootError

MAGIC = b"NVMV"
HEADER = struct.Struct("<4sIIIII")
PAYLOAD_MAX = 8192
VERSION = 1

BEGIN, PAGE, STATE, BLOB, DONE, GO = 1, 2, 3, 4, 5, 6
REQUEST, ACK, REFUSE, LOST = 16, 17, 18, 32
WISH_MOVE, WISH_COPY = 1, 2

# Places in a BEGIN frame.
REGION_COUNT = struct.Struct("<24xI")
REGION = struct.Struct("<QQQ")
REGIONS_AT = 2568
RAM = 1


def frame(kind, session, sequence, payload=b""):
    head = HEADER.pack(MAGIC, kind, len(payload), session, sequence, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload


def numbers(*values):
    return struct.pack(f"<{len(values)}I", *values)


def whole(data):
    """Bytes of the frame at the start of `data` (of what is no frame: all of it); None: it is not complete."""
    if not MAGIC.startswith(bytes(data[:len(MAGIC)])):
        return len(data)
    if len(data) < HEADER.size:
        return None
    length = HEADER.size + HEADER.unpack_from(data)[2]
    if length > HEADER.size + PAYLOAD_MAX:
        return len(data)
    return length if len(data) >= length else None


class Damaged(Exception):
    """What came is no frame."""


class Reader:
    """Cuts bytes into frames; what lies between them is skipped."""

    def __init__(self):
        self.data = bytearray()

    def add(self, data):
        self.data += data

    def next(self):
        """(kind, session, sequence, payload), or None as long as no frame is complete."""
        place = self.data.find(MAGIC)
        del self.data[:place if place >= 0 else max(len(self.data) - len(MAGIC) + 1, 0)]
        if len(self.data) < HEADER.size:
            return None
        _, kind, length, session, sequence, crc = HEADER.unpack_from(self.data)
        if length > PAYLOAD_MAX:
            del self.data[:len(MAGIC)]
            raise Damaged("a frame that is too long")
        if len(self.data) < HEADER.size + length:
            return None
        head, payload = bytes(self.data[:HEADER.size - 4]), bytes(self.data[HEADER.size:HEADER.size + length])
        if zlib.crc32(payload, zlib.crc32(head)) != crc:
            del self.data[:len(MAGIC)]
            raise Damaged("a frame whose checksum is wrong")
        del self.data[:HEADER.size + length]
        return kind, session, sequence, payload


class Checkpoint:
    """A checkpoint file that was read and found whole."""

    def __init__(self, path):
        self.path = path
        self.frames = []
        try:
            with open(path, "rb") as file:
                self.read(file.read())
        except OSError as error:
            raise BootError(BAD_INPUT, f"{path}: {error.strerror}") from None

    def bad(self, why):
        return BootError(BAD_INPUT, f"{self.path} {why}")

    def read(self, data):
        at = 0
        if not data.startswith(MAGIC):
            raise self.bad("is not a checkpoint")
        while at < len(data):
            number = len(self.frames) + 1
            if len(data) - at < HEADER.size:
                raise self.bad(f"is truncated: it ends within frame {number}")
            magic, kind, length, _, sequence, crc = HEADER.unpack_from(data, at)
            if magic != MAGIC or length > PAYLOAD_MAX or sequence != number:
                raise self.bad(f"is damaged: frame {number} does not begin as it must")
            payload = data[at + HEADER.size:at + HEADER.size + length]
            if len(payload) < length:
                raise self.bad(f"is truncated: it ends within frame {number}")
            if zlib.crc32(payload, zlib.crc32(data[at:at + HEADER.size - 4])) != crc:
                raise self.bad(f"is damaged: the checksum of frame {number} is wrong")
            self.frames.append((kind, payload))
            at += HEADER.size + length
            if kind == DONE and at < len(data):
                raise self.bad("is damaged: something follows its end")
        if self.frames[-1][0] != DONE:
            raise self.bad(f"is truncated: it ends after frame {len(self.frames)}")
        if self.frames[0][0] != BEGIN or len(self.frames[0][1]) < REGIONS_AT:
            raise self.bad("is damaged: frame 1 does not begin as it must")

    def memory(self):
        """MBytes of the machine that it was taken on."""
        begin = self.frames[0][1]
        count = min(REGION_COUNT.unpack_from(begin)[0], (len(begin) - REGIONS_AT) // REGION.size)
        regions = [REGION.unpack_from(begin, REGIONS_AT + n * REGION.size) for n in range(count)]
        return (max([end for _, end, kind in regions if kind == RAM], default=0) + (1 << 20) - 1) >> 20


class CheckpointWriter:
    """Writes FILE.part and renames it when all is there: FILE is never half a checkpoint."""

    def __init__(self, path):
        self.path = path
        self.part = path + ".part"
        self.file = open(self.part, "wb")  # pylint: disable=consider-using-with

    def add(self, kind, sequence, payload):
        self.file.write(frame(kind, 0, sequence, payload))

    def finish(self):
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.part, self.path)

    def abandon(self):
        self.file.close()
        try:
            os.unlink(self.part)
        except OSError:
            pass
