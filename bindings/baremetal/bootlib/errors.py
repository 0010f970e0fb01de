# SPDX-License-Identifier: MIT
"""Exit statuses of `boot`, and the exception that carries one of them."""

POWERED_OFF = 0
GUEST_FAILED = 1
BAD_INPUT = 2
TIME_LIMIT = 3
CRASHED = 4
TOOL_MISSING = 5
NO_SPACE = 6
NOT_MOVED = 7
INTERRUPTED = 128  # plus the signal's number


class BootError(Exception):
    """One clear line for the user, and the exit status that goes with it."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status
