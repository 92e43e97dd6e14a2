"""Where weights come from: a folder, the hub through a mirror on this machine, ModelScope; and what can go wrong."""

from __future__ import annotations

import errno
import importlib.machinery
import shutil
import sys
import types

import huggingface_hub
import psutil
import pytest
from huggingface_hub import constants, errors

from svdkit.errors import (
    DownloadError,
    GatedModelError,
    IncompleteModelError,
    ModelError,
    SettingsError,
    UnsafeWeightsError,
    VariantError,
)
from svdkit.models import locate, weights
from tests.hub_server import COMMIT, serve
from tests.toy import write_hub_folder

XT = "stabilityai/stable-video-diffusion-img2vid-xt"
XT11 = f"{XT}-1-1"
VAE = "vae/diffusion_pytorch_model.fp16.safetensors"


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


def disk(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free))


def failing(monkeypatch, error):
    """Let a download fail; nothing was downloaded before."""

    def fail(*_, local_files_only=False, **__):
        raise errors.LocalEntryNotFoundError("nothing cached") if local_files_only else error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)


# Folders


def test_a_folder_is_located_where_it_is(toy_folder, tmp_path):
    assert locate(toy_folder) == toy_folder
    assert locate(str(toy_folder), source="folder") == toy_folder
    with pytest.raises(IncompleteModelError, match=r"lacks model_index\.json"):
        locate(tmp_path)


@pytest.mark.parametrize("source", ["hub", "modelscope"])
def test_a_folder_is_not_downloaded_and_a_name_is_no_folder(toy_folder, source):
    with pytest.raises(ModelError, match=rf"source='{source}' but 'toy' is a local folder: leave source='auto'"):
        locate(toy_folder, source=source)
    with pytest.raises(ModelError, match="source='folder' but 'svd-xt' is no folder: give the path of a folder"):
        locate("svd-xt", source="folder")


# The hub


def test_an_unknown_source_downloads_nothing():
    with pytest.raises(SettingsError, match="source 'torrent' is not known: give one of auto, folder, hub, modelscope"):
        locate("svd-xt", source="torrent")


def test_micro_without_weights_says_so(tmp_path, monkeypatch):
    """It is never downloaded, so another advice would lead nowhere."""
    monkeypatch.setattr("svdkit.models.info._MICRO_FOLDER", tmp_path)
    with pytest.raises(IncompleteModelError, match="built-in model 'micro' has no weights in this installation"):
        locate("micro")


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
        VAE,
    }
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == wanted
    assert mirror.downloads() == wanted
    assert (folder / "unet" / "config.json").read_bytes() == (toy_folder / "unet" / "config.json").read_bytes()


def test_a_second_load_needs_no_network_and_a_download_continues_where_it_stopped(mirror, monkeypatch):
    """What is there already needs no disk either."""
    folder = locate("svd-xt")
    mirror.asked.clear()
    assert locate("svd-xt") == folder
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        assert locate("svd-xt") == folder
    assert mirror.asked == []
    (folder / VAE).resolve().unlink()
    (folder / VAE).unlink()
    sizes, room = [], weights._room

    def spy(size, **more):
        sizes.append(size)
        return room(size, **more)

    monkeypatch.setattr(weights, "_room", spy)
    assert locate("svd-xt") == folder
    assert mirror.downloads() == {VAE}
    assert sizes == [(mirror.models[XT] / VAE).stat().st_size]


def test_a_revision_of_the_hub(mirror):
    assert locate("svd-xt", revision=COMMIT).name == COMMIT
    with pytest.raises(ModelError, match=f"{XT} has no revision 'v9': give a branch, tag or commit of it, or None"):
        locate("svd-xt", revision="v9")


def test_a_gated_model_says_what_to_do_and_never_shows_the_token(mirror, monkeypatch):
    with pytest.raises(GatedModelError) as caught:
        locate("svd-xt-1.1")
    text = str(caught.value)
    assert f"{XT11} is gated: no token is set; first accept the licence at https://huggingface.co/{XT11}" in text
    assert "Then set HF_TOKEN to a token from https://huggingface.co/settings/tokens" in text
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    with pytest.raises(GatedModelError, match="a token is set, but its account has not accepted the licence") as caught:
        locate("svd-xt-1.1")
    assert "verysecret" not in str(caught.value)


def test_a_hub_that_does_not_answer(mirror, monkeypatch):
    with pytest.raises(ModelError, match=f"{mirror.url} has no model 'someone/else', or it is private: check the name"):
        locate("someone/else")
    mirror.broken = True
    with pytest.raises(DownloadError, match=r"failed for .* \(HfHubHTTPError: Server error '503.*set HF_ENDPOINT to a"):
        locate("svd-xt")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"ConnectError.*Check the network .*'micro' needs no download"):
        locate("svd-xt")
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


