"""What every benchmark script needs: arguments checked in one line, and where a result came from."""

from __future__ import annotations

import argparse
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent


class BadInput(Exception):
    """Something the user can put right, in one line."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong by ``BadInput``."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(message)


def at_least(least: int) -> Callable[[str], int]:
    """The type of a whole number."""

    def whole(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number >= {least}, got {text}")
        return int(text)

    return whole


def number(*, positive: bool = False) -> Callable[[str], float]:
    """The type of a finite number that is not negative, or positive."""

    def finite(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < math.inf or (positive and value == 0):
            raise argparse.ArgumentTypeError(f"must be a number {'>' if positive else '>='} 0, got {text}")
        return value

    return finite


def machine(load_before: tuple[float, ...]) -> dict[str, Any]:
    """The processor, the system, and the load before and now."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": list(load_before),
        "load_after": list(os.getloadavg()),
    }


def commit(*sources: str) -> dict[str, Any]:
    """The commit of this checkout, and whether ``src`` or these paths differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()

    return {"id": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "src", *sources))}


def command(script: str, argv: Sequence[str], local: Collection[str]) -> str:
    """What was typed, without the options whose values are paths of this machine."""
    kept, words = [], iter(argv)
    for word in words:
        if word in local:
            next(words, None)
        elif word.partition("=")[0] not in local:
            kept.append(word)
    return shlex.join(["python", script, *kept])


def tell(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)
