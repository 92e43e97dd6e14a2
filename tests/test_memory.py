"""Memory by stage: three sizes, each what it says, and NVML's answers, from stand-ins where there is no GPU."""

from __future__ import annotations

import importlib
import mmap
import os
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from svdkit.bench import memory as module
from svdkit.bench.measure import TIMED_STAGES
from svdkit.bench.memory import Nvml, higher, measure_memory, open_nvml
from svdkit.generate import generate
from svdkit.image import fit
from svdkit.settings import ClipSettings
from tests.toy import toy_pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20
OTHER = SimpleNamespace(pid=1, usedGpuMemory=100 * MIB)
CLIP = ClipSettings(seed=1, num_inference_steps=1, decode_chunk_size=2)


@pytest.fixture
def pipe() -> Any:
    return toy_pipeline()


def make(pipe: Any) -> Any:
    return generate(pipe, fit("rocket", height=64, width=64), CLIP, progress=False).frames


class UnknownError(Exception):
    """In place of pynvml.NVMLError."""


def library(**changes: Any) -> Any:
    """Stand in for the pynvml module, for one card with everything."""
    mine = SimpleNamespace(pid=os.getpid(), usedGpuMemory=700 * MIB)
    values = {
        "NVMLError": UnknownError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": {"GPU-1": "card"}.__getitem__,
        "nvmlDeviceGetComputeRunningProcesses": {"card": [OTHER, mine]}.__getitem__,
        "nvmlDeviceGetMemoryInfo": {"card": SimpleNamespace(used=900 * MIB)}.__getitem__,
        "nvmlDeviceGetTotalEnergyConsumption": {"card": 5_000}.__getitem__,  # millijoules
        "nvmlDeviceGetViolationStatus": lambda card, policy: {
            ("card", 0): SimpleNamespace(violationTime=2_000_000_000),  # nanoseconds
            ("card", 1): SimpleNamespace(violationTime=500_000_000),
        }[card, policy],
        "nvmlDeviceGetClockInfo": lambda card, kind: {("card", 1): 1980}[card, kind],
        "nvmlDeviceGetTemperature": lambda card, kind: {("card", 0): 61}[card, kind],
        "nvmlDeviceGetCurrentClocksThrottleReasons": {"card": 0x1 | 0x4 | 0x40}.__getitem__,  # idle is no throttling
    }
    return SimpleNamespace(**values | changes)


@pytest.fixture
def open_card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Open a stand-in by the UUID of torch's device: CUDA_VISIBLE_DEVICES renumbers torch's devices, not NVML's."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid="1"))

    def use(modules: dict[str, Any], device: str = "cuda") -> Any:
        monkeypatch.setattr(importlib, "import_module", modules.__getitem__)
        return open_nvml(SimpleNamespace(type=device))

    return use


def test_nvml_tells_memory_of_this_process_energy_and_state(open_card: Any) -> None:
    nvml = open_card({"pynvml": library()})
    assert (nvml.process_bytes(), nvml.device_bytes()) == (700 * MIB, 900 * MIB)
    assert nvml.counters() == {"energy_joules": 5.0, "throttled_seconds": 2.5}
    with nvml.watch() as state:
        assert state == {}
        time.sleep(0.5)
    slowed = {"throttle_reasons": "hardware thermal slowdown, power cap"}
    assert state == {"sm_clock_mhz": 1980, "temperature_celsius": 61, **slowed}
    assert open_card({}) is None
    assert open_card({"pynvml": library()}, "cpu") is None


@pytest.mark.parametrize("processes", [[OTHER], [SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)]])
def test_where_the_process_is_not_told_only_the_device_is(open_card: Any, processes: list[Any]) -> None:
    """In a container the process has another number outside; on Windows the driver does not tell."""
    answers = {"nvmlDeviceGetComputeRunningProcesses": {"card": processes}.__getitem__}
    nvml = open_card({"pynvml": library(**answers)})
    assert (nvml.process_bytes(), nvml.device_bytes()) == (None, 900 * MIB)


def test_what_a_card_does_not_know_is_none(open_card: Any) -> None:
    def refuse(*_: Any) -> None:
        raise UnknownError("not supported")

    old = library(**{name: refuse for name in vars(library()) if name.startswith("nvmlDeviceGet")})
    old.nvmlDeviceGetHandleByUUID = library().nvmlDeviceGetHandleByUUID
    del old.nvmlDeviceGetTotalEnergyConsumption  # as in an old pynvml
    nvml = open_card({"pynvml": old})
    assert (nvml.process_bytes(), nvml.device_bytes(), nvml.counters()) == (None, None, {})
    with nvml.watch() as state:
        time.sleep(0.2)
    assert state == {}


