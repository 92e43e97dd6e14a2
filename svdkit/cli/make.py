"""Make clips: from a photo, again from a saved clip, and many from a sweep file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svdkit.cli.options import (
    CLIP,
    FAILED,
    LOAD,
    RefusedInput,
    chosen,
    judging_input,
    settings_options,
    takes,
)
from svdkit.errors import ClipError
from svdkit.given import user_path
from svdkit.settings import ClipSettings, LoadSettings, clip_preset

if TYPE_CHECKING:
    from svdkit.clip import Clip


_Source = Annotated[str, typer.Argument(help="A file, an http(s) address, or a sample: rocket, coffee, cat.")]
_Fit = Annotated[str, typer.Option(help="crop, pad or stretch.", rich_help_panel="The photo")]
_Focus = Annotated[
    tuple[float, float],
    typer.Option(
        metavar="X Y",
        help="What crop keeps in view: 0 0 is top left, 1 1 is bottom right.",
        rich_help_panel="The photo",
    ),
]
_Border = Annotated[str, typer.Option(help="For pad: blur, or a colour such as #000000.", rich_help_panel="The photo")]
_Preset = Annotated[
    str | None,
    typer.Option(
        help="Begin from what another tool sends: diffusers, comfyui, generative-models, generative-models-svd or "
        "hf-space.",
        rich_help_panel="The clip",
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        *("--output", "-o"),
        help="Where to: .mp4, .webm, .webp, .gif, or .png for a folder of frames. Named after the photo, .mp4, when "
        "left out. With several seeds, each file has its seed in its name.",
        rich_help_panel="File",
    ),
]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.", rich_help_panel="File")]
_KeepPhoto = Annotated[
    bool,
    typer.Option(
        "--keep-photo/--no-keep-photo", help="The fitted photo beside the clip, for replay.", rich_help_panel="File"
    ),
]
_Scale = Annotated[
    float | None,
    typer.Option(help="Size of the saved frames as a factor, for example 4 for micro.", rich_help_panel="File"),
]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the file's name and errors only.")]


@takes(
    settings_options(ClipSettings, CLIP, panel="The clip"),
    settings_options(LoadSettings, LOAD, panel="The model"),
)
def animate(
    photo: _Source,
    *,
    output: _Output = None,
    overwrite: _Overwrite = False,
    keep_photo: _KeepPhoto = True,
    scale: _Scale = None,
    fit: _Fit = "crop",
    focus: _Focus = (0.5, 0.5),
    border: _Border = "blur",
    preset: _Preset = None,
    quiet: _Quiet = False,
    **given: Any,
) -> None:
    """Make a clip from a photo.

    The name of each file is printed on stdout, everything else on stderr.
    Settings and seed are written into the file, so that svdkit replay makes the same clip again.
    """
    from svdkit.generate import generate_batch
    from svdkit.image import fit as fit_photo
    from svdkit.image import read_image
    from svdkit.models import find_model
    from svdkit.pipeline import load

    with judging_input():
        settings, seeds = _clip_settings(given, preset=preset)
        load_settings = LoadSettings(**chosen(given, LOAD))
        info = find_model(load_settings.model)
        image = read_image(photo)
        size = {"height": settings.height or info.height, "width": settings.width or info.width}
        frame = fit_photo(image, **size, mode=fit, focus=focus, border=border)
        targets = _targets(user_path(output or _default_name(frame.source)), seeds)
        whole = settings.resolve(**{**info.clip_defaults, "height": frame.height, "width": frame.width}, seed=0)
        for target in targets:
            check_target(target, overwrite=overwrite, settings=whole, scale=scale)
    pipe = load(settings=load_settings)
    _say(f"{pipe.svdkit}", quiet=quiet)
    clips = generate_batch(
        pipe, [image], settings, seeds=seeds, fit_mode=fit, focus=focus, border=border, progress=_progress(quiet=quiet)
    )
    for clip, target in zip(clips, targets, strict=True):
        saved = clip.save(target, overwrite=overwrite, keep_photo=keep_photo, scale=scale)
        typer.echo(saved)
        _say(f"{clip.label}; once more: svdkit replay {saved}", quiet=quiet)


def replay(
    clip: Annotated[
        Path, typer.Argument(help="A clip that svdkit saved: the video, its folder of frames or its JSON.")
    ],
    *,
    photo: Annotated[
        str | None, typer.Option(help="The photo it was made of, when that is not beside it.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model it was made with, when that was a folder or is unknown to svdkit.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to; <clip>-replay.mp4 beside it when left out.")
    ] = None,
    overwrite: _Overwrite = False,
    quiet: _Quiet = False,
) -> None:
    """Make a saved clip again: same photo, same model, same settings, same seed.

    It also says how the new frames compare with the file's.
    A video holds compressed frames; a folder of frames (.png) holds them to the bit.
    """
    from svdkit.clip import Clip
    from svdkit.generate import replay as remake

    with judging_input():
        old, clip = Clip.read(clip), clip if clip.name else clip.absolute()  # "." has no name
        target = user_path(output) if output else clip.with_name(f"{clip.stem.removesuffix('_frames')}-replay.mp4")
        check_target(target, overwrite=overwrite)
    try:
        new = remake(old, photo=photo, model=model, progress=_progress(quiet=quiet))
    except ClipError as error:  # what was given is not enough: in Python arguments would help, here options do
        raise RefusedInput(re.sub(r"(photo|model)=", r"--\1", str(error)).replace("pipe=", "--model")) from error
    typer.echo(new.save(target, overwrite=overwrite))
    _say(compare_frames(new, old), quiet=quiet)


def compare_frames(new: Clip, old: Clip) -> str:
    """Say in one sentence how a clip made again compares with the one that was read from a file."""
    import numpy as np

    if new.frames.shape != old.frames.shape:
        return "the file's frames were saved in another size, so they are not compared"
    difference = float(np.abs(new.frames.astype(np.int16) - old.frames).mean())
    if difference == 0:
        return "the frames are those of the file, bit for bit"
    return f"mean difference from the file's frames, which a video holds compressed: {difference:.2g} of 255"


def check_target(path: Path, *, overwrite: bool, settings: Any = None, scale: float | None = None) -> None:
    """Find out before minutes of work that a clip cannot be saved under a name, or so large or so fast; a ClipError."""
    from svdkit.clip.formats import check_rate
    from svdkit.clip.storage import SUFFIXES, check_saving, scaled_size

    num_bytes = 0
    if settings is not None:
        size = {name: getattr(settings, name) for name in ("height", "width", "num_frames")}
        check_rate(path.suffix.lower(), settings.playback_fps)
        height, width = scaled_size(**size, scale=1 if scale is None else scale)
        num_bytes = settings.num_frames * height * width * 3
    if path.suffix.lower() not in SUFFIXES:
        raise ClipError(f"{path}: a clip is saved as .mp4, .webm, .webp, .gif or .png (a folder of frames)")
    if not path.parent.is_dir():
        raise ClipError(f"{path}: the folder {path.parent} is not there; create it first, or choose another --output")
    check_saving(path, num_bytes=num_bytes)
    main = path.with_name(f"{path.stem}_frames") if path.suffix.lower() == ".png" else path
    beside = (main, path.with_suffix(".json"), path.with_name(f"{path.stem}.photo.png"))
    there = [file.name for file in beside if file.exists()]
    if there and not overwrite:
        raise ClipError(f"{', '.join(there)} in {path.parent} would be replaced; give --overwrite or another --output")


def _clip_settings(given: dict[str, Any], *, preset: str | None) -> tuple[ClipSettings, list[int] | None]:
    """Build the settings, and check every seed before the first clip is begun."""
    values = chosen(given, CLIP)
    seeds = list(dict.fromkeys(values.pop("seed", []))) or None
    settings = (ClipSettings() if preset is None else clip_preset(preset)).replace(**values)
    for seed in seeds or []:
        settings.replace(seed=seed)
    return settings, seeds


def _targets(path: Path, seeds: Sequence[int] | None) -> list[Path]:
    if seeds is None or len(seeds) == 1:
        return [path]
    return [path.with_name(f"{path.stem}-seed-{seed}{path.suffix}") for seed in seeds]


def _default_name(source: str | None) -> str:
    """Name a clip after its photo; an address may hold characters that no file name takes."""
    stem = re.sub(r"[^\w.-]+", "-", Path(source or "").stem).strip("-.")
    stem = stem.encode()[:200].decode(errors="ignore")  # files beside it have longer names, and 255 bytes are the most
    return f"{stem or 'clip'}.mp4"


def _progress(*, quiet: bool) -> bool | str:
    return False if quiet else "terminal"


def _say(text: str, *, quiet: bool) -> None:
    if not quiet:
        typer.echo(text, err=True)


def sweep(
    file: Annotated[Path, typer.Argument(help="YAML or JSON: photos, load, clip, axes, mode, exclude, results.")],
    *,
    results: Annotated[
        Path | None,
        typer.Option("--results", "-o", help="Results folder; the file's own when left out.", show_default=False),
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: every GPU of a machine or a cluster.")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Of the Ray cluster, for example auto; left out, Ray starts here.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="For ray: how many; one a GPU when left out.", min=1, show_default=False)
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one run, and for one load.", min=1)] = 3600,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run again what failed earlier.")] = False,
    forecast: Annotated[
        bool | None,
        typer.Option(
            "--forecast/--no-forecast", help="Time, memory and money before it starts; on, if the file does not say."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file and print the plan only.")] = False,
) -> None:
    """Make the clips of a sweep file, and a table and a page that compare them.

    It can be stopped at any moment: the same command continues, and repeats nothing that ended.
    Exit code 1 when a run failed; its row says why.
    """
    from svdkit.sweep import plan_sweep, read_sweep, run_sweep

    with judging_input():
        plan = plan_sweep(**read_sweep(file) | ({} if forecast is None else {"forecast": forecast}))
    typer.echo(str(plan), err=True)
    if dry_run:
        return
    how: dict[str, Any] = {"address": address, "workers": workers, "retry_failed": retry_failed}
    words = ["svdkit", "sweep", _shown(file), *(["-o", _shown(results)] if results else [])]
    words += [] if engine == "local" else ["--engine", engine]
    how |= {"timeout_seconds": timeout, "command": shlex.join(words)}
    found = run_sweep(plan, results=results, engine=engine, **how)
    typer.echo(str(found))
    if found.failed:
        raise typer.Exit(FAILED)


def _shown(path: Path) -> str:
    return path.name if path.is_absolute() else path.as_posix()  # an absolute path may name its user
