"""A clip as something to use elsewhere: Python code, a sweep file, the bytes of its video."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.settings import LoadSettings

if TYPE_CHECKING:
    from svdkit.clip import Clip
    from svdkit.ui.photo_form import Photo

_UPLOAD = "photo.jpg"


def python_code(clip: Clip, photo: Photo, *, model: str) -> str:
    """Write the lines that make a clip again.

    Args:
        clip: From ``generate``.
        photo: What it was made of.
        model: As ``svdkit.load`` takes it: a record of a clip keeps only the last name of a folder.

    Example:
        >>> print(python_code(clip, photo, model="micro"))  # doctest: +SKIP
        import svdkit
        ...
    """
    assert clip.provenance is not None  # noqa: S101 - clips of generate have it
    comment = "" if photo.name else "  # where your upload is"
    how = f", fit_mode={photo.mode!r}, focus={photo.focus!r}"
    lines = (
        "import svdkit\n",
        f"pipe = {_load_call(clip.provenance.load, model)}",
        f"settings = {_call('svdkit.ClipSettings', clip.provenance.settings)}",
        f"photo = {(photo.name or _UPLOAD)!r}{comment}",
        f"clip = svdkit.generate(pipe, photo, settings{how})",
        'clip.save("clip.mp4")',
    )
    return "\n".join(lines) + "\n"


def sweep_file(clip: Clip, photo: Photo, *, model: str) -> str:
    """Write a file for ``svdkit sweep`` that varies motion and seed around a clip; the arguments are as above."""
    import yaml

    assert clip.provenance is not None  # noqa: S101 - clips of generate have it
    settings = dict(clip.provenance.settings)
    bucket, seed = settings.pop("motion_bucket_id"), settings.pop("seed")
    if not clip.provenance.load:
        return "# a sweep loads its model itself: it cannot use a pipeline that svdkit did not load\n"
    values = {
        "photos": [photo.name or _UPLOAD],
        "load": _changed(clip.provenance.load) | {"model": model},
        "clip": settings,
        "fit_mode": photo.mode,
        **({"focus": list(photo.focus)} if photo.mode == "crop" else {}),
        "axes": {
            "motion_bucket_id": sorted({max(1, bucket // 2), bucket, min(255, bucket * 3 // 2)}),
            "seed": [seed, seed + 1, seed + 2],
        },
        "results": "bench_results/from_panel",
    }
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None)
    upload = "" if photo.name else f"# {_UPLOAD} stands for your upload\n"
    return f"# svdkit sweep this_file.yml\n{upload}{text}"


def video_bytes(clip: Clip) -> bytes:
    """Give the clip as an mp4 that carries how it was made."""
    with tempfile.TemporaryDirectory() as folder:
        return clip.save(Path(folder) / "clip.mp4", keep_photo=False).read_bytes()


def _changed(load: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is as ``load`` chooses by itself."""
    usual = LoadSettings().to_dict()
    return {name: value for name, value in load.items() if name == "model" or value != usual.get(name)}


def _load_call(load: dict[str, Any], model: str) -> str:
    if not load:
        return "...  # your own pipeline, which svdkit did not load"
    values = {name: value for name, value in _changed(load).items() if name != "model"}
    rest = "".join(f", {name}={value!r}" for name, value in values.items())
    return f"svdkit.load({model!r}{rest})"


def _call(name: str, values: dict[str, Any]) -> str:
    lines = "".join(f"    {key}={value!r},\n" for key, value in values.items())
    return f"{name}(\n{lines})"
