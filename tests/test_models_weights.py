"""Where weights come from: a folder, the hub through a mirror on this machine, ModelScope; and what can go wrong."""

from __future__ import annotations

import contextlib
import errno
import importlib.machinery
import shutil
import sys
import types
from typing import NamedTuple

import huggingface_hub
import psutil
import pytest
from huggingface_hub import constants, errors

from svdkit.errors import (
    DownloadError,
    GatedModelError,
    IncompleteModelError,
    ModelError,
    UnsafeWeightsError,
    VariantError,
)
from svdkit.models import locate, weights
from tests.hub_server import COMMIT, serve
from tests.toy import write_hub_folder

XT = "stabilityai/stable-video-diffusion-img2vid-xt"
XT11 = f"{XT}-1-1"


class Usage(NamedTuple):
    """What shutil.disk_usage returns."""

    total: int
    used: int
    free: int


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory):
    folder = write_hub_folder(tmp_path_factory.mktemp("models") / "toy")
    # What the real repository also holds, and nobody needs.
    (folder / "svd_xt.safetensors").write_bytes(b"9.5 GB in truth")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"full precision")
    (folder / "README.md").write_text("# SVD", encoding="utf-8")
    return folder


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty hub cache, no token, and no endpoint or offline mode left over from the machine."""
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


@pytest.fixture
def mirror(hub_cache, toy_folder, monkeypatch):
    """A hub mirror with svd-xt, and svd-xt-1.1 behind a licence; HF_ENDPOINT is set after the import, as users do."""
    with serve({XT: toy_folder, XT11: toy_folder}) as server:
        server.gated.add(XT11)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


# Folders


def test_a_folder_is_located_where_it_is(toy_folder):
    assert locate(toy_folder) == toy_folder
    assert locate(str(toy_folder), source="folder") == toy_folder


def test_a_bad_folder_is_not_located(tmp_path):
    with pytest.raises(IncompleteModelError, match=r"lacks model_index\.json"):
        locate(tmp_path)


@pytest.mark.parametrize("source", ["hub", "modelscope"])
def test_a_folder_is_not_downloaded(toy_folder, source):
    with pytest.raises(ModelError, match=rf"source='{source}' but 'toy' is a local folder: leave source='auto'"):
        locate(toy_folder, source=source)


def test_a_name_is_no_folder():
    with pytest.raises(ModelError, match="source='folder' but 'svd-xt' is no folder: give the path of a folder"):
        locate("svd-xt", source="folder")


# The hub


def test_a_download_takes_only_what_is_needed(mirror, toy_folder):
    folder = locate("svd-xt")
    assert folder.name == COMMIT
    wanted = {
        "model_index.json",
        "feature_extractor/preprocessor_config.json",
        "scheduler/scheduler_config.json",
        *(f"{network}/config.json" for network in ("image_encoder", "unet", "vae")),
        "image_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == wanted
    assert mirror.downloads() == wanted
    assert (folder / "unet" / "config.json").read_bytes() == (toy_folder / "unet" / "config.json").read_bytes()


def test_a_second_load_needs_no_network(mirror, monkeypatch):
    first = locate("svd-xt")
    mirror.asked.clear()
    assert locate("svd-xt") == first
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert locate("svd-xt") == first
    assert mirror.asked == []


def test_a_download_continues_where_it_stopped(mirror):
    folder = locate("svd-xt")
    lost = folder / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    lost.resolve().unlink()
    lost.unlink()
    mirror.asked.clear()
    assert locate("svd-xt") == folder
    assert mirror.downloads() == {"vae/diffusion_pytorch_model.fp16.safetensors"}


def test_a_revision_of_the_hub(mirror):
    assert locate("svd-xt", revision=COMMIT).name == COMMIT
    with pytest.raises(ModelError, match=f"{XT} has no revision 'v9': give a branch, tag or commit of it, or None"):
        locate("svd-xt", revision="v9")


def test_a_gated_model_without_a_token(mirror):
    with pytest.raises(GatedModelError) as caught:
        locate("svd-xt-1.1")
    text = str(caught.value)
    assert f"{XT11} is gated: no token is set; first accept the licence at https://huggingface.co/{XT11}" in text
    assert "Then set HF_TOKEN to a token from https://huggingface.co/settings/tokens" in text


def test_a_gated_model_with_a_token_never_shows_it(mirror, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    with pytest.raises(GatedModelError, match="a token is set, but its account has not accepted the licence") as caught:
        locate("svd-xt-1.1")
    assert "verysecret" not in str(caught.value)


def test_an_unknown_repository(mirror):
    with pytest.raises(ModelError, match=f"{mirror.url} has no model 'someone/else', or it is private: check the name"):
        locate("someone/else")


def test_a_mirror_that_is_down(mirror):
    mirror.broken = True
    with pytest.raises(DownloadError, match=r"failed for .* \(HfHubHTTPError: Server error '503.*set HF_ENDPOINT to a"):
        locate("svd-xt")


def test_no_network(hub_cache, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"ConnectError.*Check the network .*'micro' needs no download"):
        locate("svd-xt")


def test_offline_and_not_downloaded(hub_cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="is not, or not completely, on this machine and HF_HUB_OFFLINE is set"):
        locate("svd-xt")


def test_a_missing_variant_is_known_before_a_byte_is_fetched(mirror, tmp_path):
    mirror.models[XT] = write_hub_folder(tmp_path / "full", variant=None)
    with pytest.raises(VariantError, match=f"{XT} has no fp16 weights, only full-precision: load with variant=None"):
        locate("svd-xt")
    assert mirror.downloads() == set()
    assert (locate("svd-xt", variant="any") / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def test_shards_are_downloaded_with_their_index(mirror, tmp_path):
    mirror.models[XT] = write_hub_folder(tmp_path / "sharded", sharded=True)
    names = {file.name for file in (locate("svd-xt") / "unet").iterdir()}
    assert "diffusion_pytorch_model.safetensors.index.fp16.json" in names
    assert "diffusion_pytorch_model.safetensors" not in names
    assert sum("-of-" in name for name in names) > 1


def test_a_repository_of_pickles_is_refused(mirror, tmp_path):
    mirror.models[XT] = folder = shutil.copytree(mirror.models[XT], tmp_path / "pickles")
    for file in [*folder.glob("*/*.safetensors")]:
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(UnsafeWeightsError, match=f"{XT} has only pickle weights"):
        locate("svd-xt")
    assert mirror.downloads() == set()


def test_a_repository_in_another_layout(mirror, tmp_path):
    (tmp_path / "svd_xt.safetensors").touch()
    mirror.models[XT] = tmp_path
    with pytest.raises(ModelError, match=r"has no model_index\.json, so it is not in diffusers layout"):
        locate("svd-xt")


def test_a_repository_without_weights(mirror, tmp_path):
    mirror.models[XT] = shutil.copytree(mirror.models[XT], tmp_path / "no", ignore=lambda *_: ["vae", "unet"])
    with pytest.raises(ModelError, match="has no complete set of safetensors weights"):
        locate("svd-xt")


@pytest.mark.parametrize(
    ("raised", "expected", "text"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            DownloadError,
            "is full; free some space or use another disk, or set .* HF_HOME",
        ),
        (RuntimeError("IO Error: Permission denied (os error 13)"), DownloadError, "you may not write there; use a"),
        *(
            (
                OSError(number, "x", "cache/blobs"),
                DownloadError,
                f"downloads cannot be written to '.*': {why}.* HF_HOME",
            )
            for number, why in [
                (errno.EDQUOT, "your disk quota is used up; free some space or use another disk, or set"),
                (errno.EROFS, "that disk is read-only"),
                (errno.EACCES, "you may not write there"),
                (errno.ENOTDIR, "a part of that path is a file, not a folder"),
            ]
        ),
        (TimeoutError("read timed out"), weights._UnreachableError, "TimeoutError: read timed out"),
        (errors.LocalEntryNotFoundError("offline"), weights._UnreachableError, "LocalEntryNotFoundError: offline"),
        (PermissionError("read-only"), weights._UnreachableError, "read-only.*a folder that you downloaded yourself"),
    ],
)
def test_failures_in_the_middle_of_a_download(mirror, monkeypatch, raised, expected, text):
    def fail(*_, local_files_only=False, **__):
        raise errors.LocalEntryNotFoundError("nothing cached") if local_files_only else raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(DownloadError, match=text) as caught:
        locate("svd-xt", source="hub")
    assert type(caught.value) is expected
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_is_said_and_not_called_the_network(mirror, monkeypatch, status):
    """The hub's library hides it in "check your connection"; ModelScope must not step in silently."""

    class RefusedError(Exception):
        response = types.SimpleNamespace(status_code=status)
        server_message = "Please enable access to public gated repositories in your fine-grained token settings."

    hidden = errors.LocalEntryNotFoundError("check your connection")
    hidden.__cause__ = RefusedError("Client Error")

    def fail(*_, local_files_only=False, **__):
        raise errors.LocalEntryNotFoundError("nothing cached") if local_files_only else hidden

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(weights._UnreachableError):  # without a token it may be a firewall
        locate("svd-xt", source="hub")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(GatedModelError, match=r"refuses the token that is set.*Please enable access") as caught:
        locate("svd-xt")
    assert "hf_secret" not in str(caught.value)


