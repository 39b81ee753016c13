"""How a process ends: the signals that ask it to, and its exit codes. Imports nothing that takes time."""

from __future__ import annotations

import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
START_FAILED = 3
"""Exit code of a server that cannot start, of a worker or on its own; and of a supervisor whose workers keep dying."""
USAGE = 64
"""Exit code for a command line that makes no sense; from sysexits.h, as OpenVINO Model Server has it."""