GREED = 200 * MIB  # far more than what earlier tests in this process may still give back while one is measured


@contextmanager
def take(size: int) -> Iterator[None]:
    """Hold fresh pages from the system: malloc might reuse what earlier tests in this process have freed."""
    with mmap.mmap(-1, size) as pages:
        for start in range(0, size, mmap.PAGESIZE):
            pages[start] = 1
        yield


def test_on_a_cpu_the_stage_that_takes_memory_has_the_peak(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make(pipe)
    decode = pipe.vae.decode

    def greedy(*args: Any, **kwargs: Any) -> Any:
        with take(GREED):
            pass
        return decode(*args, **kwargs)

    monkeypatch.setattr(pipe.vae, "decode", greedy)
    with measure_memory(pipe) as sizes:
        frames = make(pipe)
    assert np.array_equal(frames, expected)
    assert list(sizes) == [*(stage for stage in TIMED_STAGES if stage != "export"), "total"]
    peaks = {stage: each["process_bytes"] or 0 for stage, each in sizes.items()}
    assert peaks["vae_decode"] > peaks["unet"] + GREED // 2
    assert peaks["total"] == peaks["vae_decode"] == max(peaks.values())
    assert all(each["peak_allocated_bytes"] is each["peak_reserved_bytes"] is None for each in sizes.values())


def test_where_linux_does_not_keep_the_peak_it_is_sampled(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere:
        def __init__(self, path: str) -> None:
            self.path = path

        def write_text(self, *_: Any, **__: Any) -> None:
            raise FileNotFoundError(self.path)

    monkeypatch.setattr(module, "Path", Nowhere)
    with module._resident_peak() as (read, reset):
        with take(GREED):
            threading.Event().wait(0.2)
        high = read() or 0
        reset()
        assert (read() or 0) < high - GREED // 2


def test_on_cuda_peaks_are_torchs_own_and_begin_anew_with_each_stage(pipe: Any, monkeypatch: Any) -> None:
    """A stand-in for torch's counters: allocated grows by one at each reading, and a reset halves it."""
    state = {"allocated": 100, "reserved": 1000, "emptied": 0, "resets": 0}

    def allocated(_device: Any) -> int:
        state["allocated"] += 1
        return state["allocated"]

    def reset(_device: Any) -> None:
        state.update(allocated=state["allocated"] // 2, resets=state["resets"] + 1)

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", allocated)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _device: state["reserved"])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: state["reserved"] - 5 * MIB)  # given back since
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: state.update(emptied=state["emptied"] + 1))
    monkeypatch.setattr(module, "execution_device", lambda _pipe: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(module, "open_nvml", lambda _device: Nvml(library(), "GPU-1"))
    with measure_memory(pipe) as sizes:
        make(pipe)
    taken = {"process_bytes": 705 * MIB, "device_bytes": 905 * MIB}
    assert sizes["total"] == {"peak_allocated_bytes": 51, "peak_reserved_bytes": 1000, **taken}
    assert sizes["postprocess"]["peak_allocated_bytes"] == 2
    assert state["emptied"] == 1 < state["resets"]


def test_what_was_freed_is_given_back_before_a_process_is_measured(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """glibc keeps by chance what it will; another C library has no such function, and is left alone."""
    asked: list[int] = []
    for library in (SimpleNamespace(malloc_trim=asked.append), SimpleNamespace()):
        monkeypatch.setattr("ctypes.CDLL", lambda _name, library=library: library)
        with measure_memory(pipe) as sizes:
            make(pipe)
        assert sizes["total"]["process_bytes"]
    assert asked == [0]


def test_higher_takes_the_larger_of_each_size() -> None:
    one = {"peak_allocated_bytes": 3, "peak_reserved_bytes": None, "process_bytes": None}
    other = {"peak_allocated_bytes": 2, "peak_reserved_bytes": 7, "process_bytes": None}
    rest = {"process_bytes": None, "device_bytes": None}
    assert higher(one, other) == {"peak_allocated_bytes": 3, "peak_reserved_bytes": 7, **rest}
    assert higher({}, other) == other | rest
