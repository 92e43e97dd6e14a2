"""How much memory each stage needs, in a pass of its own, and what NVIDIA's management library says of the GPU.

"VRAM" is four things: allocated (what tensors take: to compare), reserved (what torch holds for them: what the card
must have), the process (with CUDA's context and libraries, by NVML) and the device (all processes; in a container NVML
knows only that). On a CPU only the process exists: its resident memory.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import re
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import reduce
from pathlib import Path
from typing import Any

from svdkit.bench.measure import TIMED_STAGES, watch
from svdkit.bench.record import BYTES
from svdkit.generate.loop import execution_device

Bytes = dict[str, int | None]
"""The sizes of one stage; None where a size does not exist or is not known."""

Gauge = tuple[Callable[[], Any], Callable[[], object]]
"""A function that reads the peak since the last reset, and the reset."""

# Bits of nvmlDeviceGetCurrentClocksThrottleReasons that mean "slower than it could be":
# https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html
_THROTTLES = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
_QUESTIONS = (
    ("nvmlDeviceGetClockInfo", 1),  # NVML_CLOCK_SM
    ("nvmlDeviceGetTemperature", 0),  # NVML_TEMPERATURE_GPU
    ("nvmlDeviceGetCurrentClocksThrottleReasons",),
)
_SAMPLE_SECONDS = 0.005  # well below a stage of the built-in model
_WATCH_SECONDS = 0.1


class Nvml:
    """One GPU as NVIDIA's management library sees it; an answer is None where it gives none."""

    def __init__(self, library: Any, uuid: str) -> None:
        library.nvmlInit()
        self._library, self._gpu = library, library.nvmlDeviceGetHandleByUUID(uuid)

    def _ask(self, name: str, *arguments: Any) -> Any:
        with suppress(self._library.NVMLError, AttributeError):  # not on this card, driver or version
            return getattr(self._library, name)(self._gpu, *arguments)
        return None

    def process_bytes(self) -> int | None:
        """What this process takes of the GPU's memory; None in a container, where it cannot be told apart."""
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses") or ()
        return next((process.usedGpuMemory or None for process in processes if process.pid == os.getpid()), None)

    def device_bytes(self) -> int | None:
        """What all processes take of it."""
        return getattr(self._ask("nvmlDeviceGetMemoryInfo"), "used", None)

    def counters(self) -> dict[str, float]:
        """Joules used, and seconds for which power or heat held the clocks down, since the driver was loaded."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        found = {} if millijoules is None else {"energy_joules": millijoules / 1000}
        policies = (0, 1)  # NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL
        held = [self._ask("nvmlDeviceGetViolationStatus", policy) for policy in policies]
        return found if None in held else {**found, "throttled_seconds": sum(one.violationTime for one in held) / 1e9}

    @contextmanager
    def watch(self) -> Iterator[dict[str, Any]]:
        """Ask while the block runs, since the GPU rests after it: median clock, highest temperature, what slows it."""
        answers: list[list[Any]] = [[None] * len(_QUESTIONS)]
        found: dict[str, Any] = {}

        with _every(_WATCH_SECONDS, lambda: answers.append([self._ask(*question) for question in _QUESTIONS])):
            yield found
        clocks, heat, bits = ([value for value in answer if value] for answer in zip(*answers, strict=True))
        found |= {"sm_clock_mhz": statistics.median(clocks)} if clocks else {}
        found |= {"temperature_celsius": max(heat)} if heat else {}
        if reasons := sorted(name for bit, name in _THROTTLES.items() if any(bit & each for each in bits)):
            found["throttle_reasons"] = ", ".join(reasons)


def open_nvml(device: Any) -> Nvml | None:
    """Open NVML for a torch device; None for other devices than CUDA's, and without the package nvidia-ml-py."""
    if device.type != "cuda":
        return None
    import torch

    with suppress(Exception):  # no package, no library, another vendor: all mean that there is none
        return Nvml(importlib.import_module("pynvml"), f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return None


@contextmanager
def measure_memory(pipe: Any) -> Iterator[dict[str, Bytes]]:
    """Find the peak of each stage of what runs in the block; results are those of a block without it, to the bit.

    Reserved and process memory only grow while a block runs, since torch keeps what it once got: of a stage they say
    how far it had come by then.
    """
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # another C library, another system
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps by chance 35 to 140 MiB of what was freed
    found: dict[str | None, Bytes] = {}
    result: dict[str, Bytes] = {}
    stage: str | None = None

    def on_stage(following: str | None) -> None:
        nonlocal stage
        found[stage] = higher(found.get(stage, {}), read())
        reset()
        stage = following

    with meter(execution_device(pipe)) as (read, reset), watch(pipe, on_stage):
        reset()
        yield result
        on_stage(None)
    result |= {name: found[name] for name in TIMED_STAGES if name in found}
    result["total"] = reduce(higher, found.values())


def higher(one: Bytes, other: Bytes) -> Bytes:
    """Take the larger of each size, None where neither is known."""
    known = {name: [size for each in (one, other) if (size := each.get(name)) is not None] for name in BYTES}
    return {name: max(sizes, default=None) for name, sizes in known.items()}


@contextmanager
def meter(device: Any) -> Iterator[Gauge]:
    """Give what reads the peaks of all sizes of a device."""
    import torch

    if device.type != "cuda":
        # Apple's driver keeps no peak, but gives little back either.
        taken = torch.mps.driver_allocated_memory if device.type == "mps" else lambda: None
        with _resident_peak() as (read, reset):
            yield lambda: dict(zip(BYTES, (None, taken(), read(), None), strict=True)), reset
        return
    torch.cuda.empty_cache()  # else what earlier clips reserved would count
    nvml = open_nvml(device)

    def read_cuda() -> Bytes:
        peaks = (torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device))
        taken = (nvml.process_bytes(), nvml.device_bytes()) if nvml else (None, None)
        # NVML says what is taken now: some plans have given memory back by then.
        back = peaks[1] - torch.cuda.memory_reserved(device)
        return dict(zip(BYTES, (*peaks, *(size and size + back for size in taken)), strict=True))

    yield read_cuda, lambda: torch.cuda.reset_peak_memory_stats(device)


def _resident_peak() -> AbstractContextManager[Gauge]:
    """Peak resident memory of this process: Linux keeps it (man 5 proc); elsewhere it is sampled."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def reset() -> None:
        clear.write_text("5", encoding="ascii")

    def read() -> int:
        text = status.read_text(encoding="ascii", errors="replace")
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", text)[0])

    try:
        reset()
        read()
    except (OSError, IndexError):
        return _sampled_peak()
    return nullcontext((read, reset))


@contextmanager
def _sampled_peak() -> Iterator[Gauge]:
    import psutil

    peak: list[int] = []

    def read() -> int:
        now: int = max([psutil.Process().memory_info().rss, *peak])
        peak[:] = [now]
        return now  # the thread that samples may meet an empty list

    with _every(_SAMPLE_SECONDS, read):
        yield read, peak.clear


@contextmanager
def _every(seconds: float, action: Callable[[], object]) -> Iterator[None]:
    """Call a function again and again, in a thread, while the block runs."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(seconds):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
