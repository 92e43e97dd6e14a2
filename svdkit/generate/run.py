"""From a photo to a clip in one call, and many clips one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from svdkit.errors import SettingsError, SvdkitWarning
from svdkit.generate.ladder import MemoryLadder
from svdkit.generate.loop import in_use
from svdkit.generate.progress import Report, reporter
from svdkit.generate.resolve import resolve
from svdkit.generate.stages import OnStep, decode, denoise, encode
from svdkit.image import Frame, fit, size_advice
from svdkit.settings import ClipSettings

if TYPE_CHECKING:
    from svdkit.clip import Clip
    from svdkit.generate.outputs import Encoded

# The defaults of diffusers' call, for a pipeline that svdkit did not load.
_HEIGHT, _WIDTH = 576, 1024


def generate(
    pipe: Any,
    photo: Any,
    settings: ClipSettings | None = None,
    *,
    fit_mode: str = "crop",
    focus: tuple[float, float] = (0.5, 0.5),
    border: str = "blur",
    progress: bool | str | Report = "auto",
    step_down: bool = True,
    on_step: OnStep | None = None,
) -> Clip:
    """Make a clip from a photo.

    The frames are bit-identical to one call of the pipeline with the fitted photo, the same settings and
    ``generator=torch.Generator("cpu").manual_seed(seed)``. The generator is on the CPU whatever the device, so that a
    seed means the same noise everywhere.

    When memory runs out, the stage in which it did is run again with less: decoding in smaller chunks; denoising with
    the guidance in two passes, then with chunked feed-forward layers, then with offloading. Each step is warned of
    and noted in the clip. Techniques stay applied to the pipeline for later calls; ``svdkit.undo_technique`` takes
    them back.

    Args:
        pipe: A ``StableVideoDiffusionPipeline``, from ``svdkit.load`` or your own.
        photo: Anything ``svdkit.read_image`` takes, the name of a sample photo, or a ``Frame`` that was fitted already.
        settings: Of the clip; None for the defaults. A seed that is None is drawn and recorded in the clip.
        fit_mode: ``"crop"``, ``"pad"`` or ``"stretch"``, as in ``svdkit.fit``; not used for a ``Frame``.
        focus: ``(x, y)`` of the photo, each 0 to 1, that cropping keeps in view.
        border: ``"blur"`` or a colour such as ``"#000000"``, for ``"pad"``.
        progress: ``"auto"``, ``"notebook"``, ``"terminal"``, False, or a function that takes a ``Progress``.
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
        >>> clip = generate(svdkit.load("micro"), "rocket", ClipSettings(seed=7))  # doctest: +SKIP
    """
    settings = settings or ClipSettings()
    frame = fit_photo(pipe, photo, settings, fit_mode=fit_mode, focus=focus, border=border)
    maker = _Maker(pipe=pipe, report=reporter(progress), step_down=step_down, on_step=on_step)
    return maker.make(frame, settings)[1]


def generate_batch(
    pipe: Any,
    photos: Iterable[Any],
    settings: ClipSettings | None = None,
    *,
    seeds: Iterable[int | None] | None = None,
    fit_mode: str = "crop",
    focus: tuple[float, float] = (0.5, 0.5),
    border: str = "blur",
    progress: bool | str | Report = "auto",
    step_down: bool = True,
    on_step: OnStep | None = None,
) -> Iterator[Clip]:
    """Make a clip of every photo with every seed, one after the other.

    All photos are read and all settings checked before the first clip is begun. What CLIP says of a photo is asked
    once for all its seeds. Clips come one at a time: save each in the loop, and an error or an interrupt in a later
    one loses nothing.

    Args:
        pipe: As in ``generate``.
        photos: A list of photos, each as in ``generate``.
        settings: As in ``generate``; for all clips.
        seeds: A list of seeds for each photo; None for the settings' own. A seed that is None is drawn.
        fit_mode: As in ``generate``.
        focus: As in ``generate``; for all photos.
        border: As in ``generate``.
        progress: As in ``generate``; shown anew for each clip.
        step_down: As in ``generate``. A smaller decode chunk is kept for the clips that follow.
        on_step: As in ``generate``.

    Returns:
        An iterator of clips: all seeds of the first photo, then of the second.

    Raises:
        ImageError: when one of the photos cannot be read; nothing was begun then.
        SettingsError: when ``photos`` is one photo, or a seed is not a seed.
        OutOfMemoryError: as in ``generate``.
        Cancelled: as in ``generate``.

    Example:
        >>> for clip in generate_batch(pipe, ["rocket", "cat"], seeds=(1, 2, 3)):  # doctest: +SKIP
        ...     clip.save(f"{clip.provenance.image['source']}-{clip.provenance.settings['seed']}.mp4")
    """
    settings = settings or ClipSettings()
    each = [settings.replace(seed=seed) for seed in ([settings.seed] if seeds is None else _listed("seeds", seeds))]
    frames = [
        fit_photo(pipe, photo, settings, fit_mode=fit_mode, focus=focus, border=border)
        for photo in _listed("photos", photos)
    ]
    maker = _Maker(pipe=pipe, report=reporter(progress), step_down=step_down, on_step=on_step)
    return _clips(maker, frames, each)


def fit_photo(
    pipe: Any, photo: Any, settings: ClipSettings, *, fit_mode: str, focus: tuple[float, float], border: str
) -> Frame:
    """Fit a photo to the size of the settings, else of the model, else of diffusers' defaults; keep a ``Frame``."""
    if isinstance(photo, Frame):
        return photo
    report = getattr(pipe, "svdkit", None)
    height, width = (_HEIGHT, _WIDTH) if report is None else (report.model.height, report.model.width)
    height, width = settings.height or height, settings.width or width
    return fit(photo, height=height, width=width, mode=fit_mode, focus=focus, border=border)


