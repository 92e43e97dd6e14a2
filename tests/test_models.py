"""The catalogue, and what a good model folder is. No torch is needed for any of it but making the toy folder."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil

import pytest

from svdkit.errors import IncompleteModelError, ModelError, UnsafeWeightsError, VariantError
from svdkit.models import ModelInfo, catalogue, find_model
from svdkit.models.folder import allow_patterns, check_folder, fingerprint, half_precision
from svdkit.models.info import describe_folder
from tests.toy import write_hub_folder

NETWORKS = ("image_encoder", "unet", "vae")
XT = "stable-video-diffusion-img2vid-xt"
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"
VAE = "vae/diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """One toy in the hub's layout for the whole file; tests that change files take a copy."""
    return write_hub_folder(tmp_path_factory.mktemp("models") / "my-svd")


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "my-svd")


@pytest.fixture
def sharded(tmp_path):
    return write_hub_folder(tmp_path / "sharded", sharded=True)


def edit(file, **changes):
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **changes}), encoding="utf-8")


# The catalogue


@pytest.mark.parametrize(
    ("name", "num_frames", "gated", "hub_id"),
    [
        ("svd", 14, False, "stabilityai/stable-video-diffusion-img2vid"),
        ("svd-xt", 25, False, f"stabilityai/{XT}"),
        ("svd-xt-1.1", 25, True, f"stabilityai/{XT}-1-1"),
    ],
)
def test_svd_entries(name, num_frames, gated, hub_id):
    """A mirror of a gated model would be a way around its licence."""
    model = find_model(name)
    assert (model.num_frames, model.gated, model.hub_id) == (num_frames, gated, hub_id)
    assert (model.height, model.width, model.kind) == (576, 1024, "svd")
    assert model.weights_bytes / 2**30 == pytest.approx(4.2, abs=0.01)
    assert model.modelscope_id == (None if gated else hub_id.replace("stabilityai", "AI-ModelScope"))


def test_micro_is_14_frames_of_72_by_128_and_never_called_svd():
    micro = find_model("micro")
    assert (micro.num_frames, micro.height, micro.width, micro.kind) == (14, 72, 128, "micro")
    assert "svd" not in micro.title.lower().replace("svdkit", "")
    assert micro.folder is not None
    assert micro.folder.parts[-2:] == ("svdkit", "micro")
    assert micro.hub_id is None
    assert catalogue()[0] == micro
    assert micro.weights_bytes == sum(file.stat().st_size for file in micro.folder.glob("*/*.safetensors"))


@pytest.mark.parametrize("name", ["svd-xt", "SVD-XT", f"stabilityai/{XT}", f"AI-ModelScope/{XT}"])
def test_known_ids_lead_to_the_catalogue(name):
    assert find_model(name).name == "svd-xt"


def test_other_hub_ids_are_taken_as_they_are():
    model = find_model("someone/my-svd")
    assert (model.name, model.hub_id, model.weights_bytes) == ("someone/my-svd", "someone/my-svd", 0)


def test_a_folder_tells_its_own_frames_and_size_and_is_named_without_its_path(original):
    """The toy's UNet has sample_size 8, its VAE halves three times. Names go into records, and a path tells much."""
    model = find_model(original)
    assert (model.num_frames, model.height, model.width) == (4, 64, 64)
    assert model.weights_bytes == sum(file.stat().st_size for file in original.glob("*/*.safetensors"))
    assert model.name == "my-svd"
    assert str(original.parent) not in model.title
    base = ModelInfo(name="a/b", title="t", num_frames=25, height=576, width=1024, hub_id="a/b")
    known = describe_folder(original, base=base)
    assert (known.name, known.title, known.hub_id, known.num_frames) == ("a/b", "t", "a/b", 4)


@pytest.mark.parametrize("name", ["micro", "SVD"])
def test_a_folder_is_not_named_as_a_model_of_the_catalogue(original, tmp_path, name):
    """A record of it would be replayed with the catalogue's weights, and a folder called micro would count as ours."""
    model = find_model(shutil.copytree(original, tmp_path / name))
    assert (model.name, model.kind) == (f"./{name}", "svd")
    with pytest.raises(ModelError, match=f"'./{name}' is not known"):
        find_model(model.name)


