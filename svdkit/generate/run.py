"""From a photo to a clip in one call, and many clips one after the other, with less when memory runs out.

Out of memory, only the stage that failed is run again; each step down is warned of and noted in the clip. Techniques
stay applied, since the next clip of the same size would fail in the same place.
"""

from __future__ import annotations

import gc
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

from svdkit.errors import OutOfMemoryError, SettingsError, SvdkitWarning
from svdkit.generate.loop import execution_device, is_guided
from svdkit.generate.progress import Report, Shown, reporter
from svdkit.generate.stages import OnStep, decode, denoise, encode, in_line, resolve
from svdkit.image import Frame, fit, size_advice
from svdkit.pipeline import active_techniques, apply_technique, report_of
from svdkit.pipeline.memory import is_out_of_memory
from svdkit.settings import ClipSettings

if TYPE_CHECKING:
    from svdkit.clip import Clip
    from svdkit.generate.loop import Resolved
    from svdkit.generate.stages import Encoded


_T = TypeVar("_T")

_SMALLER_CHUNK = "smaller decode chunk"
_STEPS = {
    "encode": ("offload",),
    "denoise": ("two-pass-guidance", "forward-chunking", "offload", "group-offload"),
    "decode": (_SMALLER_CHUNK, "offload"),
}


def _run_stage(
    pipe: Any, stage: str, attempt: Callable[[Any], _T], settings: Resolved, *, step_down: bool, notes: list[str]
) -> tuple[_T, Resolved]:
    """Run ``attempt(settings)`` until it fits; note each step down; return its result and the settings that fitted."""
    import torch

    while True:
        try:
            return attempt(settings), settings
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # The traceback holds the stage's tensors, and a notebook keeps the last traceback.
            traceback.clear_frames(error.__traceback__)
            step = _next_step(pipe, stage, settings) if step_down else None
            if step is None:
                size = f"height={settings.height}, width={settings.width}, num_frames={settings.num_frames}"
                size += f", decode_chunk_size={settings.decode_chunk_size}" if stage == "decode" else ""
                taken = f" after {'; '.join(notes)}" if notes else ""
                allow = "" if step_down else "allow smaller steps with step_down=True, "
                raise OutOfMemoryError(
                    f"{stage} ran out of memory at {size}{taken}; {allow}make a smaller or shorter clip, load with "
                    "memory='sequential' or dtype='fp8', or close what else uses the device"
                ) from error
        gc.collect()
        torch.cuda.empty_cache()
        if step == _SMALLER_CHUNK:
            chunk = settings.decode_chunk_size
            settings = settings.replace(decode_chunk_size=chunk // 2)
            done = f"decoding again with decode_chunk_size={chunk // 2} instead of {chunk}"
        else:
            apply_technique(pipe, step)
            done = f"applied {step!r} and ran {stage} again; it stays on until undo_technique(pipe, {step!r})"
        notes.append(f"{stage} ran out of memory: {done}")
        warnings.warn(notes[-1], SvdkitWarning, stacklevel=2)


def _next_step(pipe: Any, stage: str, settings: Resolved) -> str | None:
    """Find the first step of a stage that would change anything here."""
    active = {*active_techniques(pipe)}
    compiled = report_of(pipe).settings.compile
    # Offloading moves weights off a GPU; a plan that does more is not replaced by one that does less.
    offloaded = active & {"group-offload", "sequential"}
    can_offload = execution_device(pipe).type == "cuda" and not compiled and not offloaded
    possible = {_SMALLER_CHUNK: settings.decode_chunk_size > 1, "two-pass-guidance": is_guided(settings)}
    possible |= {"forward-chunking": True, "offload": can_offload, "group-offload": can_offload}
    return next((step for step in _STEPS[stage] if possible[step] and step not in active), None)


def generate(
    pipe: Any,
    photo: Any,
    settings: ClipSettings | None = None,
    *,
    fit_mode: str = "crop",
    focus: tuple[float, float] = (0.5, 0.5),
    border: str = "blur",
    progress: Shown = "auto",
    step_down: bool = True,
    on_step: OnStep | None = None,
) -> Clip:
    """Make a clip from a photo.

    The frames are bit-identical to one call of the pipeline with the fitted photo, the same settings and
    ``generator=torch.Generator("cpu").manual_seed(seed)``: on the CPU whatever the device, so that a seed means the
    same noise everywhere. When memory runs out, the stage in which it did is run again with less (smaller decode
    chunks, guidance in two passes, forward chunking, offloading), warned of and noted in the clip;
    ``svdkit.undo_technique`` takes back what stays applied. Threads that share a pipeline wait in line.

    Args:
        pipe: A ``StableVideoDiffusionPipeline``, from ``svdkit.load`` or your own.
        photo: Anything ``svdkit.read_image`` takes, the name of a sample photo, or a ``Frame`` that was fitted already.
        settings: Of the clip; None for the defaults. A seed that is None is drawn and recorded in the clip.
        fit_mode: ``"crop"``, ``"pad"`` or ``"stretch"``, as in ``svdkit.fit``; not used for a ``Frame``.
        focus: ``(x, y)`` of the photo, each 0 to 1, that cropping keeps in view.
        border: ``"blur"`` or a colour such as ``"#000000"``, for ``"pad"``.
        progress: ``"auto"``, ``"notebook"``, ``"terminal"``, False, or a function that takes a
            ``svdkit.generate.Progress`` and may raise ``Cancelled`` to stop the run.
        step_down: Whether to step down when memory runs out; False raises at once.
        on_step: Called as ``on_step(step, latents)`` after each denoising step. Returning False, or raising
            ``Cancelled``, stops the run; the pipeline can be used again.

    Returns:
        The clip, with everything that made it in ``clip.provenance``.

    Raises:
        ImageError: when the photo cannot be read or fitted.
        SettingsError: when the settings ask for another size than a ``Frame`` has.
        OutOfMemoryError: when memory ran out and no smaller step is left or allowed.
        Cancelled: when ``on_step`` or ``progress`` said so.

    Example:
        >>> clip = generate(svdkit.load("micro"), "rocket", ClipSettings(seed=7))
    """
    settings = settings or ClipSettings()
    frame = _fit_photo(pipe, photo, settings, mode=fit_mode, focus=focus, border=border)
    return _make(pipe, frame, settings, None, report=reporter(progress), step_down=step_down, on_step=on_step)[0]


def generate_batch(
    pipe: Any,
    photos: Iterable[Any],
    settings: ClipSettings | None = None,
    *,
    seeds: Iterable[int | None] | None = None,
    fit_mode: str = "crop",
    focus: tuple[float, float] = (0.5, 0.5),
    border: str = "blur",
    progress: Shown = "auto",
    step_down: bool = True,
    on_step: OnStep | None = None,
) -> Iterator[Clip]:
    """Make a clip of every photo with every seed, one after the other.

    All photos are read and all settings checked before the first clip is begun. Clips come one at a time: save each
    in the loop, and an error or an interrupt in a later one loses nothing.

    Args:
        pipe: As in ``generate``.
        photos: A list of photos, each as in ``generate``.
        settings: As in ``generate``; for all clips.
        seeds: A list of seeds for each photo; None for the settings' own. A seed that is None is drawn.
        fit_mode: As in ``generate``.
        focus: As in ``generate``.
        border: As in ``generate``.
        progress: As in ``generate``.
        step_down: As in ``generate``. A smaller decode chunk is kept for the clips that follow.
        on_step: As in ``generate``.

    Returns:
        An iterator of clips: all seeds of the first photo, then of the second.

    Raises:
        ImageError: when one of the photos cannot be read; nothing was begun then.
        SettingsError: when ``photos`` is one photo, or a seed is not a seed. Others as in ``generate``.

    Example:
        >>> for clip in generate_batch(pipe, ["rocket"], seeds=(1, 2)):
        ...     saved = clip.save(f"{clip.provenance.image['source']}-{clip.provenance.settings['seed']}.mp4")
    """
    settings = settings or ClipSettings()
    each = [settings.replace(seed=seed) for seed in ([settings.seed] if seeds is None else _listed("seeds", seeds))]
    how = {"mode": fit_mode, "focus": focus, "border": border}
    frames = [_fit_photo(pipe, photo, settings, **how) for photo in _listed("photos", photos)]
    make = partial(_make, pipe, report=reporter(progress), step_down=step_down, on_step=on_step)

    def clips() -> Iterator[Clip]:
        chunk = settings.decode_chunk_size
        for frame in frames:
            encoded = None
            for wanted in each:
                clip, encoded, chunk = make(frame, wanted.replace(decode_chunk_size=chunk), encoded)
                yield clip

    return clips()  # a generator of its own: what stands above runs now, not when the first clip is asked for


def _fit_photo(pipe: Any, photo: Any, settings: ClipSettings, **how: Any) -> Frame:
    """Fit a photo to the size of the settings, else of the model, else of diffusers' defaults; keep a ``Frame``."""
    if isinstance(photo, Frame):
        return photo
    model = report_of(pipe).model
    return fit(photo, height=settings.height or model.height, width=settings.width or model.width, **how)


@in_line
def _make(
    pipe: Any, frame: Frame, settings: ClipSettings, reuse: Any, *, report: Report, step_down: bool, on_step: Any
) -> tuple[Clip, Encoded, int]:
    """Make one clip; return it, the encoded photo, and the decode chunk that fitted."""
    settings = resolve(pipe, settings, frame)
    advice = _size_advice(pipe, frame)
    notes: list[str] = []

    def run(stage: str, attempt: Any) -> Any:
        return _run_stage(pipe, stage, attempt, settings, step_down=step_down, notes=notes)

    encoded, _ = run("encode", lambda now: encode(pipe, frame, now, progress=report, reuse=reuse))
    denoised, _ = run("denoise", lambda now: denoise(pipe, encoded, now, progress=report, on_step=on_step))
    clip, fitted = run("decode", lambda now: decode(pipe, denoised, now, progress=report, notes=(*advice, *notes)))
    return clip, encoded, fitted.decode_chunk_size


def _size_advice(pipe: Any, frame: Frame) -> list[str]:
    """Warn of a size that is far from what the model was trained on, and return the warning as a note."""
    report = report_of(pipe)
    trained = {"trained_height": report.model.height, "trained_width": report.model.width}
    advice = size_advice(height=frame.height, width=frame.width, **trained)
    if advice is None or not report.is_ours:
        return []
    warnings.warn(advice, SvdkitWarning, stacklevel=5)
    return [advice]


def _listed(name: str, given: Any) -> list[Any]:
    """Make a list, and refuse one photo or one seed: a text would else be taken as a list of letters."""
    is_one = isinstance(given, str | bytes | PurePath | Frame) or hasattr(given, "read")
    if is_one or getattr(given, "ndim", 1) in {2, 3} or not isinstance(given, Iterable):
        raise SettingsError(f"{name} is one {type(given).__name__}, not a list; write {name}=[…], also for one")
    return list(given)
