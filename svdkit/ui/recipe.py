"""A clip as something to use elsewhere: Python code, a sweep file, the bytes of its video."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.settings import LoadSettings

if TYPE_CHECKING:
    from svdkit.clip import Clip

_UPLOAD = "photo.jpg"


def python_code(clip: Clip, *, photo: str, fit: dict[str, Any]) -> str:
    """Write the lines that make a clip again.

    Args:
        clip: From ``generate``.
        photo: A sample, a path or an address; empty for an upload, whose name stays with its owner.
        fit: ``fit_mode`` and ``focus``.

    Example:
        >>> print(python_code(clip, photo="rocket", fit={"fit_mode": "crop"}))  # doctest: +SKIP
        import svdkit
        ...
    """
    assert clip.provenance is not None  # noqa: S101 - clips of generate have it
    comment = "" if photo else "  # where your upload is"
    how = "".join(f", {name}={value!r}" for name, value in fit.items())
    lines = (
        "import svdkit\n",
        f"pipe = {_load_call(clip.provenance.load)}",
        f"settings = {_call('svdkit.ClipSettings', clip.provenance.settings)}",
        f"photo = {(photo or _UPLOAD)!r}{comment}",
        f"clip = svdkit.generate(pipe, photo, settings{how})",
        'clip.save("clip.mp4")',
    )
    return "\n".join(lines) + "\n"


def sweep_file(clip: Clip, *, photo: str, fit: dict[str, Any]) -> str:
    """Write a file for ``svdkit sweep`` that varies motion and seed around a clip; the arguments are as above."""
    import yaml

    assert clip.provenance is not None  # noqa: S101 - clips of generate have it
    settings = dict(clip.provenance.settings)
    bucket, seed = settings.pop("motion_bucket_id"), settings.pop("seed")
    if not clip.provenance.load:
        return "# a sweep loads its model itself: it cannot use a pipeline that svdkit did not load\n"
    values = {
        "photos": [photo or _UPLOAD],
        "load": _changed(clip.provenance.load),
        "clip": settings,
        "fit_mode": fit["fit_mode"],
        "focus": list(fit["focus"]),
        "axes": {
            "motion_bucket_id": sorted({max(1, bucket // 2), bucket, min(255, bucket * 3 // 2)}),
            "seed": [seed, seed + 1, seed + 2],
        },
        "results": "bench_results/from_panel",
    }
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return f"# svdkit sweep this_file.yml\n{text}"


def video_bytes(clip: Clip) -> bytes:
    """Give the clip as an mp4 that carries how it was made."""
    with tempfile.TemporaryDirectory() as folder:
        return clip.save(Path(folder) / "clip.mp4", keep_photo=False).read_bytes()


def _changed(load: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is as ``load`` chooses by itself."""
    usual = LoadSettings().to_dict()
    return {name: value for name, value in load.items() if name == "model" or value != usual.get(name)}


def _load_call(load: dict[str, Any]) -> str:
    if not load:
        return "...  # your own pipeline, which svdkit did not load"
    values = {name: value for name, value in _changed(load).items() if name != "model"}
    rest = "".join(f", {name}={value!r}" for name, value in values.items())
    return f"svdkit.load({load.get('model', 'micro')!r}{rest})"


def _call(name: str, values: dict[str, Any]) -> str:
    lines = "".join(f"    {key}={value!r},\n" for key, value in values.items())
    return f"{name}(\n{lines})"
