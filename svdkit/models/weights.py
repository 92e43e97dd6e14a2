"""Where weights come from: a folder, the Hugging Face hub or a mirror of it, or ModelScope.

Only the files that svdkit loads are fetched: the hub's SVD repositories also hold two 9.5 GB single-file
checkpoints, and downloading everything overflows a cloud machine's 30 GB system disk.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

from svdkit.disk import REFUSALS, number_of, refusal
from svdkit.environment import free_ram
from svdkit.errors import (
    DownloadError,
    GatedModelError,
    IncompleteModelError,
    ModelError,
    SettingsError,
    UnsafeWeightsError,
    VariantError,
)
from svdkit.models.folder import PICKLE_SUFFIXES, STEMS, allow_patterns, check_folder
from svdkit.models.info import ModelInfo, find_model
from svdkit.units import format_bytes

_SOURCES = ("auto", "folder", "hub", "modelscope")


class _UnreachableError(DownloadError):
    """The hub or its mirror does not answer, so another source may be tried."""


def locate(
    model: str | Path | ModelInfo, *, source: str = "auto", revision: str | None = None, variant: str | None = "fp16"
) -> Path:
    """Find a model's folder on this machine, downloading what is missing of it.

    Args:
        model: catalogue name, folder, hub id, or what `find_model` returned.
        source: "folder" never downloads. "hub" is huggingface.co or, if the environment variable HF_ENDPOINT is set,
            that mirror; HF_TOKEN is sent, HF_HUB_OFFLINE=1 keeps to what was downloaded before. "modelscope" needs
            the modelscope package. "auto" takes the folder or the hub, and ModelScope if the hub cannot be reached.
        revision: branch, tag or commit at the source; None for its default branch.
        variant: "fp16", None for full precision (twice the download), "any" for fp16 where there is one.

    Returns:
        A folder in diffusers layout that `check_folder` accepts.

    Raises:
        ModelError: no such model or revision; DownloadError, GatedModelError, VariantError, IncompleteModelError and
            UnsafeWeightsError, its subclasses, say more.
        SettingsError: unknown source.

    Example:
        >>> locate("svd-xt")
        PosixPath('.../models--stabilityai--stable-video-diffusion-img2vid-xt/snapshots/9e43909513c6714f1bc7...')
    """
    if source not in _SOURCES:
        raise SettingsError(f"source {source!r} is not known: give one of {', '.join(_SOURCES)}")
    info = model if isinstance(model, ModelInfo) else find_model(model)
    folder = info.folder or _download(info, source=source, revision=revision, variant=variant)
    if info.folder and source in {"hub", "modelscope"}:
        raise ModelError(f"source={source!r} but {info.name!r} is a local folder: leave source='auto'")
    if info.name == "micro" and not (folder / "model_index.json").is_file():
        raise IncompleteModelError(
            "the built-in model 'micro' has no weights in this installation: install svdkit again, or get the weights "
            "with `git lfs pull` if they are git-lfs files in your clone"
        )
    check_folder(folder, variant=variant)
    return folder


def check_ram(ram_bytes: int, *, what: str) -> None:
    """Check that so much memory is free before loading takes it: a DownloadError, not a dead kernel."""
    free = free_ram()
    if free < ram_bytes:
        raise DownloadError(
            f"loading {what} needs {format_bytes(ram_bytes)} of memory and {format_bytes(free)} is free: close "
            "other programs, use a machine with more memory, or the built-in model 'micro'"
        )


def _check_room(download_bytes: int, *, folder: Path, what: str, variable: str = "HF_HOME") -> None:
    """Check disk and memory before a download; of a folder that is not there yet, the nearest parent is measured."""
    check_ram(download_bytes, what=what)
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    needed = int(download_bytes * 1.02) + (1 << 28)  # a full disk breaks more than the download: leave a little
    if free < needed:
        raise DownloadError(
            f"{what} needs {format_bytes(needed)} of disk and {str(place)!r} has {format_bytes(free)} free: free some "
            f"space, or set the environment variable {variable} to a folder on a larger disk and restart Python"
        )


def _download(info: ModelInfo, *, source: str, revision: str | None, variant: str | None) -> Path:
    if source == "folder":
        raise ModelError(
            f"source='folder' but {info.name!r} is no folder: give the path of a folder, or source='auto' to download"
        )
    if source == "modelscope":
        return _from_modelscope(info, revision=revision, variant=variant)
    try:
        return _cached(info, revision=revision, variant=variant) or _from_hub(info, revision=revision, variant=variant)
    except _UnreachableError:
        if source == "hub" or not info.modelscope_id or not importlib.util.find_spec("modelscope"):
            raise
        # A branch or commit of the hub means nothing on ModelScope.
        return _from_modelscope(info, revision=None, variant=variant)


def _from_modelscope(info: ModelInfo, *, revision: str | None, variant: str | None) -> Path:
    if info.modelscope_id is None:
        raise ModelError(
            f"{info.name!r} is not known on ModelScope: use source='hub', or download it and give the folder"
        )
    try:
        from modelscope import snapshot_download
    except ImportError:
        raise DownloadError(
            "source='modelscope' needs the modelscope package: run `pip install modelscope`, or use source='hub'"
        ) from None
    wanted = "fp16" if variant else None
    files = {"revision": revision, "allow_patterns": allow_patterns(wanted)}
    # What is complete here needs neither disk nor network; whatever is wrong otherwise, the download says.
    with contextlib.suppress(Exception):
        folder = Path(snapshot_download(info.modelscope_id, **files, local_files_only=True))
        check_folder(folder, variant=wanted)
        return folder
    place = Path(os.environ.get("MODELSCOPE_CACHE", Path.home()))
    size = info.weights_bytes * (1 if variant else 2)
    _check_room(size, folder=place, what=info.name, variable="MODELSCOPE_CACHE")
    try:
        return Path(snapshot_download(info.modelscope_id, **files))
    except Exception as error:
        if number_of(error) in REFUSALS:
            raise _refused(error, place=str(place), variable="MODELSCOPE_CACHE") from error
        raise DownloadError(
            f"ModelScope ({info.modelscope_id}) failed: {type(error).__name__}: {error}. Check the network and try "
            "again (a download continues where it stopped), or use source='hub'"
        ) from error


def _cached(info: ModelInfo, *, revision: str | None, variant: str | None) -> Path | None:
    """The folder of an earlier, complete download, found without the network."""
    from huggingface_hub import snapshot_download

    for wanted in ("fp16", None) if variant == "any" else (variant,):
        # If it fails, the download that follows says what is wrong, if it still is.
        with contextlib.suppress(OSError, ValueError, ModelError):
            files = {"allow_patterns": allow_patterns(wanted), "local_files_only": True}
            folder = Path(snapshot_download(info.hub_id, revision=revision, **files))
            check_folder(folder, variant=wanted)
            return folder
    return None


def _from_hub(info: ModelInfo, *, revision: str | None, variant: str | None) -> Path:
    """Ask the hub which files there are, choose, check the room for what is not here yet, and download."""
    from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise DownloadError(
            f"{info.name!r} is not, or not completely, on this machine and HF_HUB_OFFLINE is set: unset it and load "
            "once with a network, or give the path of a folder"
        )
    where: dict[str, Any] = {"repo_id": info.hub_id, "revision": revision}
    try:
        remote = HfApi(endpoint=_endpoint()).model_info(**where, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in remote.siblings}
        patterns = allow_patterns(_choose_variant(list(sizes), info=info, variant=variant))
        missing = [
            sizes[name]
            for name in filter_repo_objects(sizes, allow_patterns=patterns)
            if not isinstance(try_to_load_from_cache(info.hub_id, name, revision=remote.sha), str)
        ]
        _check_room(sum(missing), folder=Path(constants.HF_HUB_CACHE), what=info.name)
        return Path(snapshot_download(**where, allow_patterns=patterns, endpoint=_endpoint()))
    except ModelError:
        raise
    except Exception as error:
        raise _translate(error, info=info, revision=revision) from error


def _endpoint() -> str | None:
    """The mirror set now; huggingface_hub itself reads HF_ENDPOINT only once, when it is imported."""
    return (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None


def _choose_variant(names: list[str], *, info: ModelInfo, variant: str | None) -> str | None:
    """The variant to fetch, by the names of the repository's files, before any byte is downloaded."""
    from huggingface_hub.utils import filter_repo_objects

    if "model_index.json" not in names:
        raise ModelError(
            f"{info.hub_id} has no model_index.json, so it is not in diffusers layout: use a catalogue name, for "
            "example 'svd-xt', or another repository"
        )
    there = []
    for kind in ("fp16", None):
        wanted = filter_repo_objects(names, allow_patterns=allow_patterns(kind))
        if {name.partition("/")[0] for name in wanted if name.endswith(".safetensors")} == {*STEMS}:
            there.append(kind)
    if variant == "any" and there:
        return there[0]
    if variant in there:
        return variant
    if there:
        raise VariantError(
            f"{info.hub_id} has no {variant or 'full-precision'} weights, only {there[0] or 'full-precision'}: load "
            f"with variant={there[0]!r}, or use another repository"
        )
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    if pickles:
        raise UnsafeWeightsError(
            f"{info.hub_id} has only pickle weights ({pickles[0]}), which can run any code when opened; svdkit reads "
            "only .safetensors: use another repository, or ask its author for safetensors"
        )
    raise ModelError(f"{info.hub_id} has no complete set of safetensors weights: use another repository")


