"""How much memory each stage needs, in a pass of its own, and what NVIDIA's management library says of the GPU.

"VRAM" is four things: allocated (what tensors take: to compare), reserved (what torch holds for them: what the card
must have), the process (with CUDA's context and libraries, by NVML) and the device (all processes; in a container NVML
knows only that). On a CPU only the process exists: its resident memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import re
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from svdkit.bench.measure import TIMED_STAGES, watch
from svdkit.bench.record import BYTES
from svdkit.generate.loop import execution_device

Bytes = dict[str, int | None]
"""The sizes of one stage; None where a size does not exist or is not known."""

# Bits of nvmlDeviceGetCurrentClocksThrottleReasons that mean "slower than it could be":
# https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html
_THROTTLES = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
_SAMPLE_SECONDS = 0.005  # well below a stage of the built-in model
_WATCH_SECONDS = 0.1


class Nvml:
    """One GPU as NVIDIA's management library sees it; an answer is None where it gives none."""

    def __init__(self, library: Any, uuid: str) -> None:
        library.nvmlInit()
        self._library, self._gpu = library, library.nvmlDeviceGetHandleByUUID(uuid)

    def _ask(self, name: str, *arguments: Any) -> Any:
        with contextlib.suppress(self._library.NVMLError, AttributeError):  # not on this card, driver or version
            return getattr(self._library, name)(self._gpu, *arguments)
        return None

    def process_bytes(self) -> int | None:
        """What this process takes of the GPU's memory; None in a container, where it cannot be told apart."""
        for process in self._ask("nvmlDeviceGetComputeRunningProcesses") or ():
            if process.pid == os.getpid() and process.usedGpuMemory:
                return int(process.usedGpuMemory)
        return None

    def device_bytes(self) -> int | None:
        """What all processes take of it."""
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return None if memory is None else int(memory.used)

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
        clocks: list[Any] = []
        heat: list[Any] = []
        reasons: set[str] = set()
        found: dict[str, Any] = {}

        def ask() -> None:
            clocks.append(self._ask("nvmlDeviceGetClockInfo", 1))  # NVML_CLOCK_SM
            heat.append(self._ask("nvmlDeviceGetTemperature", 0))  # NVML_TEMPERATURE_GPU
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
            reasons.update(name for bit, name in _THROTTLES.items() if bits & bit)

        with _every(_WATCH_SECONDS, ask):
            yield found
        for name, values, pick in (("sm_clock_mhz", clocks, statistics.median), ("temperature_celsius", heat, max)):
            if known := [value for value in values if value is not None]:
                found[name] = pick(known)
        found |= {"throttle_reasons": ", ".join(sorted(reasons))} if reasons else {}


def open_nvml(device: Any) -> Nvml | None:
    """Open NVML for a torch device; None for other devices than CUDA's, and without the package nvidia-ml-py."""
    if device.type != "cuda":
        return None
    import torch

    with contextlib.suppress(Exception):  # no package, no library, another vendor: all mean that there is none
        return Nvml(importlib.import_module("pynvml"), f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return None


@contextmanager
def measure_memory(pipe: Any) -> Iterator[dict[str, Bytes]]:
    """Find the peak of each stage of what runs in the block; results are those of a block without it, to the bit.

    Reserved and process memory only grow while a block runs, since torch keeps what it once got: of a stage they say
    how far it had come by then.
    """
    device = execution_device(pipe)
    gc.collect()
    _give_back()
    result: dict[str, Bytes] = {}
    with meter(device) as (read, reset):
        stage: str | None = None

        def on_stage(following: str | None) -> None:
            nonlocal stage
            sizes = read()
            for name in filter(None, (stage, "total")):
                result[name] = higher(result.pop(name, {}), sizes)
            reset()
            stage = following

        with watch(pipe, on_stage):
            reset()
            try:
                yield result
            finally:
                on_stage(None)
    for name in (*TIMED_STAGES, "total"):  # in the order of a run
        if name in result:
            result[name] = result.pop(name)


def higher(one: Bytes, other: Bytes) -> Bytes:
    """Take the larger of each size, None where neither is known."""
    both = {name: [size for size in (one.get(name), other.get(name)) if size is not None] for name in BYTES}
    return {name: max(sizes, default=None) for name, sizes in both.items()}


@contextmanager
def meter(device: Any) -> Iterator[tuple[Callable[[], Bytes], Callable[[], object]]]:
    """Give a function that reads the sizes' peaks since the last reset, and the reset."""
    if device.type != "cuda":
        with _resident_peak() as (read, reset):
            yield lambda: dict(zip(BYTES, (None, _apple_bytes(device), read(), None), strict=True)), reset
        return
    import torch

    torch.cuda.empty_cache()  # else what earlier clips reserved would count
    nvml = open_nvml(device)

    def read_cuda() -> Bytes:
        peaks = (torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device))
        taken = (nvml.process_bytes(), nvml.device_bytes()) if nvml else (None, None)
        # NVML says what is taken now: some plans have given memory back by then.
        back = peaks[1] - torch.cuda.memory_reserved(device)
        return dict(zip(BYTES, (*peaks, *(size and size + back for size in taken)), strict=True))

    yield read_cuda, lambda: torch.cuda.reset_peak_memory_stats(device)


def _apple_bytes(device: Any) -> int | None:
    """What Apple's driver holds for torch; it keeps no peak, but gives little back either."""
    if device.type != "mps":
        return None
    import torch

    return int(torch.mps.driver_allocated_memory())


def _give_back() -> None:
    """Let glibc give the system what was freed: by chance it keeps 35 to 140 MiB, which differ between processes."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library, another system
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _resident_peak() -> Iterator[tuple[Callable[[], int | None], Callable[[], object]]]:
    """Peak resident memory of this process: Linux keeps it (man 5 proc); elsewhere it is sampled."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        clear.write_text("5", encoding="ascii")
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii", errors="replace"))
    except OSError:
        found = None
    if found is None:
        with _sampled_peak() as functions:
            yield functions
        return

    def read() -> int:
        text = status.read_text(encoding="ascii", errors="replace")
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", text)[0])

    yield read, lambda: clear.write_text("5", encoding="ascii")


@contextmanager
def _sampled_peak() -> Iterator[tuple[Callable[[], int], Callable[[], object]]]:
    import psutil

    process = psutil.Process()
    peak = [process.memory_info().rss]

    def read() -> int:
        peak[0] = max(peak[0], process.memory_info().rss)
        return int(peak[0])

    def reset() -> None:
        peak[0] = process.memory_info().rss

    with _every(_SAMPLE_SECONDS, read):
        yield read, reset


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
