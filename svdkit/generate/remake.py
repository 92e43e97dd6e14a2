"""Make a saved clip again from what is written in it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.clip import Clip, Provenance
from svdkit.environment import machine
from svdkit.errors import ClipError, ImageError, ModelError, PipelineError, SettingsError, SvdkitWarning
from svdkit.generate.run import generate
from svdkit.generate.stages import describe_model
from svdkit.image import Frame, fit, sample_photos
from svdkit.models import catalogue, find_model
from svdkit.pipeline import load, report_of
from svdkit.settings import ClipSettings, LoadSettings

if TYPE_CHECKING:
    from svdkit.generate.progress import Shown

_COMMIT = re.compile(r"[0-9a-f]{40}")  # of the hub; other revisions are hashes of files, which none can be asked for
# What may change bits: other versions, or another processor, may round differently.
_DECIDE_BITS = (
    *("name", "weights", "revision", "dtype", "random_seed", "compile", "forward_chunking", "two_pass_guidance"),
    *("torch", "diffusers", "transformers", "numpy", "pillow", "gpu"),
)


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
    left_open = model is None and pipe is None
    pipe = _load(made, model) if pipe is None else pipe
    _compare(pipe, made, left_open=left_open)
    return generate(pipe, frame, settings, progress=progress)


def _find_frame(old: Clip, made: Provenance, photo: Any) -> Frame:
    """Find the fitted photo, and make sure that it is the one."""
    if photo is None and old.photo is None:
        photo = made.image.get("source")
        if photo not in sample_photos():
            raise ClipError(
                f"the photo of this clip ({photo or 'no name recorded'}) is not beside it and is no sample photo; "
                "pass photo=, the file it was made of"
            )
    image: Any
    if photo is None:
        what, image = "the photo saved beside the clip", old.photo
    elif isinstance(photo, Frame):
        what, image = "this frame", photo.image
    else:
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
        settings, recorded = settings.replace(model=str(model or settings.model)), settings.model
        commit = str(made.model.get("revision"))
        same = settings.model == recorded and settings.weights == "trained" and settings.source in {"auto", "hub"}
        if same and _COMMIT.fullmatch(commit):
            settings = settings.replace(revision=commit)  # the very weights, though the repository may have moved on
        return load(settings.model, settings=settings)
    except (ModelError, PipelineError, SettingsError) as error:
        if model is not None:
            raise
        message = f"the model of this clip cannot be loaded here ({error}); load it yourself and pass it as pipe="
        raise ClipError(message) from error


def _compare(pipe: Any, made: Provenance, *, left_open: bool) -> None:
    """Refuse another model, and other weights of micro unless they were asked for; warn of what may change bits."""
    here = describe_model(pipe)
    # A name outside the catalogue, such as a folder's, says nothing about the weights.
    for part, known in {"name": [info.name for info in catalogue()], "weights": ["trained", "random"]}.items():
        recorded, found = made.model.get(part), here[part]
        if recorded != found and recorded in known and found in known:
            raise ClipError(f"the clip's model has {part} {recorded!r}, this pipeline {found!r}; pass the right pipe=")
    then, now = made.model.get("revision"), here["revision"]
    if left_open and here["name"] == "micro" and here["weights"] == "trained" and then != now:
        raise ClipError(
            f"this clip was made with other weights of micro (revision {then}; here {now}): today's make another clip. "
            f"Install svdkit {made.svdkit_version}, which it was made with, or pass model='micro' for another clip"
        )
    report = report_of(pipe)
    old = {**made.environment, **made.load, **made.model}
    new = {**machine(), **(report.settings.to_dict() if report.is_ours else {}), **here}
    both = [part for part in _DECIDE_BITS if part in old and part in new]
    differences = [f"{part} was {old[part]}, is {new[part]} here" for part in both if old[part] != new[part]]
    if differences:
        warnings.warn(
            f"frames may differ from the recorded clip: {'; '.join(differences)}", SvdkitWarning, stacklevel=3
        )