def _translate(error: Exception, *, info: ModelInfo, revision: str | None) -> ModelError:
    """A hub error as one of svdkit's, saying what to do."""
    from huggingface_hub import constants, errors, get_token

    where = _endpoint() or "https://huggingface.co"
    if isinstance(error, errors.GatedRepoError):
        token = "a token is set, but its account has not accepted" if get_token() else "no token is set; first accept"
        return GatedModelError(
            f"{info.hub_id} is gated: {token} the licence at https://huggingface.co/{info.hub_id}. Then set HF_TOKEN "
            "to a token from https://huggingface.co/settings/tokens (or run `hf auth login`) and load again"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{info.hub_id} has no revision {revision!r}: give a branch, tag or commit of it, or None")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(
            f"{where} has no model {info.hub_id!r}, or it is private: check the name, or set HF_TOKEN to a token that "
            "may read it"
        )
    # The hub's library hides a refusal in "check your connection": without a token it may be a firewall's, though.
    refusals = [one for one in (error, error.__cause__) if _status(one) in {401, 403}]
    if refusals and get_token():
        said = str(getattr(refusals[0], "server_message", None) or refusals[0]).partition("\n")[0]
        return GatedModelError(
            f"{where} refuses the token that is set, for {info.hub_id} ({said}). Make one that may read it at "
            "https://huggingface.co/settings/tokens (for a gated model with access to public gated repositories) and "
            "set HF_TOKEN to it; a public model needs none: unset HF_TOKEN"
        )
    if number_of(error) in REFUSALS:
        return _refused(error, place=constants.HF_HUB_CACHE, variable="HF_HOME")
    cause = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return _UnreachableError(
        f"{where} failed for {info.hub_id} ({cause}). Check the network and try again (a download continues where it "
        "stopped); where the hub is blocked set HF_ENDPOINT to a mirror, use source='modelscope', or give a folder "
        "that you downloaded yourself; 'micro' needs no download"
    )


def _refused(error: Exception, *, place: str, variable: str) -> DownloadError:
    """The error for a cache that cannot be written."""
    return DownloadError(
        f"downloads cannot be written to {place!r}: {refusal(error)}, or set the environment variable {variable} to a "
        "folder elsewhere and restart Python; a download continues where it stopped"
    )


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error of the hub's library came with."""
    return getattr(getattr(error, "response", None), "status_code", None)
