"""The full-size network on this GPU: does everything run, and what does it take? Weights are random throughout.

    python benchmarks/gpu.py                               # all parts, a quarter of an hour on an H200
    python benchmarks/gpu.py central central plans,sizes   # some; words are processes, commas join parts in one
    python benchmarks/gpu.py compiled+killed               # at once, where seconds do not matter
    python benchmarks/gpu.py --model micro --quick         # a rehearsal, on a CPU too; proves nothing

Processes have a deadline and write what they find as they go, to bench_results/gpu: cells to records.jsonl, all else to
facts.jsonl, behind what is there; for a new run give another --out. A part that fails leaves its error there, and the
next one begins. "central" is meant to be run in several processes: read_records makes one record of them. What has to
be said of a run is a fact of the part "remarks", written by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for svdkit where it is not installed

import psutil  # noqa: E402 - see above
import torch  # noqa: E402

import svdkit  # noqa: E402
from svdkit.bench.memory import open_nvml  # noqa: E402
from svdkit.bench.profile import profile  # noqa: E402
from svdkit.bench.protocol import Protocol  # noqa: E402
from svdkit.bench.record import write_record  # noqa: E402
from svdkit.environment import machine  # noqa: E402
from svdkit.generate import decode, denoise, encode  # noqa: E402
from svdkit.image import fit  # noqa: E402
from svdkit.pipeline.techniques import TECHNIQUES, undo_technique  # noqa: E402
from svdkit.settings import ClipSettings, LoadSettings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PLANS = {
    "two-pass": ("two-pass-guidance",),
    "chunked": ("forward-chunking",),
    "two-pass, chunked": ("two-pass-guidance", "forward-chunking"),
    "offload": ("offload",),
    "group-offload": ("group-offload",),
    "group-offload, two-pass, chunked": ("two-pass-guidance", "forward-chunking", "group-offload"),
    "sequential": ("sequential",),
}
SIZES = ((320, 512), (768, 768), (1024, 576))
ONCE = Protocol(min_repeats=2, max_repeats=2, budget_seconds=0, max_warm_ups=0, processes=1)
WARM = replace(ONCE, max_warm_ups=2)


@dataclass
class Run:
    """What the parts have in common."""

    model: str
    out: Path
    quick: bool
    loaded: tuple[Any, Any] = (None, None)  # settings and pipeline, which the next part may use again

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU to measure; a rehearsal needs none."""
        return bool(torch.cuda.is_available())

    def load(self, **settings: Any) -> Any:
        """Load the model, resident and in fp16 if nothing else is said."""
        usual = {"weights": "random", "dtype": "fp16" if self.cuda else "fp32", "memory": "resident"}
        asked = usual | settings
        if self.loaded[0] == asked:
            return self.loaded[1]
        self.loaded = (None, None)
        with self.attempt("import of diffusers' pipeline"):
            from diffusers import StableVideoDiffusionPipeline  # noqa: F401 - how long it takes
        pipe = svdkit.load(self.model, **asked)
        self.loaded = (asked, pipe)
        note = f"load {' '.join(f'{name}={value}' for name, value in asked.items())}"
        self.fact(note, pipe.svdkit.load_seconds, reasons=pipe.svdkit.reasons)
        return pipe

    def frame(self, pipe: Any, *, small: bool = False) -> Any:
        """The photo at the model's size, or at a smaller one, where a step is quick."""
        size = {"height": pipe.svdkit.model.height, "width": pipe.svdkit.model.width}
        return fit("rocket", **(size if self.quick or not small else {"height": 320, "width": 512}))

    def fact(self, what: str, value: Any, **more: Any) -> None:
        """Write a line, and show it."""
        line = {"part": PART, "what": what, "value": value, **more, "at": round(time.monotonic() - START, 1)}
        with (self.out / "facts.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, default=str) + "\n")
        print(f"[{line['at']:6.1f}] {PART}: {what}: {str(value)[:300]}", flush=True)

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Time a block; an error is a fact, and what follows goes on."""
        start = time.perf_counter()
        try:
            yield
            if self.cuda:
                torch.cuda.synchronize()
            self.fact(f"{what}: seconds", round(time.perf_counter() - start, 3))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was found
            traceback.print_exc()  # names folders, so not among the facts
            self.fact(f"{what}: FAILED", f"{type(error).__name__}: {error}"[:600])
            traceback.clear_frames(error.__traceback__)
            torch.cuda.empty_cache()

    def profile(self, pipe: Any, what: str, **asked: Any) -> None:
        """Measure cells with a pipeline that is loaded."""
        asked = {"num_inference_steps": [2, 3], "protocol": ONCE, **asked}
        clip = ClipSettings(seed=0, decode_chunk_size=5).replace(**asked.pop("clip", {}))
        with self.attempt(what):
            for record in profile(pipe, clip=clip, check=0, progress=False, **asked):
                write_record(self.out, replace(record, command=f"python benchmarks/gpu.py {PART}"))
                seconds = {stage: round(values[-1], 3) for stage, values in record.samples.get("timed", {}).items()}
                cell = f"{what}, {record.clip['num_inference_steps']} steps, chunk {record.clip['decode_chunk_size']}"
                self.fact(cell, record.status, seconds=seconds, peaks=record.peaks, error=record.error)


def ceiling(run: Run) -> None:
    """What the card reaches: a large matrix product, a large copy; and what it says of itself."""
    device = torch.device("cuda" if run.cuda else "cpu")
    with run.attempt("machine"):
        run.fact("machine", machine("auto"))
    size, count = (8192, 30) if run.cuda else (512, 3)
    for dtype in (torch.float16, torch.bfloat16, torch.float32) if run.cuda else (torch.float32,):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        seconds = _seconds(partial(torch.matmul, a, b), count)
        run.fact(f"matrix product {size}, {dtype}: TFLOP/s", round(2 * size**3 / seconds / 1e12, 1))
    big = torch.randn(2**30 if run.cuda else 2**20, device=device)
    target = torch.empty_like(big)
    seconds = _seconds(partial(target.copy_, big), count)
    run.fact("copy on the device, read and written: GB/s", round(2 * big.numel() * 4 / seconds / 1e9))
    if run.cuda:
        for pinned in (True, False):
            host = torch.empty(2**28, dtype=torch.float32, pin_memory=pinned)
            seconds = _seconds(partial(target[: 2**28].copy_, host), 5)
            kind = "pinned" if pinned else "pageable"
            run.fact(f"copy from {kind} memory: GB/s", round(host.numel() * 4 / seconds / 1e9, 1))
        nvml = open_nvml(device)
        run.fact("NVML", bool(nvml))
        if nvml:
            run.fact("NVML: process, device", [nvml.process_bytes(), nvml.device_bytes()])
            run.fact("NVML: counters", nvml.counters())
            with nvml.watch() as state:
                _seconds(partial(torch.matmul, a, b), 100)
            run.fact("NVML: while multiplying", state)


def _seconds(action: Callable[[], object], count: int) -> float:
    """Median seconds of an action on the device."""
    times = []
    for _ in range(count + 3):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[3:])[count // 2]


def plans(run: Run) -> None:
    """Every memory plan, measured with the same two denoisings and one decode chunk size."""
    pipe = run.load()
    for name, techniques in PLANS.items():
        with run.attempt(f"apply {name}"):
            for technique in techniques:
                svdkit.apply_technique(pipe, technique)
            run.profile(pipe, name)
        with run.attempt(f"undo {name}"):
            for technique in TECHNIQUES:
                undo_technique(pipe, technique)


def central(run: Run) -> None:
    """The usual clip, warmed up."""
    run.profile(run.load(), "central", protocol=WARM)


def chunks(run: Run) -> None:
    """Every decode chunk, and one clip of 25 steps measured whole."""
    pipe = run.load()
    run.profile(pipe, "chunks", decode_chunk_size=[1, 2, 8] + ([] if run.quick else [14, 25]))


def whole(run: Run) -> None:
    """One clip of 25 steps, measured whole, and what svdkit.calibrate measures of one."""
    pipe = run.load()
    frame = run.frame(pipe)
    with run.attempt("calibrate"):
        record = svdkit.calibrate(pipe, save=False)
        run.fact("calibration", record.samples["timed"])
        (run.out / "calibration.jsonl").write_text(json.dumps(record.to_dict()) + "\n", encoding="utf-8")
    clip = ClipSettings(seed=0, decode_chunk_size=5, num_inference_steps=3 if run.quick else 25)
    with run.attempt("whole clip"), svdkit.measure(pipe) as measured:
        svdkit.generate(pipe, frame, clip, progress=False)
    run.fact("whole clip", measured.seconds, calls=measured.calls)


def precisions(run: Run) -> None:
    """The other precisions: bf16, fp8 storage, fp32."""
    for dtype in ("bf16", "fp8", "fp32") if run.cuda else ("bf16",):
        protocol = replace(ONCE, min_repeats=1, max_repeats=1) if dtype == "fp32" else ONCE
        with run.attempt(dtype):
            run.profile(run.load(dtype=dtype), dtype, protocol=protocol)


def sizes(run: Run) -> None:
    """Other sizes, and svd's 14 frames."""
    pipe = run.load()
    run.profile(pipe, "fewer frames", clip={"num_frames": 6 if run.quick else 14})
    for height, width in () if run.quick else SIZES:
        run.profile(pipe, f"{height}x{width}", clip={"height": height, "width": width})


def operations(run: Run) -> None:
    """Where the time of a step and of a decode chunk goes, by kernel."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as trace

    pipe = run.load()
    frame, clip = run.frame(pipe), ClipSettings(seed=0, num_inference_steps=1, decode_chunk_size=5)
    encoded = encode(pipe, frame, clip)
    denoised = denoise(pipe, encoded)
    decode(pipe, denoised)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if run.cuda else [])]
    actions: dict[str, Callable[[], object]] = {
        "unet": partial(denoise, pipe, encoded),
        "vae_decode": partial(decode, pipe, denoised),
    }
    for stage, action in actions.items():
        with run.attempt(f"operations of {stage}"):
            with trace(activities=activities) as traced:
                action()
                torch.cuda.synchronize() if run.cuda else None
            key = "self_device_time_total" if run.cuda else "self_cpu_time_total"
            rows = sorted(traced.key_averages(), key=lambda row: -getattr(row, key))
            rows = [row for row in rows if not run.cuda or str(row.device_type).endswith("CUDA")]
            total = sum(getattr(row, key) for row in rows)
            top = [{"name": row.key[:120], "us": round(getattr(row, key)), "calls": row.count} for row in rows[:25]]
            run.fact(f"operations of {stage}", round(total / 1e6, 4), kernels=sum(r.count for r in rows), top=top)


def activations(run: Run) -> None:
    """Do values stay finite and of ordinary size, in all modules and through all steps?"""
    for dtype in ("fp16", "bf16") if run.cuda else ("fp32",):
        pipe = run.load(dtype=dtype)
        seen: dict[str, float] = {"largest": 0.0, "not finite": 0, "modules": 0}
        norms: list[float] = []

        def look(_module: Any, _inputs: Any, output: Any, seen: Any = seen) -> None:
            for tensor in output if isinstance(output, tuple) else (output,):
                if torch.is_tensor(tensor) and tensor.is_floating_point():
                    top = float(tensor.abs().max())
                    seen["largest"] = max(seen["largest"], top)
                    seen["not finite"] += not top < float("inf")
                    seen["modules"] += 1

        def step(_step: int, latents: Any, norms: Any = norms) -> None:
            norms.append(round(float(latents.float().std()), 3))

        frame = run.frame(pipe, small=True)
        with run.attempt(f"activations in {dtype}"):
            networks = (pipe.image_encoder, pipe.vae, pipe.unet)
            hooks = [module.register_forward_hook(look) for network in networks for module in network.modules()]
            clip = ClipSettings(seed=0, num_inference_steps=3 if run.quick else 25)
            svdkit.generate(pipe, frame, clip, progress=False, on_step=step)
            for hook in hooks:
                hook.remove()
            run.fact(f"activations in {dtype}", seen, latents_std=norms)


def same(run: Run) -> None:
    """Are clips those of diffusers' own call, and the same with each plan?"""
    pipe = run.load()
    frame, clip = run.frame(pipe, small=True), ClipSettings(seed=0, num_inference_steps=2, decode_chunk_size=5)
    made = svdkit.generate(pipe, frame, clip, progress=False).frames
    with run.attempt("diffusers' own call"):
        asked = inspect.signature(pipe.__call__).parameters
        settings = {
            name: value for name, value in clip.resolve(**_size(pipe, frame)).to_dict().items() if name in asked
        }
        own = pipe(frame.image, generator=torch.Generator("cpu").manual_seed(0), output_type="pt", **settings).frames
        own = (own[0].permute(0, 2, 3, 1).float() * 255).round().to(torch.uint8).cpu().numpy()
        run.fact("diffusers' own call: largest difference of 255", _apart(made, own))
    for name, techniques in PLANS.items():
        with run.attempt(f"same: {name}"):
            for technique in techniques:
                svdkit.apply_technique(pipe, technique)
            other = svdkit.generate(pipe, frame, clip, progress=False).frames
            run.fact(f"{name}: largest difference of 255", _apart(made, other))
        with run.attempt(f"undo {name}"):
            for technique in TECHNIQUES:
                undo_technique(pipe, technique)
    run.fact("all undone: largest difference of 255", _apart(made, svdkit.generate(pipe, frame, clip).frames))


def _size(pipe: Any, frame: Any) -> dict[str, Any]:
    return {**pipe.svdkit.model.clip_defaults, "height": frame.height, "width": frame.width}


def _apart(one: Any, other: Any) -> int:
    return int(abs(one.astype(int) - other.astype(int)).max())


def probes(run: Run) -> None:
    """Switches that might be faster, one at a time, against the same clip without them."""
    pipe = run.load()
    frame, clip = run.frame(pipe), ClipSettings(seed=0, num_inference_steps=3, decode_chunk_size=5)
    encoded = encode(pipe, frame, clip)

    def look(what: str) -> None:
        with run.attempt(what):
            for _ in range(2):
                denoised = denoise(pipe, encoded)
                made: Any = decode(pipe, denoised).provenance
            run.fact(what, {"denoise": denoised.seconds, "decode": made.stage_seconds["decode"]})

    look("as it is")
    torch.backends.cudnn.benchmark = True
    look("cudnn.benchmark")
    torch.backends.cudnn.benchmark = False
    with run.attempt("channels last"):
        for module in pipe.vae.decoder.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
                flat = isinstance(module, torch.nn.Conv2d)
                module.to(memory_format=torch.channels_last if flat else torch.channels_last_3d)
        look("decoder's convolutions with channels last")
        for module in pipe.vae.decoder.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
                module.to(memory_format=torch.contiguous_format)


def fits(run: Run) -> None:
    """Does a clip fit the memory that the forecast says must be free? torch may take no more than that here."""
    if not run.cuda:
        return
    total = torch.cuda.get_device_properties(0).total_memory
    pipe = run.load()
    frame, clip = run.frame(pipe), ClipSettings(seed=0, num_inference_steps=1, decode_chunk_size=5)
    for name in ("resident", "two-pass", "offload"):
        switches = {"memory": "offload" if name == "offload" else "resident", "two_pass_guidance": name == "two-pass"}
        need = svdkit.forecast(
            run.model, gpu=torch.cuda.get_device_name(), clip=clip, load={"dtype": "fp16", **switches}
        ).memory_bytes
        for technique in PLANS.get(name, ()):
            svdkit.apply_technique(pipe, technique)
        for part in (1.0, 0.94, 0.88):
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction((part * need - 2**29) / total)
            try:
                svdkit.generate(pipe, frame, clip, progress=False, step_down=False)
                run.fact(f"{name} in {part * need / 2**30:.1f} GiB, context included", "ran")
            except svdkit.SvdkitError as error:
                run.fact(f"{name} in {part * need / 2**30:.1f} GiB, context included: FAILED", str(error)[:70])
                break
        torch.cuda.set_per_process_memory_fraction(1.0)
        for technique in TECHNIQUES:
            undo_technique(pipe, technique)


def ladder(run: Run) -> None:
    """Out of memory, provoked by a filled card: which steps are taken, and does the clip come?"""
    if not run.cuda:
        return
    pipe = run.load()
    frame = run.frame(pipe)
    clip = ClipSettings(seed=0, num_inference_steps=1, decode_chunk_size=25)
    for left in (6, 3):  # beside the weights
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0]
        filler = torch.empty(max(0, free - left * 2**30), dtype=torch.uint8, device="cuda")
        with run.attempt(f"{left} GiB left"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made: Any = svdkit.generate(pipe, frame, clip, progress=False).provenance
            run.fact(f"{left} GiB left: notes", made.notes, warned=len(caught))
        del filler
        with run.attempt("undo"):
            for technique in TECHNIQUES:
                undo_technique(pipe, technique)


def killed(run: Run) -> None:
    """A process that measures is killed: are its cells failed rows?"""

    def kill(text: str) -> None:
        if "warm-up" in text or "repeat" in text:
            for child in psutil.Process().children():
                child.send_signal(signal.SIGKILL)

    load = LoadSettings(model=run.model, weights="random")
    with run.attempt("killed"):
        where = run.out / "killed"
        clip = ClipSettings(seed=0, num_inference_steps=2, num_frames=8)
        found = profile(load=load, clip=clip, check=0, protocol=Protocol(processes=1), results=where, progress=kill)
        run.fact("killed", [[record.status, record.error] for record in found])


def compiled(run: Run) -> None:
    """Compile at the usual size and at one that the UNet cannot halve evenly; then measure."""
    pipe = run.load(compile=True)
    model = pipe.svdkit.model
    for height, width in ((model.height, model.width), (512, 904))[: 1 if run.quick else 2]:
        frame = fit("rocket", height=height, width=width)
        clip = ClipSettings(seed=0, num_inference_steps=1, decode_chunk_size=5)
        for time_ in ("first", "second"):
            with run.attempt(f"compiled {height}x{width}, {time_} clip"):
                svdkit.generate(pipe, frame, clip, progress=False)
    run.profile(pipe, "compiled")


def fp8(run: Run) -> None:
    """8-bit storage, with and without offloading."""
    if not run.cuda:
        return
    pipe = run.load(dtype="fp8")
    frame, clip = run.frame(pipe, small=True), ClipSettings(seed=0, num_inference_steps=2)
    for name in ("resident", "offload", "group-offload"):
        with run.attempt(f"fp8, {name}"):
            if name != "resident":
                svdkit.apply_technique(pipe, name)
            svdkit.generate(pipe, frame, clip, progress=False)


PARTS: dict[str, tuple[Callable[[Run], None], int]] = {
    "ceiling": (ceiling, 60),
    "plans": (plans, 180),
    "central": (central, 100),
    "whole": (whole, 60),
    "chunks": (chunks, 100),
    "probes": (probes, 60),
    "fits": (fits, 60),
    "sizes": (sizes, 120),
    "precisions": (precisions, 180),
    "activations": (activations, 90),
    "operations": (operations, 90),
    "same": (same, 120),
    "fp8": (fp8, 90),
    "killed": (killed, 90),
    "compiled": (compiled, 180),
    "ladder": (ladder, 120),
}
PART, START = "", time.monotonic()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run parts one after another, those joined by "+" at once."""
    global PART  # noqa: PLW0603 - named once, at the start of a process
    parser = argparse.ArgumentParser(description="The full-size network on this GPU.")
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}; a,b: one process")
    parser.add_argument("--model", default="svd-xt")
    parser.add_argument("--out", type=Path, default=ROOT / "bench_results" / "gpu", help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cells, to see that it runs")
    parser.add_argument("--here", action="store_true", help="in this process, without a deadline")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.here:
        run = Run(options.model, options.out, options.quick)
        PART = "start"
        run.fact("seconds until all was imported", round(time.time() - psutil.Process().create_time(), 1))
        for PART in options.parts:
            with run.attempt("the part"):
                PARTS[PART][0](run)
        return 0
    for group in options.parts:
        threads = [threading.Thread(target=_in_child, args=(parts, options)) for parts in group.split("+")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return 0


def _in_child(parts: str, options: argparse.Namespace) -> None:
    start = time.monotonic()
    names = parts.split(",")
    words = [sys.executable, __file__, *names, "--here", "--model", options.model, "--out", str(options.out)]
    words += ["--quick"] if options.quick else []
    try:
        code = subprocess.run(words, timeout=sum(PARTS[name][1] for name in names), check=False).returncode
        end = f"ended with {code}"
    except subprocess.TimeoutExpired:
        end = "took too long and was killed"
    print(f"== {parts} {end} after {time.monotonic() - start:.0f} s ({shlex.join(words[1:])})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
