"""How a worker takes turns, and what it measures of itself: seconds by phase, memory above a mark.

A worker does one round, writes a line of JSON on its standard output and waits for a line on its standard input:
``go`` (do the next round), ``settle`` (give memory back and set the mark), ``peak`` (memory since the mark), ``stop``.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


class Clock:
    """Wall and CPU seconds of a round and of its phases, which nest: ``rollout/generate/vision``."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self.phases: dict[str, dict[str, float]] = {}
        self._stack: list[str] = []
        self._started = (0.0, 0.0)

    def start(self) -> None:
        self.phases = {}
        self._started = self._now()

    def lap(self) -> dict[str, Any]:
        """Seconds since ``start``."""
        wall, cpu = self._now()
        return {"wall": wall - self._started[0], "cpu": cpu - self._started[1], "phases": self.phases}

    def enter(self, name: str) -> tuple[float, float]:
        self._stack.append("/".join([*self._stack[-1:], name]))
        return self._now(len(self._stack) == 1)

    def leave(self, began: tuple[float, float]) -> None:
        wall, cpu = self._now(len(self._stack) == 1)
        spent = self.phases.setdefault(self._stack.pop(), {"wall": 0.0, "cpu": 0.0, "calls": 0})
        spent["wall"] += wall - began[0]
        spent["cpu"] += cpu - began[1]
        spent["calls"] += 1

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = self.enter(name)
        try:
            yield
        finally:
            self.leave(began)

    def timed(self, name: str | Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, its time booked under ``name`` (which may depend on the arguments)."""

        @functools.wraps(function)
        def booked(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name if isinstance(name, str) else name(*args, **kwargs)):
                return function(*args, **kwargs)

        return booked

    def time_optimiser(self, optimiser: torch.optim.Optimizer, name: str) -> None:
        began: list[tuple[float, float]] = []
        optimiser.register_step_pre_hook(lambda *_: began.append(self.enter(name)))
        optimiser.register_step_post_hook(lambda *_: self.leave(began.pop()))

    def _now(self, synchronise: bool = True) -> tuple[float, float]:
        # Inner phases are not waited for: that would slow the accelerator down, and cannot be done inside a CUDA graph.
        if self.cuda and synchronise:
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()


class Memory:
    """Bytes held: of the process (resident), or on the accelerator (allocated tensors)."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def settle(self) -> int:
        """Give free memory back, forget the peak, and say what is held."""
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return self._status("VmRSS")

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.cuda else self._status("VmHWM")

    @staticmethod
    def _status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


class Pace:
    """The worker's end of the conversation."""

    def __init__(self, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.clock = Clock(device)
        self._memory = Memory(device)
        # Libraries print what they like: that goes to the log, the pipe is for reports.
        self._pipe = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def ready(self, *packages: str) -> None:
        """Everything is built; wait for the first round."""
        self._obey({"versions": versions(*packages), "python": sys.version.split()[0]})

    def round_ended(self, lap: Mapping[str, Any], **facts: Any) -> None:
        """Report a round and wait for the next."""
        self._obey({**lap, **facts})

    def _obey(self, report: Mapping[str, Any]) -> None:
        self._pipe.write(json.dumps(report) + "\n")
        while (line := sys.stdin.readline().strip()) != "go":
            if line == "settle":
                answer = self._memory.settle()
            elif line == "peak":
                answer = self._memory.peak()
            else:
                raise SystemExit(0)
            self._pipe.write(json.dumps({"bytes": answer}) + "\n")
        self.clock.start()


def versions(*packages: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "from source"
    return found