def test_repositories_that_cannot_be_used(mirror, tmp_path):
    """Pickles, another layout, no weights: known by the names of their files."""
    toy = mirror.models[XT]
    mirror.models[XT] = shutil.copytree(toy, tmp_path / "pickles")
    for file in [*mirror.models[XT].glob("*/*.safetensors")]:
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(UnsafeWeightsError, match=f"{XT} has only pickle weights"):
        locate("svd-xt")
    mirror.models[XT] = shutil.copytree(toy, tmp_path / "no", ignore=lambda *_: ["vae", "unet"])
    with pytest.raises(ModelError, match="has no complete set of safetensors weights"):
        locate("svd-xt")
    (mirror.models[XT] / "model_index.json").unlink()
    with pytest.raises(ModelError, match=r"has no model_index\.json, so it is not in diffusers layout"):
        locate("svd-xt")
    assert mirror.downloads() == set()


NOWHERE = "downloads cannot be written to '.*': {}.* HF_HOME"


@pytest.mark.parametrize(
    ("raised", "expected", "text"),
    [
        (OSError(errno.ENOSPC, "x"), DownloadError, NOWHERE.format("the disk is full; free some space or use another")),
        (OSError(errno.EACCES, "x", "cache/blobs"), DownloadError, NOWHERE.format("you may not write there")),
        (RuntimeError("IO Error: Permission denied (os error 13)"), DownloadError, "you may not write there; use a"),
        (TimeoutError("read timed out"), weights._UnreachableError, "TimeoutError: read timed out"),
        (errors.LocalEntryNotFoundError("offline"), weights._UnreachableError, "LocalEntryNotFoundError: offline"),
        (PermissionError("read-only"), weights._UnreachableError, "read-only.*a folder that you downloaded yourself"),
    ],
)
def test_failures_in_the_middle_of_a_download(mirror, monkeypatch, raised, expected, text):
    failing(monkeypatch, raised)
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
    failing(monkeypatch, hidden)
    with pytest.raises(weights._UnreachableError):  # without a token it may be a firewall
        locate("svd-xt", source="hub")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(GatedModelError, match=r"refuses the token that is set.*Please enable access") as caught:
        locate("svd-xt")
    assert "hf_secret" not in str(caught.value)


# Room


def test_a_machine_that_is_too_small_is_found_first(mirror, tmp_path, monkeypatch):
    """Of a folder that is not there yet, the nearest one that is there is measured."""
    disk(monkeypatch, 2**20)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    needs = rf"svd-xt needs .* MiB of disk and '{tmp_path}' has 1\.0 MiB free: free some space, or set .* HF_HOME"
    with pytest.raises(DownloadError, match=needs):
        locate("svd-xt")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=2**20, total=2**34))
    with pytest.raises(DownloadError, match=r"loading svd-xt needs .* MiB of memory and 1\.0 MiB is free: close other"):
        locate("svd-xt")
    assert mirror.downloads() == set()


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


def test_modelscope_downloads_the_same_files(modelscope, monkeypatch, toy_folder):
    """What is there needs neither room nor network; the rest is downloaded where its own variable says."""
    disk(monkeypatch, 2**20)
    assert locate("svd-xt", source="modelscope", revision="v1") == toy_folder
    [(name, options)] = modelscope
    assert name == "AI-ModelScope/stable-video-diffusion-img2vid-xt"
    assert (options["revision"], options["local_files_only"]) == ("v1", True)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in options["allow_patterns"]

    def nothing_here(_, *, local_files_only=False, **__):
        if local_files_only:
            raise ValueError("not in the cache")
        return str(toy_folder)

    monkeypatch.setattr(sys.modules["modelscope"], "snapshot_download", nothing_here)
    with pytest.raises(DownloadError, match="set the environment variable MODELSCOPE_CACHE"):
        locate("svd-xt", source="modelscope")
    disk(monkeypatch, 2**60)
    assert locate("svd-xt", source="modelscope") == toy_folder


def test_modelscope_steps_in_where_the_hub_is_out_of_reach(modelscope, hub_cache, monkeypatch, toy_folder):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert locate("svd-xt", revision="a-branch-of-the-hub") == toy_folder
    assert modelscope[0][1]["revision"] is None


def test_modelscope_does_not_step_in_for_a_gated_model(modelscope, mirror):
    with pytest.raises(GatedModelError):
        locate("svd-xt-1.1")
    assert modelscope == []


def test_modelscope_that_cannot_help(modelscope, monkeypatch):
    with pytest.raises(ModelError, match=r"'svd-xt-1\.1' is not known on ModelScope"):
        locate("svd-xt-1.1", source="modelscope")

    def fail(*_, **__):
        raise RuntimeError("quota")

    monkeypatch.setattr(sys.modules["modelscope"], "snapshot_download", fail)
    with pytest.raises(DownloadError, match=r"ModelScope \(AI-.*\) failed: RuntimeError: quota\. Check the network"):
        locate("svd-xt", source="modelscope")
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(DownloadError, match="needs the modelscope package: run `pip install modelscope`"):
        locate("svd-xt", source="modelscope")