# Room


def test_a_disk_that_is_too_small_is_found_first(mirror, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 9, 2**20))
    with pytest.raises(DownloadError, match=r"svd-xt needs .* MiB of disk and .* has 1\.0 MiB free: free some space"):
        locate("svd-xt")
    assert mirror.downloads() == set()


def test_what_is_there_already_needs_no_disk(mirror, monkeypatch):
    folder = locate("svd-xt")
    (folder / "unet" / "config.json").unlink()
    sizes = []
    monkeypatch.setattr(weights, "_room", lambda size, **_: sizes.append(size) or contextlib.nullcontext())
    locate("svd-xt")
    assert sizes == [(mirror.models[XT] / "unet" / "config.json").stat().st_size]


def test_memory_that_is_too_small_is_found_first(mirror, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=2**20))
    with pytest.raises(DownloadError, match=r"loading svd-xt needs .* MiB of memory and 1\.0 MiB is free: close other"):
        locate("svd-xt")
    assert mirror.downloads() == set()


def test_room_is_measured_on_the_nearest_folder_there_is(tmp_path, monkeypatch):
    asked = []

    def disk_usage(path):
        asked.append(path)
        return Usage(2**60, 0, 2**60)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    with weights._room(1, place=tmp_path / "not" / "yet", variable="HF_HOME", what="svd"):
        pass
    assert asked == [tmp_path]


