"""Make clips: from a photo, again from a saved clip, and many from a sweep file."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from svdkit.cli.options import CLIP, FAILED, LOAD, RefusedInput, chosen, judging_input, takes
from svdkit.errors import ClipError
from svdkit.given import user_path
from svdkit.settings import ClipSettings, LoadSettings, clip_preset

if TYPE_CHECKING:
    from svdkit.clip import Clip


@takes(*CLIP, *LOAD)
def animate(
    photo: str,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    keep_photo: bool = True,
    scale: float | None = None,
    fit: str = "crop",
    focus: tuple[float, float] = (0.5, 0.5),
    border: str = "blur",
    preset: str | None = None,
    quiet: bool = False,
    **given: Any,
) -> None:
    """Make a clip from a photo.

    The name of each file is printed on stdout, everything else on stderr.
    Settings and seed are written into the file, so that svdkit replay makes the same clip again.

    Args:
        photo: A file, an http(s) address, or a sample: rocket, coffee, cat.
        output: Where to: .mp4, .webm, .webp, .gif, or .png for a folder of frames. Named after the photo, .mp4, when
            left out. With several seeds, each file has its seed in its name.
        overwrite: Replace files that are there.
        keep_photo: The fitted photo beside the clip, for replay.
        scale: Size of the saved frames as a factor, for example 4 for micro.
        fit: crop, pad or stretch.
        focus: What crop keeps in view: 0 0 is top left, 1 1 is bottom right.
        border: For pad: blur, or a colour such as #000000.
        preset: Begin from what another tool sends: diffusers, comfyui, generative-models, generative-models-svd or
            hf-space.
        quiet: Print the file's name and errors only.
        **given: Settings of the clip and of the model.
    """
    from svdkit.clip.formats import check_rate
    from svdkit.clip.storage import scaled_size
    from svdkit.environment import default_model
    from svdkit.generate import generate_batch
    from svdkit.image import fit as fit_photo
    from svdkit.models import find_model
    from svdkit.pipeline import load

    with judging_input():
        values = chosen(given, CLIP)
        seeds = list(dict.fromkeys(values.pop("seed", [None])))
        start = ClipSettings() if preset is None else clip_preset(preset)
        settings, *_ = [start.replace(**values, seed=seed) for seed in seeds]
        load_settings = LoadSettings(**{"model": given.get("model") or default_model(), **chosen(given, LOAD)})
        whole: Any = settings.resolve(**find_model(load_settings.model).clip_defaults)
        frame = fit_photo(photo, height=whole.height, width=whole.width, mode=fit, focus=focus, border=border)
        factor = 1 if scale is None else scale
        height, width = scaled_size(height=whole.height, width=whole.width, num_frames=whole.num_frames, scale=factor)
        path = user_path(output or default_name(frame.source))
        targets = [path if len(seeds) == 1 else path.with_stem(f"{path.stem}-seed-{seed}") for seed in seeds]
        check_rate(path.suffix.lower(), whole.playback_fps)
        for target in targets:
            check_target(target, overwrite=overwrite, num_bytes=whole.num_frames * height * width * 3)
    if not given.get("model"):
        _say(f"{load_settings.model}: svd-xt where a GPU can hold it, else micro; --model chooses", quiet=quiet)
    pipe = load(settings=load_settings)
    _say(f"{pipe.svdkit}", quiet=quiet)
    clips = generate_batch(pipe, [frame], settings, seeds=seeds, progress=not quiet and "terminal")
    for clip, target in zip(clips, targets, strict=True):
        saved = clip.save(target, overwrite=overwrite, keep_photo=keep_photo, scale=scale)
        typer.echo(saved)
        _say(f"{clip.label}; once more: svdkit replay {saved}", quiet=quiet)


@takes()
def replay(
    clip: Path,
    *,
    photo: str | None = None,
    model: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> None:
    """Make a saved clip again: same photo, same model, same settings, same seed.

    It also says how the new frames compare with the file's.
    A video holds compressed frames; a folder of frames (.png) holds them to the bit.

    Args:
        clip: A clip that svdkit saved: the video, its folder of frames or its JSON.
        photo: The photo it was made of, when that is not beside it.
        model: The model it was made with, when that was a folder or is unknown to svdkit.
        output: Where to; <clip>-replay.mp4 beside it when left out.
        overwrite: Replace files that are there.
        quiet: Print the file's name and errors only.
    """
    from svdkit.clip import Clip
    from svdkit.generate import replay as remake

    with judging_input():
        old, clip = Clip.read(clip), clip if clip.name else clip.absolute()  # "." has no name
        target = user_path(output or clip.with_name(f"{clip.stem.removesuffix('_frames')}-replay.mp4"))
        check_target(target, overwrite=overwrite)
    try:
        new = remake(old, photo=photo, model=model, progress=not quiet and "terminal")
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


def check_target(path: Path, *, overwrite: bool, num_bytes: int = 0) -> None:
    """Find out before minutes of work that a clip cannot be saved under a name, or is too large; a ClipError."""
    from svdkit.clip.storage import SUFFIXES, check_saving

    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ClipError(f"{path}: a clip is saved as .mp4, .webm, .webp, .gif or .png (a folder of frames)")
    if not path.parent.is_dir():
        raise ClipError(f"{path}: the folder {path.parent} is not there; create it first, or choose another --output")
    check_saving(path, num_bytes=num_bytes)
    main = path.with_name(f"{path.stem}_frames") if suffix == ".png" else path
    beside = (main, path.with_suffix(".json"), path.with_name(f"{path.stem}.photo.png"))
    there = [file.name for file in beside if file.exists()]
    if there and not overwrite:
        raise ClipError(f"{', '.join(there)} in {path.parent} would be replaced; give --overwrite or another --output")


def default_name(source: str | None) -> str:
    """Name a clip after its photo; an address may hold characters that no file name takes."""
    stem = re.sub(r"[^\w.-]+", "-", Path(source or "").stem).strip("-.")
    stem = stem.encode()[:200].decode(errors="ignore")  # files beside it have longer names, and 255 bytes are the most
    return f"{stem or 'clip'}.mp4"


def _say(text: str, *, quiet: bool) -> None:
    if not quiet:
        typer.echo(text, err=True)


@takes()
def sweep(
    file: Path,
    *,
    results: Path | None = None,
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    timeout: float = 3600,
    retry_failed: bool = False,
    forecast: bool | None = None,
    dry_run: bool = False,
) -> None:
    """Make the clips of a sweep file, and a table and a page that compare them.

    It can be stopped at any moment: the same command continues, and repeats nothing that ended.
    Exit code 1 when a run failed; its row says why.

    Args:
        file: YAML or JSON: photos, load, clip, axes, mode, exclude, results.
        results: Results folder; the file's own when left out.
        engine: local, or ray: every GPU of a machine or a cluster.
        address: Of the Ray cluster, for example auto; left out, Ray starts here.
        workers: For ray: how many; one a GPU when left out.
        timeout: Seconds for one run, and for one load.
        retry_failed: Run again what failed earlier.
        forecast: Time, memory and money before it starts; on, if the file does not say.
        dry_run: Check the file and print the plan only.
    """
    from svdkit.sweep import plan_sweep, read_sweep, run_sweep

    with judging_input():
        plan = plan_sweep(**read_sweep(file) | ({} if forecast is None else {"forecast": forecast}))
    typer.echo(str(plan), err=True)
    if dry_run:
        return
    words = ["svdkit", "sweep", _shown(file), *(["-o", _shown(results)] if results else [])]
    words += [] if engine == "local" else ["--engine", engine]
    found = run_sweep(
        plan,
        results=results,
        engine=engine,
        address=address,
        workers=workers,
        timeout_seconds=timeout,
        retry_failed=retry_failed,
        command=shlex.join(words),
    )
    typer.echo(str(found))
    if found.failed:
        raise typer.Exit(FAILED)


def _shown(path: Path) -> str:
    return path.name if path.is_absolute() else path.as_posix()  # an absolute path may name its user