@dataclass(kw_only=True)
class _Maker:
    """Makes clips one after the other, and remembers the largest decode chunk that fitted."""

    pipe: Any
    report: Report
    step_down: bool
    on_step: OnStep | None
    chunk: int | None = None

    def make(self, frame: Frame, settings: ClipSettings, *, reuse: Encoded | None = None) -> tuple[Encoded, Clip]:
        pipe, report = self.pipe, self.report
        if self.chunk is not None:
            settings = settings.replace(decode_chunk_size=self.chunk)
        settings = resolve(pipe, settings, frame)
        remarks = _size_remarks(pipe, frame)
        ladder = MemoryLadder(pipe, settings, step_down=self.step_down)
        with in_use(pipe, free=True):
            encoded = ladder.run(
                "encode", lambda now: encode(pipe, frame, now, progress=report, reuse=reuse, free=False)
            )
            denoised = ladder.run(
                "denoise", lambda now: denoise(pipe, encoded, now, progress=report, on_step=self.on_step, free=False)
            )
            clip = ladder.run(
                "decode",
                lambda now: decode(pipe, denoised, now, progress=report, notes=(*remarks, *ladder.notes), free=False),
            )
        if ladder.settings != settings:
            self.chunk = ladder.settings.decode_chunk_size
        return encoded, clip


def _size_remarks(pipe: Any, frame: Frame) -> tuple[str, ...]:
    """Warn of a size that is far from what the model was trained on, and return the warning as a note."""
    report = getattr(pipe, "svdkit", None)
    if report is None:
        return ()
    advice = size_advice(
        height=frame.height,
        width=frame.width,
        trained_height=report.model.height,
        trained_width=report.model.width,
    )
    if advice is None:
        return ()
    warnings.warn(advice, SvdkitWarning, stacklevel=4)
    return (advice,)


def _clips(maker: _Maker, frames: list[Frame], each: list[ClipSettings]) -> Iterator[Clip]:
    for frame in frames:
        encoded = None
        for settings in each:
            encoded, clip = maker.make(frame, settings, reuse=encoded)
            yield clip


def _listed(name: str, given: Any) -> list[Any]:
    """Make a list, and refuse one photo or one seed: a text would else be taken as a list of letters."""
    is_one = isinstance(given, str | bytes | PurePath | Frame) or hasattr(given, "read")
    if is_one or getattr(given, "ndim", 1) in {2, 3} or not isinstance(given, Iterable):
        raise SettingsError(f"{name} is one {type(given).__name__}, not a list; write {name}=[…], also for one")
    return list(given)
