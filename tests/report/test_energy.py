"""Energy: counters in the kernel's file layout, the driver's functions scripted, and real runs of a tiny policy."""

import json
import os
import sys
import time
import types
from dataclasses import replace

import pytest
import torch

from learn.test_loop import recipe
from saccade.core.errors import ConfigError
from saccade.learn.loop import Run, train
from saccade.report.energy import (
    CpuEstimate,
    EnergyLog,
    GpuEstimate,
    Nvml,
    Rapl,
    meters,
    summary,
)


def zone(folder, name, kind, microjoules, largest=262_143_328_850):
    path = folder / name
    path.mkdir(parents=True)
    (path / "name").write_text(f"{kind}\n")
    (path / "max_energy_range_uj").write_text(f"{largest}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path / "energy_uj"


def test_packages_and_memory_are_added_and_nothing_is_counted_twice(tmp_path):
    """3 J of one package, 4 J of the other, .5 J of memory; cores, graphics and the platform lie inside or around."""
    counters = {
        zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000): 3_000_000,
        zone(tmp_path, "intel-rapl:1", "package-1", 7_000_000): 4_000_000,
        zone(tmp_path, "intel-rapl:0:2", "dram", 0): 500_000,
        zone(tmp_path, "intel-rapl:0:0", "core", 0): 2_000_000,
        zone(tmp_path, "intel-rapl:0:1", "uncore", 0): 100_000,
        zone(tmp_path, "intel-rapl:2", "psys", 0): 9_000_000,
    }
    meter = Rapl(tmp_path)
    assert meter.joules() == 0
    for path, used in counters.items():
        path.write_text(f"{int(path.read_text()) + used}\n")
    assert meter.joules() == pytest.approx(7.5)
    assert meter.joules() == 0
    assert (meter.source, meter.estimated) == ("rapl", False)


def test_a_counter_that_started_again_is_followed(tmp_path):
    """From 9.5 J of 10 J to 1.25 J: .5 + 1.25."""
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 9_500_000, largest=10_000_000)
    meter = Rapl(tmp_path)
    counter.write_text("1250000\n")
    assert meter.joules() == pytest.approx(1.75)
    counter.write_text("1350000\n")
    assert meter.joules() == pytest.approx(0.1)


def test_counters_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="there are no energy counters"):
        Rapl(tmp_path)
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    counter.write_text("not a number")
    with pytest.raises(ConfigError, match="cannot be read"):
        Rapl(tmp_path)
    counter.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        Rapl(tmp_path)


def driver(monkeypatch, counter):
    """The five functions of pynvml that are called, over readings that the test sets."""

    class NVMLError(Exception):
        pass

    told = {"millijoules": 5_000, "milliwatts": 100_000, "asked": []}

    def energy(gpu):
        if not counter:
            raise NVMLError("not supported")
        return told["millijoules"]

    def by_uuid(uuid):
        told["asked"].append(uuid)
        if "gone" in uuid:
            raise NVMLError("not found")
        return "gpu"

    module = types.ModuleType("pynvml")
    found = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetTotalEnergyConsumption": energy,
        "nvmlDeviceGetPowerUsage": lambda gpu: told["milliwatts"],
    }
    for name, value in found.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return told


def test_a_gpu_with_a_counter_is_read_in_millijoules(monkeypatch):
    told = driver(monkeypatch, counter=True)
    meter = Nvml("12ab")
    told["millijoules"] += 2_500
    assert meter.joules() == pytest.approx(2.5)
    assert meter.joules() == 0
    assert told["asked"] == ["GPU-12ab"]
    with pytest.raises(ConfigError, match="GPU gone: energy cannot be read"):
        Nvml("gone")


