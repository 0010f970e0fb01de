# SPDX-License-Identifier: MIT
"""COM2 of the machine, and what is at its other end: a checkpoint file, or another machine's `boot`."""

import errno
import os
import pty
import secrets
import socket
import time
import tty

from . import stream
from .errors import BAD_INPUT, BootError

# Where nothing else is said, L1 may go as soon as it has started.
STARTED = b"nvmx: starting L1"
RESUMED = b"nvmx: move: L1 goes on here"
ASK_AGAIN = 2.0
CONNECT_AGAIN = 1.0


class Link:
    """A pseudo terminal; the machine opens its far side as COM2. The first of `ends` that is not finished is connected to it."""

    def __init__(self, ends):
        self.ends = ends
        self.master, self.slave = pty.openpty()
        tty.setraw(self.slave)
        os.set_blocking(self.master, False)
        self.device = os.ttyname(self.slave)

    def end(self):
        return next((end for end in self.ends if not end.finished), self.ends[-1])

    def waits_for(self):
        """(files to read from, files to write to)"""
        return [self.master] + self.end().sockets(), [self.master] if self.end().to_machine else []

    def work(self, readable):
        if self.master in readable:
            try:
                self.end().from_machine(os.read(self.master, 1 << 16))
            except BlockingIOError:
                pass
        self.end().work(readable)
        data = self.end().to_machine
        if data:
            try:
                del data[:os.write(self.master, data)]
            except BlockingIOError:
                pass

    def line(self, text):
        self.end().line(text)

    def problem(self):
        """What was asked for and did not happen, or None."""
        return next((end.problem for end in self.ends if not end.finished), None)

    def close(self):
        for end in self.ends:
            end.close()
        os.close(self.master)
        os.close(self.slave)


class End:
    """What both kinds have: frames come in, bytes for the machine go out."""

    def __init__(self):
        self.to_machine = bytearray()
        self.finished = False
        self.problem = None

    def sockets(self):
        return []

    def work(self, readable):
        pass

    def line(self, text):
        pass

    def close(self):
        pass


class FileEnd(End):
    """Speaks the protocol itself."""

    def __init__(self):
        super().__init__()
        self.reader = stream.Reader()

    def from_machine(self, data):
        self.reader.add(data)
        while True:
            try:
                got = self.reader.next()
            except stream.Damaged as error:
                self.damaged(str(error))
                continue
            if got is None:
                return
            self.take(*got)

    def damaged(self, why):
        pass

    def send(self, kind, session, sequence, payload=b""):
        self.to_machine += stream.frame(kind, session, sequence, payload)


class SaveEnd(FileEnd):
    """Takes a checkpoint when the guest has said `when`."""

    def __init__(self, path, when):
        super().__init__()
        self.path = path
        self.when = when
        self.wanted = False
        self.asked = 0.0
        self.session = 0
        self.writer = None
        self.problem = f"no checkpoint was taken: no line with {when.decode('utf-8', 'replace')!r} came"
        self.expected = 0
        folder = os.path.dirname(os.path.abspath(path))
        if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
            raise BootError(BAD_INPUT, f"--checkpoint {path}: no such folder, or it is not writable")

    def line(self, text):
        self.wanted = self.wanted or self.when in text

    def work(self, readable):
        if self.wanted and self.writer is None and time.monotonic() - self.asked > ASK_AGAIN:
            if not self.session:
                self.session = secrets.randbits(32) or 1
                self.problem = "no checkpoint was taken: L0 did not answer"
            self.asked = time.monotonic()
            self.send(stream.REQUEST, self.session, 0, stream.numbers(stream.VERSION, stream.WISH_COPY))

    def damaged(self, why):
        if self.writer:
            self.fail(why)

    def fail(self, why):
        self.problem = f"no checkpoint was taken: {why}"
        self.send(stream.REFUSE, self.session, 0, why.encode())
        if self.writer:
            self.writer.abandon()
        self.writer = None
        self.wanted = False

    def take(self, kind, session, sequence, payload):
        if session != self.session or not self.wanted or self.finished:
            return
        if kind == stream.REFUSE:
            self.fail(payload.decode("utf-8", "replace"))
            return
        try:
            if kind == stream.BEGIN and not self.writer:
                self.expected = 1
                self.writer = stream.CheckpointWriter(self.path)
            if not self.writer or sequence != self.expected:
                self.fail("L0 sent something out of order")
                return
            self.writer.add(kind, sequence, payload)
            self.expected += 1
            if kind == stream.DONE:
                self.writer.finish()
                self.writer = None
                self.finished = True
        except OSError as error:
            self.fail(f"{self.path}: {error.strerror}")
            return
        self.send(stream.ACK, session, 0, stream.numbers(sequence))

    def close(self):
        if self.writer:
            self.writer.abandon()


