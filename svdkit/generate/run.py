"""From a photo to a clip in one call, many clips one after the other, with less when memory runs out, and again.

Out of memory, only the stage that failed is run again; each step down is warned of and noted in the clip. Techniques
stay applied, since the next clip of the same size would fail in the same place.
"""

from __future__ import annotations

import gc
import re
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from svdkit.clip import Clip, Provenance
from svdkit.environment import machine
from svdkit.errors import (
    ClipError,
    ImageError,
    ModelError,
    OutOfMemoryError,
    PipelineError,
    SettingsError,
    SvdkitWarning,
)
from svdkit.generate.loop import Resolved, execution_device, is_guided
from svdkit.generate.progress import Shown, reporter
from svdkit.generate.stages import Encoded, OnStep, decode, denoise, describe_model, encode, in_line, resolve
from svdkit.image import Frame, fit, sample_photos, size_advice
from svdkit.models import catalogue, find_model
from svdkit.pipeline import active_techniques, apply_technique, load, report_of
from svdkit.pipeline.memory import is_out_of_memory
from svdkit.settings import ClipSettings, LoadSettings

_SMALLER_CHUNK = "smaller decode chunk"
_COMMIT = re.compile(r"[0-9a-f]{40}")  # of the hub; other revisions are hashes of files, which none can be asked for
# What may change bits: other versions, or another processor, may round differently.
_DECIDE_BITS = (
    *("name", "weights", "revision", "dtype", "random_seed", "compile", "forward_chunking", "two_pass_guidance"),
    *("torch", "diffusers", "transformers", "numpy", "pillow", "gpu"),
)


def _run_stage(
    pipe: Any, stage: str, attempt: Callable[[Any], Any], settings: Resolved, *, step_down: bool, notes: list[str]
) -> tuple[Any, Resolved]:
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
    # Offloading moves weights off a GPU; a plan that does more is not replaced by one that does less.
    on_gpu = execution_device(pipe).type == "cuda" and not report_of(pipe).settings.compile
    offload = ("offload", on_gpu and not active & {"group-offload", "sequential"})
    ladder = {
        "encode": [offload],
        "denoise": [
            ("two-pass-guidance", is_guided(settings)),
            ("forward-chunking", True),
            offload,
            ("group-offload", on_gpu and "sequential" not in active),
        ],
        "decode": [(_SMALLER_CHUNK, settings.decode_chunk_size > 1), offload],
    }
    return next((step for step, possible in ladder[stage] if possible and step not in active), None)


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
    how: dict[str, Any] = {"fit_mode": fit_mode, "focus": focus, "border": border, "step_down": step_down}
    return next(generate_batch(pipe, [photo], settings, **how, progress=progress, on_step=on_step))


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
    settings, model = settings or ClipSettings(), report_of(pipe).model
    each = [settings.replace(seed=seed) for seed in ([settings.seed] if seeds is None else _listed("seeds", seeds))]
    how: dict[str, Any] = {"mode": fit_mode, "focus": focus, "border": border}
    how |= {"height": settings.height or model.height, "width": settings.width or model.width}
    frames = [photo if isinstance(photo, Frame) else fit(photo, **how) for photo in _listed("photos", photos)]
    report = reporter(progress)

    def make(frame: Frame, settings: Resolved, reuse: Encoded | None) -> tuple[Clip, Encoded, int]:
        settings, loaded, notes = resolve(pipe, settings, frame), report_of(pipe), list[str]()
        trained = {"trained_height": loaded.model.height, "trained_width": loaded.model.width}
        advice = size_advice(height=frame.height, width=frame.width, **trained) if loaded.is_ours else None
        if advice:
            warnings.warn(advice, SvdkitWarning, stacklevel=4)
        run = partial(_run_stage, pipe, settings=settings, step_down=step_down, notes=notes)
        encoded, _ = run("encode", lambda now: encode(pipe, frame, now, progress=report, reuse=reuse))
        denoised, _ = run("denoise", lambda now: denoise(pipe, encoded, now, progress=report, on_step=on_step))
        told = [advice] if advice else []
        clip, fitted = run("decode", lambda now: decode(pipe, denoised, now, progress=report, notes=told + notes))
        return clip, encoded, fitted.decode_chunk_size

    def clips() -> Iterator[Clip]:
        chunk = settings.decode_chunk_size
        for frame in frames:
            encoded = None
            for wanted in each:
                with in_line(pipe):
                    clip, encoded, chunk = make(frame, wanted.replace(decode_chunk_size=chunk), encoded)
                yield clip

    return clips()  # a generator of its own: what stands above runs now, not when the first clip is asked for


def _listed(name: str, given: Any) -> list[Any]:
    """Make a list, and refuse one photo or one seed: a text would else be taken as a list of letters."""
    is_one = isinstance(given, str | bytes | PurePath | Frame) or hasattr(given, "read")
    if is_one or getattr(given, "ndim", 1) in {2, 3} or not isinstance(given, Iterable):
        raise SettingsError(f"{name} is one {type(given).__name__}, not a list; write {name}=[…], also for one")
    return list(given)