def test_a_gpu_without_a_counter_is_read_by_its_power(monkeypatch):
    """100 W at one end of two seconds, 200 W at the other: 300 J."""
    told = driver(monkeypatch, counter=False)
    clock = [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    meter = Nvml("12ab")
    told["milliwatts"], clock[0] = 200_000, 12.0
    assert meter.joules() == pytest.approx(300)
    clock[0] = 13.0
    assert meter.joules() == pytest.approx(200)


def test_without_the_package_the_gpu_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ConfigError, match="nvidia-ml-py"):
        Nvml("12ab")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_real_gpu_uses_more_when_it_works():
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    cuda = torch.device("cuda")
    meter = next(meter for meter in meters(cuda) if meter.source == "nvml")
    used = []
    x = torch.randn(4096, 4096, device=cuda)
    for works in (False, True):
        meter.joules()
        end = time.monotonic() + 2
        while time.monotonic() < end:
            if works:
                x = torch.nn.functional.normalize(x @ x)
                torch.cuda.synchronize()
            else:
                time.sleep(0.01)
        used.append(meter.joules())
    assert 1.5 * used[0] < used[1] < 3000


def test_the_processor_is_estimated_from_the_time_it_worked():
    """65 W of all processors together: one of them for s seconds uses 65 s / processors, and sleeping uses nothing."""
    meter = CpuEstimate()
    start = time.process_time()
    while time.process_time() - start < 0.3:
        pass
    worked = meter.joules() * (os.cpu_count() or 1) / 65
    assert 0.25 < worked < 0.6
    time.sleep(0.2)
    assert meter.joules() * (os.cpu_count() or 1) / 65 < 0.1
    assert (meter.source, meter.estimated) == ("65 W x CPU utilisation", True)
    for kind in (CpuEstimate, GpuEstimate):
        with pytest.raises(ConfigError, match="watts must be > 0"):
            kind(0.0)


def test_a_gpu_that_cannot_be_read_is_estimated_from_time(monkeypatch):
    clock = [1.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    meter = GpuEstimate(250.0)
    clock[0] = 3.0
    assert (meter.joules(), meter.joules(), meter.source) == (500.0, 0.0, "250 W of GPU")


def test_counters_come_before_estimates(tmp_path):
    assert [meter.estimated for meter in meters(torch.device("cpu"), tmp_path / "none")] == [True]
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    assert [meter.source for meter in meters(torch.device("cpu"), tmp_path)] == ["rapl"]


class Steady:
    """Ten joules a reading."""

    source, estimated = "steady", False

    def joules(self):
        return 10.0


def used(folder):
    found = summary(folder)
    assert found is not None
    return found


def test_a_run_writes_one_line_a_step_and_sums_them(tmp_path):
    """Eight steps of 4 x 6 rollouts: 80 J over 192."""
    train(recipe(), Run(observers=[EnergyLog(tmp_path, [Steady()])]))
    found = used(tmp_path)
    assert (found.joules, found.rollouts, found.source, found.estimated) == (80.0, 192, "steady", False)
    assert found.joules_per_rollout == pytest.approx(80 / 192)
    lines = [json.loads(row) for row in (tmp_path / "energy.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines] == list(range(1, 9))
    assert all(row["seconds"] > 0 for row in lines)
    assert found.watts == pytest.approx(80 / sum(row["seconds"] for row in lines))


def test_a_resumed_run_has_each_step_once_and_names_both_sources(tmp_path):
    short = replace(recipe().train, steps=8)
    folder = tmp_path / "checkpoints"

    class Stop:
        def start(self, state, recipe):
            pass

        def step(self, state, batch, record, seconds):
            if state.step == 5:
                raise KeyboardInterrupt

        def finish(self, state):
            pass

    with pytest.raises(KeyboardInterrupt):
        chosen = replace(recipe(), train=short)
        train(chosen, Run(folder, save_every=3, observers=[EnergyLog(tmp_path, [Steady()]), Stop()]))
    assert used(tmp_path).rollouts == 5 * 24
    train(chosen, Run(folder, save_every=3, resume=True, observers=[EnergyLog(tmp_path, [CpuEstimate(10.0)])]))
    lines = [json.loads(row) for row in (tmp_path / "energy.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines] == list(range(1, 9))
    found = used(tmp_path)
    assert found.source == "steady; 10 W x CPU utilisation" and found.estimated
    assert 30 < found.joules < 130


def test_a_run_without_the_file_has_no_energy(tmp_path):
    assert summary(tmp_path) is None


def test_a_run_of_the_default_meter_uses_something(tmp_path):
    train(recipe(), Run(observers=[EnergyLog(tmp_path)]))
    assert used(tmp_path).joules > 0
