"""Where weights come from: a folder, the Hugging Face hub or a mirror of it, or ModelScope.

Only the files that svdkit loads are fetched: the hub's SVD repositories also hold two 9.5 GB single-file
checkpoints, and downloading everything overflows a cloud machine's 30 GB system disk.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.errors import DownloadError, IncompleteModelError, ModelError, SettingsError
from svdkit.models.folder import check_folder
from svdkit.models.hub import UnreachableError, cache_folder, cached, fetch, plan
from svdkit.models.info import ModelInfo, find_model
from svdkit.models.layout import allow_patterns
from svdkit.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCES = ("auto", "folder", "hub", "modelscope")


def locate(
    model: str | Path | ModelInfo,
    *,
    source: str = "auto",
    revision: str | None = None,
    variant: str | None = "fp16",
    ram_bytes: int | None = None,
) -> Path:
    """Find a model's folder on this machine, downloading what is missing of it.

    Args:
        model: catalogue name, folder, hub id, or what `find_model` returned.
        source: "folder" never downloads. "hub" is huggingface.co or, if the environment variable HF_ENDPOINT is set,
            that mirror; HF_TOKEN is sent, HF_HUB_OFFLINE=1 keeps to what was downloaded before. "modelscope" needs
            the modelscope package. "auto" takes the folder or the hub, and ModelScope if the hub cannot be reached.
        revision: branch, tag or commit at the source; None for its default branch.
        variant: "fp16", None for full precision (twice the download), "any" for fp16 where there is one.
        ram_bytes: memory that loading will need, checked before a download; None for as much as the download.

    Returns:
        A folder in diffusers layout that `check_folder` accepts.

    Raises:
        ModelError: the model or the revision does not exist; one of its subclasses says more.
        DownloadError: no network, an error at the source, or too little disk or memory.
        GatedModelError: the licence is not accepted, or no token is set.
        VariantError: the source has no such variant.
        IncompleteModelError: files are missing or cut short.
        UnsafeWeightsError: the source has pickle checkpoints only.
        SettingsError: unknown source.

    Example:
        >>> locate("svd-xt")
        PosixPath('.../models--stabilityai--stable-video-diffusion-img2vid-xt/snapshots/9e43909513c6714f1bc7...')
    """
    if source not in SOURCES:
        raise SettingsError(f"source {source!r} is not known: give one of {', '.join(SOURCES)}")
    info = model if isinstance(model, ModelInfo) else find_model(model)
    if info.folder is not None:
        return _from_folder(info, source=source, variant=variant)
    if source == "folder":
        raise ModelError(
            f"source='folder' but {info.name!r} is no folder: give the path of a folder, or source='auto' to download"
        )
    if source == "modelscope":
        return _from_modelscope(info, revision=revision, variant=variant, ram_bytes=ram_bytes)
    try:
        return _from_hub(info, revision=revision, variant=variant, ram_bytes=ram_bytes)
    except UnreachableError:
        if source == "auto" and info.modelscope_id and _installed("modelscope"):
            # A branch or commit of the hub means nothing on ModelScope.
            return _from_modelscope(info, revision=None, variant=variant, ram_bytes=ram_bytes)
        raise


def check_room(*, download_bytes: int, ram_bytes: int, folder: Path, what: str) -> None:
    """Check that a download fits on the disk and that loading it fits in memory, before either begins.

    Args:
        download_bytes: bytes still to fetch.
        ram_bytes: bytes that loading needs.
        folder: where the files go; its nearest existing parent is measured.
        what: name for the message.

    Raises:
        DownloadError: one of them is too small.

    Example:
        >>> check_room(download_bytes=10, ram_bytes=10, folder=Path.home(), what="micro")
    """
    import psutil

    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    # A full disk breaks more than the download: leave a little.
    needed = int(download_bytes * 1.02) + (1 << 28)
    if download_bytes and free < needed:
        raise DownloadError(
            f"{what} needs {format_bytes(needed)} of disk and {str(place)!r} has {format_bytes(free)} free: free some "
            "space, or set the environment variable HF_HOME to a folder on a larger disk and restart Python"
        )
    available = psutil.virtual_memory().available
    if available < ram_bytes:
        raise DownloadError(
            f"loading {what} needs {format_bytes(ram_bytes)} of memory and {format_bytes(available)} is free: close "
            "other programs, use a machine with more memory, or the built-in model 'micro'"
        )


def _from_folder(info: ModelInfo, *, source: str, variant: str | None) -> Path:
    assert info.folder is not None  # noqa: S101 - the caller has looked; this tells mypy
    if source in {"hub", "modelscope"}:
        raise ModelError(f"source={source!r} but {info.name!r} is a local folder: leave source='auto'")
    if info.name == "micro" and not (info.folder / "model_index.json").is_file():
        raise IncompleteModelError(
            "the built-in model 'micro' has no weights in this installation: install svdkit again, or get the weights "
            "with `git lfs pull` if they are git-lfs files in your clone"
        )
    check_folder(info.folder, variant=variant)
    return info.folder


def _from_hub(info: ModelInfo, *, revision: str | None, variant: str | None, ram_bytes: int | None) -> Path:
    earlier = cached(info, revision=revision, variant=variant)
    if earlier is not None:
        return earlier
    wanted = plan(info, revision=revision, variant=variant)
    needed = wanted.download_bytes if ram_bytes is None else ram_bytes
    check_room(download_bytes=wanted.download_bytes, ram_bytes=needed, folder=cache_folder(), what=info.name)
    folder = fetch(info, revision=revision, variant=wanted.variant)
    check_folder(folder, variant=wanted.variant)
    return folder


def _from_modelscope(info: ModelInfo, *, revision: str | None, variant: str | None, ram_bytes: int | None) -> Path:
    if info.modelscope_id is None:
        raise ModelError(
            f"{info.name!r} is not known on ModelScope: use source='hub', or download it and give the folder"
        )
    if not _installed("modelscope"):
        raise DownloadError(
            "source='modelscope' needs the modelscope package: run `pip install modelscope`, or use source='hub'"
        )
    from modelscope import snapshot_download

    wanted = "fp16" if variant == "any" else variant
    size = info.weights_bytes * (1 if wanted else 2)
    place = Path(os.environ.get("MODELSCOPE_CACHE", Path.home()))
    check_room(download_bytes=size, ram_bytes=size if ram_bytes is None else ram_bytes, folder=place, what=info.name)
    folder = _quote_failure(
        lambda: snapshot_download(info.modelscope_id, revision=revision, allow_patterns=allow_patterns(wanted)),
        source=f"ModelScope ({info.modelscope_id})",
    )
    check_folder(Path(folder), variant=wanted)
    return Path(folder)


def _quote_failure(download: Callable[[], Any], *, source: str) -> Any:
    try:
        return download()
    except Exception as error:
        raise DownloadError(
            f"{source} failed: {type(error).__name__}: {error}. Check the network and try again (a download continues "
            "where it stopped), or use source='hub'"
        ) from error


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