def replay(
    file: str | Path | Clip,
    *,
    photo: Any = None,
    model: str | Path | None = None,
    pipe: Any = None,
    progress: Shown = "auto",
) -> Clip:
    """Make a clip again: same photo, same model, same settings, same seed.

    On the same machine with the same versions the frames are the same to the bit; a video file holds them compressed.

    Args:
        file: A file that ``Clip.save`` wrote, its JSON beside it or not; or a clip.
        photo: The photo it was made of, as ``generate`` takes it. None: the fitted photo that was saved beside the
            clip, else the sample photo of the recorded name.
        model: The model to load, as ``load`` takes it, when the recorded one was a folder, or a repository that is
            not of the catalogue: a clip of somebody else's does not decide whom this machine asks for what.
        pipe: The pipeline to use instead.
        progress: As in ``generate``.

    Returns:
        The new clip. A warning names versions, GPU, dtype or revision that differ here: frames may then differ.

    Raises:
        ImageError: when the photo given cannot be read.
        ClipError: when the file was not made by svdkit, its photo is not to be found or is another one, or its model
            is another one, is to be named, cannot be loaded, or is micro with weights that svdkit no longer ships.
        ModelError, PipelineError, SettingsError: as ``load``, for a model that was given.

    Example:
        >>> bool((replay(clip.save("walk.mp4")).frames == clip.frames).all())
        True
    """
    old = file if isinstance(file, Clip) else Clip.read(file)
    made = old.provenance
    if made is None:
        raise ClipError("this video carries no svdkit provenance: nothing says how it was made; replay a clip of ours")
    try:
        settings = ClipSettings.from_dict(made.settings)
    except SettingsError as error:
        message = f"the recorded settings do not fit this svdkit ({error}); the clip is of svdkit {made.svdkit_version}"
        raise ClipError(message) from error
    frame = _find_frame(old, made, photo)
    loaded = _load(made, model) if pipe is None else pipe
    _compare(loaded, made, left_open=model is None and pipe is None)
    return generate(loaded, frame, settings, progress=progress)


def _find_frame(old: Clip, made: Provenance, photo: Any) -> Frame:
    """Find the fitted photo, and make sure that it is the one."""
    source = made.image.get("source")
    if photo is None and old.photo is None:
        if source not in sample_photos():
            raise ClipError(
                f"the photo of this clip ({source or 'no name recorded'}) is not beside it and is no sample photo; "
                "pass photo=, the file it was made of"
            )
        photo = source
    image: Any
    what, image = "the photo saved beside the clip", old.photo
    if isinstance(photo, Frame):
        what, image = "this frame", photo.image
    elif photo is not None:
        how: dict[str, Any] = {name: made.image.get(name) for name in ("height", "width", "mode", "focus", "border")}
        what, image = "the photo, fitted as recorded,", fit(photo, **how).image
    try:
        return Frame.from_dict(made.image, image=image)
    except ImageError as error:
        raise ClipError(
            f"{what} is not what the clip was made of ({error}) Pass photo= with the original file: a resized or "
            "newly compressed copy is another picture"
        ) from error


def _load(made: Provenance, model: str | Path | None) -> Any:
    if not made.load and model is None:
        raise ClipError("this clip was made with a pipeline that svdkit did not load; pass that pipeline as pipe=")
    try:
        # Where the weights lie and what computes are this machine's business and change no frame.
        settings = LoadSettings.from_dict(made.load).replace(device="auto", memory="auto")
        if model is None and (info := find_model(settings.model)).hub_id == info.name:
            raise ClipError(
                f"this clip was made with {info.name!r}, a repository that svdkit does not know: loading it would ask "
                "the hub for it, with your login where there is one; if you trust it, pass model= with that name"
            )
        name, commit = str(model or settings.model), str(made.model.get("revision"))
        same = name == settings.model and settings.weights == "trained" and settings.source in {"auto", "hub"}
        if same and _COMMIT.fullmatch(commit):
            settings = settings.replace(revision=commit)  # the very weights, though the repository may have moved on
        return load(name, settings=settings)
    except (ModelError, PipelineError, SettingsError) as error:
        if model is not None:
            raise
        message = f"the model of this clip cannot be loaded here ({error}); load it yourself and pass it as pipe="
        raise ClipError(message) from error


def _compare(pipe: Any, made: Provenance, *, left_open: bool) -> None:
    """Refuse another model, and other weights of micro unless they were asked for; warn of what may change bits."""
    here, report = describe_model(pipe), report_of(pipe)
    # A name outside the catalogue, such as a folder's, says nothing about the weights.
    for part, known in {"name": [info.name for info in catalogue()], "weights": ["trained", "random"]}.items():
        recorded, found = made.model.get(part), here[part]
        if recorded != found and recorded in known and found in known:
            raise ClipError(f"the clip's model has {part} {recorded!r}, this pipeline {found!r}; pass the right pipe=")
    old = {**made.environment, **made.load, **made.model}
    new = {**machine(), **(report.settings.to_dict() if report.is_ours else {}), **here}
    both = [part for part in _DECIDE_BITS if part in old and part in new and old[part] != new[part]]
    if left_open and "revision" in both and (here["name"], here["weights"]) == ("micro", "trained"):
        raise ClipError(
            f"this clip was made with other weights of micro (revision {old['revision']}; here {new['revision']}): "
            f"today's make another clip. Install svdkit {made.svdkit_version}, which it was made with, or pass "
            "model='micro' for another clip"
        )
    if both:
        changes = "; ".join(f"{part} was {old[part]}, is {new[part]} here" for part in both)
        warnings.warn(f"frames may differ from the recorded clip: {changes}", SvdkitWarning, stacklevel=3)
