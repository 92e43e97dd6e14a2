"""Where weights come from: a folder, the Hugging Face hub or a mirror of it, or ModelScope.

Only the files that svdkit loads are fetched: the hub's SVD repositories also hold two 9.5 GB single-file
checkpoints, and downloading everything overflows a cloud machine's 30 GB system disk.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from svdkit.disk import REFUSALS, number_of, refusal
from svdkit.environment import free_ram
from svdkit.errors import DownloadError, GatedModelError, IncompleteModelError, ModelError, SettingsError
from svdkit.models.folder import INDEX, STEMS, VARIANTS, allow_patterns, check_folder, pick_variant
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
    info = find_model(model)
    folder = info.folder
    if folder and source in {"hub", "modelscope"}:
        raise ModelError(f"source={source!r} but {info.name!r} is a local folder: leave source='auto'")
    if not folder and source == "folder":
        raise ModelError(
            f"source='folder' but {info.name!r} is no folder: give the path of a folder, or source='auto' to download"
        )
    if not folder and source != "modelscope":
        try:
            folder = _from_hub(info, revision=revision, variant=variant)
        except _UnreachableError:
            if source == "hub" or not info.modelscope_id or not importlib.util.find_spec("modelscope"):
                raise
            revision = None  # a branch or commit of the hub means nothing on ModelScope
    folder = folder or _from_modelscope(info, revision=revision, variant=variant)
    if info.name == "micro" and not (folder / INDEX).is_file():
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


@contextlib.contextmanager
def _room(size: int, *, place: Path, variable: str, what: str) -> Iterator[None]:
    """Check memory and disk before a download of so many bytes, and say what the disk refuses while it runs."""
    check_ram(size, what=what)
    there = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(there).free
    needed = int(size * 1.02) + (1 << 28)  # a full disk breaks more than the download: leave a little
    if free < needed:
        raise DownloadError(
            f"{what} needs {format_bytes(needed)} of disk and {str(there)!r} has {format_bytes(free)} free: free some "
            f"space, or set the environment variable {variable} to a folder on a larger disk and restart Python"
        )
    try:
        yield
    except Exception as error:
        if number_of(error) not in REFUSALS:
            raise
        raise DownloadError(
            f"downloads cannot be written to {str(place)!r}: {refusal(error)}, or set the environment variable "
            f"{variable} to a folder elsewhere and restart Python; a download continues where it stopped"
        ) from error


def _here(snapshot_download: Any, repository: str | None, *, revision: str | None, variant: str | None) -> Path | None:
    """The folder of an earlier, complete download, found without the network; both hubs' libraries ask alike."""
    for wanted in VARIANTS if variant == "any" else (variant,):
        # Whatever is wrong, the download that follows says, if it still is.
        with contextlib.suppress(Exception):
            files = {"allow_patterns": allow_patterns(wanted), "local_files_only": True}
            folder = Path(snapshot_download(repository, revision=revision, **files))
            check_folder(folder, variant=wanted)
            return folder
    return None


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
    if folder := _here(snapshot_download, info.modelscope_id, revision=revision, variant=variant):
        return folder
    place, size = Path(os.environ.get("MODELSCOPE_CACHE", Path.home())), info.weights_bytes * (1 if variant else 2)
    try:
        with _room(size, place=place, variable="MODELSCOPE_CACHE", what=info.name):
            patterns = allow_patterns("fp16" if variant else None)
            return Path(snapshot_download(info.modelscope_id, revision=revision, allow_patterns=patterns))
    except ModelError:
        raise
    except Exception as error:
        raise DownloadError(
            f"ModelScope ({info.modelscope_id}) failed: {type(error).__name__}: {error}. Check the network and try "
            "again (a download continues where it stopped), or use source='hub'"
        ) from error


def _from_hub(info: ModelInfo, *, revision: str | None, variant: str | None) -> Path:
    """Find an earlier download, or ask the hub which files there are, choose, check the room, and download."""
    from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects

    if folder := _here(snapshot_download, info.hub_id, revision=revision, variant=variant):
        return folder
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise DownloadError(
            f"{info.name!r} is not, or not completely, on this machine and HF_HUB_OFFLINE is set: unset it and load "
            "once with a network, or give the path of a folder"
        )
    endpoint = _endpoint()
    try:
        remote = HfApi(endpoint=endpoint).model_info(info.hub_id, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in remote.siblings}
        if INDEX not in sizes:
            raise ModelError(  # noqa: TRY301 - passed on below
                f"{info.hub_id} has no model_index.json, so it is not in diffusers layout: use a catalogue name, for "
                "example 'svd-xt', or another repository"
            )
        files = {kind: [*filter_repo_objects(sizes, allow_patterns=allow_patterns(kind))] for kind in VARIANTS}
        weights = {
            kind: {Path(name).parts[0] for name in files[kind] if name.endswith("safetensors")} for kind in files
        }
        nothing = f"{info.hub_id} has no complete set of safetensors weights: use another repository"
        there = [kind for kind in VARIANTS if weights[kind] == {*STEMS}]
        wanted = files[pick_variant(variant, there, names=sizes, where=f"{info.hub_id}", nothing=nothing)]
        here = (try_to_load_from_cache(info.hub_id, name, revision=remote.sha) for name in wanted)
        missing = sum(sizes[name] for name, path in zip(wanted, here, strict=True) if not isinstance(path, str))
        with _room(missing, place=Path(constants.HF_HUB_CACHE), variable="HF_HOME", what=info.name):
            return Path(snapshot_download(info.hub_id, revision=revision, allow_patterns=wanted, endpoint=endpoint))
    except ModelError:
        raise
    except Exception as error:
        raise _translate(error, info=info, revision=revision) from error


def _endpoint() -> str | None:
    """The mirror set now; huggingface_hub itself reads HF_ENDPOINT only once, when it is imported."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _translate(error: Exception, *, info: ModelInfo, revision: str | None) -> ModelError:
    """A hub error as one of svdkit's, saying what to do."""
    from huggingface_hub import errors, get_token

    where = _endpoint() or "https://huggingface.co"
    # The hub's library hides a refusal in "check your connection": without a token it may be a firewall's, though.
    refused = [
        one
        for one in (error, error.__cause__)
        if getattr(getattr(one, "response", None), "status_code", 0) in {401, 403}
    ]
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
    if refused and get_token():
        said = str(getattr(refused[0], "server_message", None) or refused[0]).partition("\n")[0]
        return GatedModelError(
            f"{where} refuses the token that is set, for {info.hub_id} ({said}). Make one that may read it at "
            "https://huggingface.co/settings/tokens (for a gated model with access to public gated repositories) and "
            "set HF_TOKEN to it; a public model needs none: unset HF_TOKEN"
        )
    cause = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return _UnreachableError(
        f"{where} failed for {info.hub_id} ({cause}). Check the network and try again (a download continues where it "
        "stopped); where the hub is blocked set HF_ENDPOINT to a mirror, use source='modelscope', or give a folder "
        "that you downloaded yourself; 'micro' needs no download"
    )
