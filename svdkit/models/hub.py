"""The Hugging Face hub and its mirrors: what is downloaded already, what a download takes, and what went wrong."""

from __future__ import annotations

import errno
import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from svdkit.errors import DownloadError, GatedModelError, ModelError, UnsafeWeightsError, VariantError
from svdkit.models.files import PICKLE_SUFFIXES
from svdkit.models.folder import check_folder
from svdkit.models.layout import STEMS, allow_patterns

if TYPE_CHECKING:
    from svdkit.models.info import ModelInfo

# huggingface_hub's network layer was requests, then httpx, then httpx2; their errors reach its callers.
_NETWORK_LIBRARIES = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2"}


class UnreachableError(DownloadError):
    """The hub or its mirror does not answer, so another source may be tried."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a download will take.

    Attributes:
        variant: "fp16", or None for full precision.
        download_bytes: bytes that are not on this machine yet.
    """

    variant: str | None
    download_bytes: int


def cached(info: ModelInfo, *, revision: str | None, variant: str | None) -> Path | None:
    """The folder of an earlier, complete download, found without the network; None if there is none."""
    from huggingface_hub import snapshot_download

    for wanted in ("fp16", None) if variant == "any" else (variant,):
        try:
            folder = Path(
                snapshot_download(
                    _repository(info), revision=revision, allow_patterns=allow_patterns(wanted), local_files_only=True
                )
            )
            check_folder(folder, variant=wanted)
        except (OSError, ValueError, ModelError):
            continue  # the download that follows says what is wrong, if it still is
        return folder
    return None


def plan(info: ModelInfo, *, revision: str | None, variant: str | None) -> Plan:
    """Ask the hub which files a model has, and choose what to fetch.

    Args:
        info: with a hub id.
        revision: branch, tag or commit; None for the default branch.
        variant: "fp16", None, or "any" for fp16 if there is one.

    Raises:
        ModelError: as `locate` says, by its subclasses too.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    if _offline():
        raise DownloadError(
            f"{info.name!r} is not, or not completely, on this machine and HF_HUB_OFFLINE is set: unset it and load "
            "once with a network, or give the path of a folder"
        )
    repository = _repository(info)
    try:
        remote = HfApi(endpoint=_endpoint()).model_info(repository, revision=revision, files_metadata=True)
    except Exception as error:
        raise _translate(error, info=info, revision=revision) from error
    sizes = {file.rfilename: file.size or 0 for file in remote.siblings or ()}
    chosen = _choose_variant(sizes, info=info, variant=variant)
    to_fetch = [
        name
        for name in _matching(sizes, allow_patterns(chosen))
        if not isinstance(try_to_load_from_cache(repository, name, revision=remote.sha), str)
    ]
    return Plan(variant=chosen, download_bytes=sum(sizes[name] for name in to_fetch))


def fetch(info: ModelInfo, *, revision: str | None, variant: str | None) -> Path:
    """Download the files of one variant into the hub's cache, showing the hub's own progress bars.

    Raises:
        ModelError: as `locate` says, by its subclasses too.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                _repository(info), revision=revision, allow_patterns=allow_patterns(variant), endpoint=_endpoint()
            )
        )
    except Exception as error:
        raise _translate(error, info=info, revision=revision) from error


def cache_folder() -> Path:
    """Where the hub's downloads go."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _repository(info: ModelInfo) -> str:
    if info.hub_id is None:
        raise ModelError(f"{info.name!r} is not on the hub: use its folder")
    return info.hub_id


def _endpoint() -> str | None:
    """The mirror set now; huggingface_hub itself reads HF_ENDPOINT only once, when it is imported."""
    return (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _choose_variant(sizes: dict[str, int], *, info: ModelInfo, variant: str | None) -> str | None:
    """The variant to fetch, checked against the names in the repository before any byte is downloaded."""
    if "model_index.json" not in sizes:
        raise ModelError(
            f"{info.hub_id} has no model_index.json, so it is not in diffusers layout: use a catalogue name, for "
            "example 'svd-xt', or another repository"
        )
    there = [kind for kind in ("fp16", None) if all(_has_weights(sizes, network, kind) for network in STEMS)]
    if variant == "any" and there:
        return there[0]
    if variant in there:
        return variant
    if there:
        raise VariantError(
            f"{info.hub_id} has no {variant or 'full-precision'} weights, only {there[0] or 'full-precision'}: load "
            f"with variant={there[0]!r}, or use another repository"
        )
    pickles = [name for name in sizes if name.endswith(PICKLE_SUFFIXES)]
    if pickles:
        raise UnsafeWeightsError(
            f"{info.hub_id} has only pickle weights ({pickles[0]}), which can run any code when opened; svdkit reads "
            "only .safetensors: use another repository, or ask its author for safetensors"
        )
    raise ModelError(f"{info.hub_id} has no complete set of safetensors weights: use another repository")


def _has_weights(sizes: dict[str, int], network: str, variant: str | None) -> bool:
    mine = [pattern for pattern in allow_patterns(variant) if pattern.startswith(f"{network}/{STEMS[network]}")]
    return any(name.endswith(".safetensors") for name in _matching(sizes, mine))


def _matching(sizes: dict[str, int], patterns: list[str]) -> list[str]:
    return [name for name in sizes if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _translate(error: Exception, *, info: ModelInfo, revision: str | None) -> ModelError:
    """A hub error as one of svdkit's, saying what to do."""
    from huggingface_hub import errors, get_token

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
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DownloadError(
            f"the disk of {str(cache_folder())!r} is full: free some space, or set the environment variable HF_HOME to "
            "a folder on a larger disk; the download then continues where it stopped"
        )
    cause = str(error).splitlines()[0] if str(error) else ""
    said = f"{where} failed for {info.hub_id} ({type(error).__name__}: {cause})"
    if _is_network(error):
        return UnreachableError(
            f"{said}. Check the network; where the hub is blocked set HF_ENDPOINT to a mirror or use "
            "source='modelscope'. A download continues where it stopped; 'micro' needs none"
        )
    return DownloadError(f"{said}. Try again, or download it yourself and give the folder")


def _is_network(error: Exception) -> bool:
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        status = getattr(error.response, "status_code", None)
        return status is None or status >= 500
    known = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError)
    return isinstance(error, known) or type(error).__module__.split(".")[0] in _NETWORK_LIBRARIES
