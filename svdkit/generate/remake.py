"""Make a saved clip again from what is written in it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.clip import Clip, Provenance
from svdkit.errors import ClipError, ImageError, ModelError, PipelineError, SettingsError, SvdkitWarning
from svdkit.generate.origin import describe_model, machine
from svdkit.generate.run import generate
from svdkit.image import Frame, fit, sample_photos
from svdkit.models import catalogue
from svdkit.pipeline import load
from svdkit.settings import ClipSettings, LoadSettings

if TYPE_CHECKING:
    from svdkit.generate.progress import Report
    from svdkit.generate.stages import OnStep

# Other versions of these, or another processor, may round differently.
_DECIDE_BITS = ("torch", "diffusers", "transformers", "numpy", "pillow", "gpu")


def replay(
    file: str | Path | Clip,
    *,
    photo: Any = None,
    pipe: Any = None,
    progress: bool | str | Report = "auto",
    step_down: bool = True,
    on_step: OnStep | None = None,
) -> Clip:
    """Make a clip again: same photo, same model, same settings, same seed.

    On the same machine with the same versions the frames are the same to the bit; a video file holds them compressed,
    so they are not compared with the file.

    Args:
        file: A file that ``Clip.save`` wrote, its JSON beside it or not; or a clip.
        photo: The photo it was made of, as ``generate`` takes it. None: the fitted photo that was saved beside the
            clip, else the sample photo of the recorded name.
        pipe: The pipeline to use; None loads the recorded model.
        progress: As in ``generate``.
        step_down: As in ``generate``.
        on_step: As in ``generate``.

    Returns:
        The new clip. A warning names what differs here (versions, GPU, dtype, revision), since frames may then differ.

    Raises:
        ImageError: when the photo given cannot be read.
        ClipError: when the file was not made by svdkit, its photo is not to be found or is another one, or its model
            is another one or cannot be loaded.

    Example:
        >>> clip.save("walk.mp4")  # doctest: +SKIP
        >>> bool((replay("walk.mp4").frames == clip.frames).all())  # doctest: +SKIP
        True
    """
    old = file if isinstance(file, Clip) else Clip.read(file)
    made = old.provenance
    if made is None:
        message = "this video carries no svdkit provenance, so nothing says how it was made; replay a clip of svdkit's"
        raise ClipError(message)
    settings = _read_settings(made)
    frame = _find_frame(old, made, photo)
    pipe = _load(made) if pipe is None else pipe
    _compare(pipe, made)
    return generate(pipe, frame, settings, progress=progress, step_down=step_down, on_step=on_step)


def _read_settings(made: Provenance) -> ClipSettings:
    try:
        return ClipSettings.from_dict(made.settings)
    except SettingsError as error:
        message = f"the recorded settings do not fit this svdkit ({error}); the clip is of svdkit {made.svdkit_version}"
        raise ClipError(message) from error


def _find_frame(old: Clip, made: Provenance, photo: Any) -> Frame:
    """Find the fitted photo, and make sure that it is the one."""
    if photo is None and old.photo is not None:
        return _same_frame(made, old.photo, "the photo saved beside the clip")
    if photo is None:
        photo = made.image.get("source")
        if photo not in sample_photos():
            message = (
                f"the photo of this clip ({photo or 'no name recorded'}) is not beside it and is no sample photo; "
                "pass photo=, the file it was made of"
            )
            raise ClipError(message)
    if isinstance(photo, Frame):
        return _same_frame(made, photo.image, "this frame")
    try:
        recorded = {name: made.image[name] for name in ("height", "width", "mode", "focus", "border")}
        frame = fit(photo, **recorded)
    except KeyError as error:
        raise ClipError(f"the clip's provenance does not say how the photo was fitted: {error} is missing") from error
    return _same_frame(made, frame.image, "the photo, fitted as recorded,")


def _same_frame(made: Provenance, image: Any, what: str) -> Frame:
    try:
        return Frame.from_dict(made.image, image=image)
    except ImageError as error:
        message = (
            f"{what} is not what the clip was made of ({error}) Pass photo= with the original file: a resized or "
            "newly compressed copy is another picture"
        )
        raise ClipError(message) from error


def _load(made: Provenance) -> Any:
    if not made.load:
        message = "this clip was made with a pipeline that svdkit did not load; pass that pipeline as pipe="
        raise ClipError(message)
    try:
        # Where the weights lie and what computes are this machine's business and change no frame.
        settings = LoadSettings.from_dict(made.load).replace(device="auto", memory="auto")
        return load(settings.model, settings=settings)
    except (ModelError, PipelineError, SettingsError) as error:
        message = f"the model of this clip cannot be loaded here ({error}); load it yourself and pass it as pipe="
        raise ClipError(message) from error


def _compare(pipe: Any, made: Provenance) -> None:
    """Refuse another model; warn of what may change bits."""
    here = describe_model(pipe)
    known = {"name": [info.name for info in catalogue()], "weights": ["trained", "random"]}
    for part, values in known.items():
        recorded, found = made.model.get(part), here[part]
        if recorded != found and recorded in values and found in values:
            message = f"the clip's model has {part} {recorded!r}, this pipeline {found!r}; pass the right pipe="
            raise ClipError(message)
    report = getattr(pipe, "svdkit", None)
    loaded = {} if report is None else report.settings.to_dict()
    differences = [
        *_differences(made.model, here, ("name", "weights", "revision")),
        *_differences(made.load, loaded, ("dtype", "random_seed", "compile", "forward_chunking", "two_pass_guidance")),
        *_differences(made.environment, machine(), _DECIDE_BITS),
    ]
    if differences:
        text = f"frames may differ from the recorded clip: {'; '.join(differences)}"
        warnings.warn(text, SvdkitWarning, stacklevel=3)


def _differences(then: dict[str, Any], now: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    both = [name for name in names if name in then and name in now]
    return [f"{name} was {then[name]}, is {now[name]} here" for name in both if then[name] != now[name]]
