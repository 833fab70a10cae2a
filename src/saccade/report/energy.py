"""Energy of a run: ``energy.jsonl``, one line a step, from counters of the machine or, labelled, from an estimate.

What is measured is the device, not the process: other work on the same processor or GPU is counted too.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from saccade.core.batch import Batch
from saccade.core.errors import ConfigError
from saccade.core.state import TrainState
from saccade.report.log import read_log, truncate_log

FILE = "energy.jsonl"
POWERCAP = Path("/sys/class/powercap")
CPU_WATTS = 65.0
"""Thermal design power that an unknown processor is taken to have: a common desktop part."""
GPU_WATTS = 300.0
"""Power that an unreadable GPU is taken to draw all the time: a common accelerator under load."""


class Meter(Protocol):
    """Something that knows how much energy was used."""

    @property
    def source(self) -> str:
        """What the number comes from."""
        ...

    @property
    def estimated(self) -> bool:
        """Whether it is a guess from a stated power rather than a reading."""
        ...

    def joules(self) -> float:
        """Used since the last call, or since the meter was made."""
        ...


class Rapl:
    """Linux' energy counters of processor packages and their memory (``intel-rapl``, which AMD processors have too).

    A counter starts again at 0 after ``max_energy_range_uj``, some 40 minutes at full power: a longer step than that
    is undercounted. On most systems only root may read them.

    Raises:
        ConfigError: there is no counter that may be read.
    """

    source = "rapl"
    estimated = False

    def __init__(self, folder: Path = POWERCAP) -> None:
        # A platform zone (psys) holds the packages, and a package its cores: adding them up would count twice.
        zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _kind(zone).startswith(("package", "dram"))]
        try:
            self._range = {zone: int((zone / "max_energy_range_uj").read_text()) for zone in zones}
            self._last = {zone: _microjoules(zone) for zone in zones}
        except (OSError, ValueError) as error:
            raise ConfigError(f"{folder}: energy counters cannot be read ({error})") from None
        if not zones:
            raise ConfigError(f"{folder}: there are no energy counters")

    def joules(self) -> float:
        used = 0
        for zone, last in self._last.items():
            now = _microjoules(zone)
            used += now - last if now >= last else now - last + self._range[zone]
            self._last[zone] = now
        return used / 1e6


def _kind(zone: Path) -> str:
    try:
        return (zone / "name").read_text().strip()
    except OSError:
        return ""


def _microjoules(zone: Path) -> int:
    return int((zone / "energy_uj").read_text())


class Nvml:
    """The energy counter of one NVIDIA GPU, or, before Volta, its power at both ends of a step times the time between.

    Args:
        uuid: of the GPU, as torch tells it.

    Raises:
        ConfigError: the package pynvml is not installed, or there is no driver, or no such GPU.
    """

    source = "nvml"
    estimated = False

    def __init__(self, uuid: str) -> None:
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ModuleNotFoundError:
            raise ConfigError("NVIDIA's energy counters need the package nvidia-ml-py (module pynvml)") from None
        try:
            self._nvml.nvmlInit()
            self._gpu = self._nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
            self._last = self._reading()
        except self._nvml.NVMLError as error:
            raise ConfigError(f"GPU {uuid}: energy cannot be read ({error})") from None

    def joules(self) -> float:
        (counter, watts, when), self._last = self._last, self._reading()
        if counter is not None and self._last[0] is not None:
            return (self._last[0] - counter) / 1e3
        return (watts + self._last[1]) / 2 * (self._last[2] - when)

    def _reading(self) -> tuple[int | None, float, float]:
        """Millijoules since the driver was loaded, watts now, and the time."""
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)), 0.0, time.monotonic()
        except self._nvml.NVMLError:
            return None, self._nvml.nvmlDeviceGetPowerUsage(self._gpu) / 1e3, time.monotonic()


class CpuEstimate:
    """Power of the processor times the share of it that this process and its finished children used:

    ``watts * cpu seconds / processors``.
    """

    estimated = True

    def __init__(self, watts: float = CPU_WATTS) -> None:
        if not watts > 0:
            raise ConfigError(f"watts must be > 0, got {watts}")
        self._watts, self._processors = watts, os.cpu_count() or 1
        self._last = _cpu_seconds()

    @property
    def source(self) -> str:
        return f"{self._watts:g} W x CPU utilisation"

    def joules(self) -> float:
        last, self._last = self._last, _cpu_seconds()
        return self._watts * (self._last - last) / self._processors


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


class GpuEstimate:
    """A stated power times the time that passed."""

    estimated = True

    def __init__(self, watts: float = GPU_WATTS) -> None:
        if not watts > 0:
            raise ConfigError(f"watts must be > 0, got {watts}")
        self._watts, self._last = watts, time.monotonic()

    @property
    def source(self) -> str:
        return f"{self._watts:g} W of GPU"

    def joules(self) -> float:
        last, self._last = self._last, time.monotonic()
        return self._watts * (self._last - last)


def meters(device: torch.device, powercap: Path = POWERCAP) -> list[Meter]:
    """The best meter of the processor and, where one is used, of the GPU."""
    try:
        found: list[Meter] = [Rapl(powercap)]
    except ConfigError:
        found = [CpuEstimate()]
    if device.type == "cuda":
        try:
            found.append(Nvml(str(torch.cuda.get_device_properties(device).uuid)))
        except ConfigError:
            found.append(GpuEstimate())
    return found


class EnergyLog:
    """An observer that writes ``energy.jsonl``: joules since the step before, evaluations in between included.

    A line holds ``joules``, ``seconds``, ``rollouts``, ``source`` and ``estimated`` (whether any part of the joules
    is). Lines behind the checkpoint that a run is resumed from are dropped, as ``timing.jsonl``'s are: what was lost
    with them was used all the same, and is not in the sum.

    Args:
        folder: of the run.
        measured: meters to use; default is the best for the policy's device.
    """

    def __init__(self, folder: Path, measured: Sequence[Meter] = ()) -> None:
        self.path = folder / FILE
        self._given, self._when = tuple(measured), 0.0

    def start(self, state: TrainState, recipe: object) -> None:
        truncate_log(self.path, state.step)
        self._meters = self._given or tuple(meters(state.policy.device))
        self._read()

    def step(self, state: TrainState, batch: Batch, record: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        joules, passed = self._read()
        found = {
            "joules": joules,
            "seconds": passed,
            "rollouts": len(batch),
            "source": " + ".join(meter.source for meter in self._meters),
            "estimated": any(meter.estimated for meter in self._meters),
            "step": state.step,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found, sort_keys=True) + "\n")

    def finish(self, state: TrainState) -> None:
        return

    def _read(self) -> tuple[float, float]:
        """Joules and seconds since the last reading."""
        now = time.monotonic()
        passed, self._when = now - self._when, now
        return sum(meter.joules() for meter in self._meters), passed


@dataclass(frozen=True)
class Energy:
    """What a run used."""

    joules: float
    seconds: float
    rollouts: int
    source: str
    """Where the numbers come from; several, after a resume on another machine, are joined by a semicolon."""
    estimated: bool
    """Whether any part is an estimate; a page must say so beside the number."""

    @property
    def joules_per_rollout(self) -> float:
        return self.joules / self.rollouts

    @property
    def watts(self) -> float:
        """Mean power."""
        return self.joules / self.seconds if self.seconds > 0 else 0.0


def summary(folder: Path) -> Energy | None:
    """Sum over the steps in ``energy.jsonl``; None if there is no such file, or nothing in it."""
    records: list[Any] = read_log(folder / FILE)
    if not records:
        return None
    return Energy(
        joules=sum(record["joules"] for record in records),
        seconds=sum(record["seconds"] for record in records),
        rollouts=sum(record["rollouts"] for record in records),
        source="; ".join(dict.fromkeys(record["source"] for record in records)),
        estimated=any(record["estimated"] for record in records),
    )