@pytest.mark.parametrize(("sample_size", "height", "width"), [([18, 32], 72, 128), (96, 576, 1024)])
def test_the_size_that_a_folder_was_trained_on(folder, sample_size, height, width):
    """Micro's UNet knows both sides, and its VAE halves twice; SVD's own 96 means 576 by 1024."""
    edit(folder / "unet" / "config.json", sample_size=sample_size)
    edit(folder / "vae" / "config.json", block_out_channels=[32, 64, 64])
    assert (describe_folder(folder).height, describe_folder(folder).width) == (height, width)


@pytest.mark.parametrize(
    ("name", "hint"), [("svd-tx", "; did you mean 'svd-xt'?"), ("mikro", "; did you mean 'micro'?"), ("wan", "")]
)
def test_an_unknown_name_gets_suggestions(name, hint):
    allowed = "give one of micro, svd, svd-xt, svd-xt-1.1, an existing folder, or a hub id 'owner/name'"
    with pytest.raises(ModelError) as caught:
        find_model(name)
    assert str(caught.value) == f"model {name!r} is not known{hint}: {allowed}"


def test_a_missing_folder_is_unknown(tmp_path):
    with pytest.raises(ModelError, match="is not known"):
        find_model(tmp_path / "nothing")
    with pytest.raises(ModelError, match="no model folder"):
        check_folder(tmp_path / "nothing")


SINGLE = r"single-file checkpoint; svdkit reads folders in diffusers layout .* downloads 4\.2 GiB"
PICKLE = "is a pickle checkpoint, which can run any code"


@pytest.mark.parametrize(
    ("suffix", "error", "text"),
    [
        *((suffix, UnsafeWeightsError, PICKLE) for suffix in ("ckpt", "bin", "pt", "pth")),
        ("safetensors", ModelError, SINGLE),
    ],
)
def test_a_single_file_is_refused_by_name_and_in_a_folder(tmp_path, suffix, error, text):
    (tmp_path / f"svd_xt.{suffix}").touch()
    for look in (lambda: find_model(f"svd_xt.{suffix}"), lambda: check_folder(tmp_path)):
        with pytest.raises(error, match=rf"svd_xt\.{suffix} .*{text}") as caught:
            look()
        assert type(caught.value) is error


# Which files


def test_patterns_take_the_variant_and_nothing_else():
    wanted = {
        *("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"),
        *("feature_extractor/preprocessor_config.json", UNET, "image_encoder/model.fp16.safetensors"),
        "vae/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model.safetensors.index.fp16.json",
    }
    unwanted = {
        *("svd_xt.safetensors", "svd_xt_image_decoder.safetensors", "svd11.webp", "image_encoder/model.safetensors"),
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.bin",
        "unet/diffusion_pytorch_model.non_ema.fp16.safetensors",
    }
    taken = {name for name in wanted | unwanted if any(fnmatch.fnmatchcase(name, p) for p in allow_patterns("fp16"))}
    assert taken == wanted
    assert not any("fp16" in pattern for pattern in allow_patterns(None))
    assert "unet/diffusion_pytorch_model.safetensors" in allow_patterns(None)


@pytest.mark.parametrize("place", [0.5, -1])
def test_fingerprint_follows_the_weights(original, folder, place):
    """In a file of some MB a byte in the middle counts too: the micro model's parts are that small."""
    assert fingerprint(folder) == fingerprint(original)
    assert re.fullmatch("[0-9a-f]{12}", fingerprint(folder))
    content = bytearray((folder / VAE).read_bytes()) + bytes(5 << 20)
    (folder / VAE).write_bytes(content)
    before = fingerprint(folder)
    content[int(place * len(content)) if place > 0 else place] ^= 1
    (folder / VAE).write_bytes(content)
    assert fingerprint(folder) != before


# What a good folder is


def test_good_folders_pass_and_say_what_they_have(original, sharded, tmp_path):
    check_folder(original)
    check_folder(sharded)
    assert len(list((sharded / "unet").glob("*.safetensors"))) > 1
    full = write_hub_folder(tmp_path / "full", variant=None)
    check_folder(full, variant=None)
    check_folder(full, variant="any")
    assert half_precision(full) == []
    with pytest.raises(
        VariantError, match=r"image_encoder/ has no fp16 weights, only full-precision: load with variant=N"
    ):
        check_folder(full)
    with pytest.raises(VariantError, match="has no full-precision weights, only fp16: load with variant='fp16'"):
        check_folder(original, variant=None)