# ModelScope


@pytest.fixture
def modelscope(monkeypatch, toy_folder):
    """A stand-in for the modelscope package; it records its calls."""
    calls = []

    def snapshot_download(name, **options):
        calls.append((name, options))
        return str(toy_folder)

    package = types.ModuleType("modelscope")
    package.__spec__ = importlib.machinery.ModuleSpec("modelscope", loader=None)
    vars(package)["snapshot_download"] = snapshot_download
    monkeypatch.setitem(sys.modules, "modelscope", package)
    return calls


def test_modelscope_downloads_the_same_files(modelscope, toy_folder):
    assert locate("svd-xt", source="modelscope", revision="v1") == toy_folder
    [(name, options)] = modelscope
    assert name == "AI-ModelScope/stable-video-diffusion-img2vid-xt"
    assert options["revision"] == "v1"
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in options["allow_patterns"]


def test_modelscope_needs_no_room_for_what_is_there(modelscope, monkeypatch, toy_folder):
    """Nor the network; what is not there is downloaded, where there is room, which its own variable moves."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 9, 2**20))
    assert locate("svd-xt", source="modelscope") == toy_folder
    assert [options["local_files_only"] for _, options in modelscope] == [True]

    def nothing_here(_, *, local_files_only=False, **__):
        if local_files_only:
            raise ValueError("not in the cache")
        return str(toy_folder)

    monkeypatch.setattr(sys.modules["modelscope"], "snapshot_download", nothing_here)
    with pytest.raises(DownloadError, match="set the environment variable MODELSCOPE_CACHE"):
        locate("svd-xt", source="modelscope")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**60, 0, 2**60))
    assert locate("svd-xt", source="modelscope") == toy_folder


def test_modelscope_steps_in_where_the_hub_is_out_of_reach(modelscope, hub_cache, monkeypatch, toy_folder):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert locate("svd-xt", revision="a-branch-of-the-hub") == toy_folder
    assert modelscope[0][1]["revision"] is None


def test_modelscope_does_not_step_in_for_a_gated_model(modelscope, mirror):
    with pytest.raises(GatedModelError):
        locate("svd-xt-1.1")
    assert modelscope == []


def test_modelscope_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(DownloadError, match="needs the modelscope package: run `pip install modelscope`"):
        locate("svd-xt", source="modelscope")


def test_modelscope_does_not_have_every_model():
    with pytest.raises(ModelError, match=r"'svd-xt-1\.1' is not known on ModelScope"):
        locate("svd-xt-1.1", source="modelscope")


def test_modelscope_failures_are_quoted(modelscope, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("quota")

    monkeypatch.setattr(sys.modules["modelscope"], "snapshot_download", fail)
    with pytest.raises(DownloadError, match=r"ModelScope \(AI-.*\) failed: RuntimeError: quota\. Check the network"):
        locate("svd-xt", source="modelscope")
