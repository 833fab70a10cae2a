"""The process in which expressions are compared: started once, killed when it does not answer in time."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

from saccade.core.errors import CapabilityError

_PROGRAM = Path(__file__).with_name("algebra.py")
_START = 60.0
"""Seconds a new process has to import sympy."""
_LONGEST = 2000
"""Characters beyond which an answer is not sent at all."""

_lock = threading.Lock()
_current: tuple[int, _Worker] | None = None
"""Process id of the owner, and its worker: a forked process must not share its parent's pipes."""


class _Worker:
    def __init__(self) -> None:
        # The script is run by path, so that it imports sympy and neither torch nor this package.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.ready = False
        threading.Thread(target=self._pump, daemon=True).start()

    def _pump(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.lines.put(line.decode().strip())
        self.lines.put(None)

    def line(self, limit: float) -> str | None:
        """The next line, or None if the process ended or ``limit`` seconds went by."""
        try:
            return self.lines.get(timeout=limit)
        except queue.Empty:
            return None

    def ask(self, request: str, limit: float) -> str | None:
        assert self.process.stdin is not None
        if not self.ready:
            if self.line(_START) != "ready":
                stop()
                raise RuntimeError("the process that compares expressions did not start")
            self.ready = True
        try:
            self.process.stdin.write(request.encode() + b"\n")
        except BrokenPipeError:
            return None
        return self.line(limit)

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


def equal(answer: str, target: str, limit: float) -> str:
    """What ``saccade.rewards.algebra.verdict`` says, or "too long" or "no verdict in time".

    Raises:
        CapabilityError: sympy is not installed.
    """
    if len(answer) > _LONGEST:
        return "too long"
    if len(target) > _LONGEST:
        return "bad target"
    with _lock:
        worker = _worker()
        reply = worker.ask(json.dumps({"answer": answer, "target": target}), limit)
        if reply is not None:
            return reply
        stop()
        # Its import of sympy overlaps with whatever the caller does next.
        _worker()
    return "no verdict in time"


def _worker() -> _Worker:
    global _current
    if _current is None or _current[0] != os.getpid():
        if importlib.util.find_spec("sympy") is None:
            raise CapabilityError("SympyEqual needs sympy: pip install 'saccade[vlm]'")
        _current = (os.getpid(), _Worker())
    return _current[1]


@atexit.register
def stop() -> None:
    """End this process's worker, if it has one; the next comparison starts another."""
    global _current
    if _current is not None and _current[0] == os.getpid():
        _current[1].stop()
    _current = None