class ResumeEnd(FileEnd):
    """Gives a machine that asks what a checkpoint file holds."""

    def __init__(self, checkpoint):
        super().__init__()
        self.frames = checkpoint.frames + [(stream.GO, b"")]
        self.session = None
        self.sent = 0
        self.problem = "the checkpoint was not resumed"

    def give(self):
        kind, payload = self.frames[self.sent]
        self.sent += 1
        self.send(kind, self.session, self.sent, payload)

    def take(self, kind, session, _sequence, payload):
        if kind == stream.REQUEST and self.session is None:
            self.session = session
            self.give()
        elif kind == stream.REFUSE:
            self.problem = "L0 refuses the checkpoint: " + payload.decode("utf-8", "replace")
        elif kind == stream.ACK and session == self.session and payload == stream.numbers(self.sent):
            if self.sent < len(self.frames):
                self.give()
            else:
                self.finished = True


def parse_address(text):
    """A path (with a slash in it), or HOST:PORT."""
    if "/" in text:
        return socket.AF_UNIX, text
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise BootError(BAD_INPUT, f"{text} is no address: HOST:PORT, or a path with a slash in it")
    return socket.AF_INET, (host, int(port))


class PeerEnd(End):
    """Passes bytes between COM2 and another machine's `boot`, and tells L0 when that is gone."""

    def __init__(self):
        super().__init__()
        self.peer = None
        self.to_peer = bytearray()
        self.from_peer = bytearray()

    def sockets(self):
        return [self.peer] if self.peer else []

    def from_machine(self, data):
        # Without a peer nobody listens: L0 asks again.
        if self.peer:
            self.to_peer += data

    def join(self, peer):
        peer.setblocking(False)
        self.peer = peer
        self.to_peer.clear()
        self.from_peer.clear()

    def pass_on(self, data):
        """Whole frames only, so that news of a lost link does not end in the middle of one. What is no frame L0 may judge."""
        self.from_peer += data
        while self.from_peer:
            length = stream.whole(self.from_peer)
            if length is None:
                return
            self.to_machine += self.from_peer[:length]
            del self.from_peer[:length]

    def lost(self):
        self.peer.close()
        self.peer = None
        self.to_machine += stream.frame(stream.LOST, 0, 0)

    def work(self, readable):
        try:
            if self.peer in readable:
                data = self.peer.recv(1 << 16)
                if not data:
                    self.lost()
                self.pass_on(data)
            while self.peer and self.to_peer:
                del self.to_peer[:self.peer.send(self.to_peer)]
        except BlockingIOError:
            pass
        except OSError:
            self.lost()

    def close(self):
        if self.peer:
            try:
                self.peer.setblocking(True)
                self.peer.settimeout(2)
                self.peer.sendall(self.to_peer)
            except OSError:
                pass
            self.peer.close()


class MoveToEnd(PeerEnd):
    """Calls the other side when the guest has said `when`; again at the next such line if it did not come to anything."""

    def __init__(self, address, when, say):
        super().__init__()
        self.family, self.address = parse_address(address)
        self.name = address
        self.when = when
        self.say = say
        self.called = 0.0
        self.problem = f"not moved: no line with {when.decode('utf-8', 'replace')!r} came"

    def line(self, text):
        if b"nvmx: move: L1 runs there" in text:
            self.finished = True
        elif b"nvmx: move: the other side did not confirm" in text:
            self.problem = "L1 was given away, and the other side did not confirm that it runs there"
        if self.when not in text or self.peer or time.monotonic() - self.called < CONNECT_AGAIN:
            return
        self.called = time.monotonic()
        self.problem = "not moved"
        try:
            peer = socket.socket(self.family)
            peer.settimeout(5)
            peer.connect(self.address)
            self.join(peer)
        except OSError as error:
            self.say(f"{self.name} can't be reached ({error.strerror or error}): the guest goes on here")


class MoveFromEnd(PeerEnd):
    """Waits for a call from the start on."""

    def __init__(self, address):
        super().__init__()
        family, where = parse_address(address)
        self.path = where if family == socket.AF_UNIX else None
        self.problem = "no L1 came"
        try:
            self.listener = socket.socket(family)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind(where)
            self.listener.listen(1)
        except OSError as error:
            why = "in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
            raise BootError(BAD_INPUT, f"--move-from {address}: {why}") from None

    def sockets(self):
        return super().sockets() if self.peer else [self.listener]

    def work(self, readable):
        if not self.peer and self.listener in readable:
            self.join(self.listener.accept()[0])
        else:
            super().work(readable)

    def line(self, text):
        if b"nvmx: move: L1 goes on here after" in text:
            self.finished = True

    def close(self):
        super().close()
        self.listener.close()
        if self.path and os.path.exists(self.path):
            os.unlink(self.path)