def test_a_mixed_folder_passes_as_any(folder):
    """A fine-tuned UNet in full precision beside the fp16 rest is common; pickles beside safetensors are left alone."""
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never opened")
    check_folder(folder, variant="any")
    assert half_precision(folder) == ["image_encoder", "vae"]


def test_what_the_other_variant_has_broken_does_not_matter(folder):
    """Complete weights beside the index of a download of the others that was cut short."""
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text("{", encoding="utf-8")
    check_folder(folder)
    check_folder(folder, variant="any")


@pytest.mark.parametrize(
    "name",
    [
        *("model_index.json", "feature_extractor/preprocessor_config.json", "scheduler/scheduler_config.json"),
        *("unet/config.json", UNET, "image_encoder/model.fp16.safetensors"),
    ],
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(IncompleteModelError, match=rf"the model folder 'my-svd' lacks {re.escape(name)}: download it"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("shards", "text"),
    [
        ({"a": "../../../secret.safetensors"}, "lacks vae/secret.safetensors"),
        ({"a": "gone-00002-of-00002.safetensors"}, "lacks vae/gone-00002-of-00002.safetensors: download"),
        ({}, "index.fp16.json names no weight files"),
        (None, "index.fp16.json names no weight files"),
    ],
)
def test_an_index_is_followed_but_cannot_point_out_of_the_folder(sharded, shards, text):
    (sharded.parent.parent / "secret.safetensors").touch()
    edit(sharded / "vae" / "diffusion_pytorch_model.safetensors.index.fp16.json", weight_map=shards)
    with pytest.raises(IncompleteModelError, match=text):
        check_folder(sharded)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3049435836\n"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        *((kept, r"is .*B, half-downloaded or no safetensors file .*: download") for kept in (0, 5, 100, 100_000)),
        ((4).to_bytes(8, "little") + b"{[}]", "is 12 B, half-downloaded or no safetensors file"),
        (POINTER, "is a git-lfs pointer, not the weights .run `git lfs pull`"),
    ],
)
def test_damaged_weights_are_found(folder, content, text):
    """Cut short, no safetensors at all, or what git leaves without git-lfs."""
    (folder / VAE).write_bytes((folder / VAE).read_bytes()[:content] if isinstance(content, int) else content)
    with pytest.raises(IncompleteModelError, match=re.escape(VAE) + f" {text}"):
        check_folder(folder)


@pytest.mark.parametrize("network", NETWORKS)
def test_pickle_weights_are_refused(folder, network):
    next((folder / network).glob("*.safetensors")).unlink()
    (folder / network / "pytorch_model.bin").touch()
    with pytest.raises(UnsafeWeightsError, match=rf"{network}/ has only pickle weights \(pytorch_model\.bin\)"):
        check_folder(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "\x00\x01"])
def test_a_broken_configuration_is_found(folder, content):
    (folder / "vae" / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(IncompleteModelError, match=r"vae/config\.json cannot be read as a JSON object"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("component", "entry", "text"),
    [
        ("_class_name", "StableDiffusionPipeline", "is of 'StableDiffusionPipeline'; svdkit runs 'StableVideoDiff"),
        (
            "_class_name",
            ["pipeline", "StableVideoDiffusionPipeline"],
            "svdkit runs 'StableVideoDiffusionPipeline' only",
        ),
        ("scheduler", ["diffusers", "LCMScheduler"], ""),
        ("unet", ["my_module", "UNetSpatioTemporalConditionModel"], ""),
        ("unet", ["diffusers"], ""),
        ("vae", None, ""),
        ("feature_extractor", "CLIPImageProcessor", ""),
    ],
)
def test_classes_outside_the_known_ones_are_refused(folder, component, entry, text):
    """A repository must not be able to bring code, nor a scheduler that is silently wrong with this network."""
    edit(folder / "model_index.json", **{component: entry})
    (folder / "pipeline.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    text = text or f"as {component}; svdkit loads only .* and never code that comes with a model"
    with pytest.raises(ModelError, match=text):
        check_folder(folder)
