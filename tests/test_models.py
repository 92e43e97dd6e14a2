"""The catalogue, and what a good model folder is. No torch is needed for any of it but making the toy folder."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from svdkit.errors import IncompleteModelError, ModelError, UnsafeWeightsError, VariantError
from svdkit.models import ModelInfo, catalogue, check_folder, find_model
from svdkit.models.folder import _weight_files, allow_patterns, fingerprint, half_precision
from svdkit.models.info import describe_folder
from tests.toy import write_hub_folder

NETWORKS = ("image_encoder", "unet", "vae")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """One toy in the hub's layout for the whole file; tests that change files take a copy."""
    return write_hub_folder(tmp_path_factory.mktemp("models") / "my-svd")


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "my-svd")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return write_hub_folder(tmp_path_factory.mktemp("models") / "sharded", sharded=True)


# The catalogue


def test_catalogue_names():
    assert [model.name for model in catalogue()] == ["micro", "svd", "svd-xt", "svd-xt-1.1"]


@pytest.mark.parametrize(
    ("name", "num_frames", "gated", "hub_id"),
    [
        ("svd", 14, False, "stabilityai/stable-video-diffusion-img2vid"),
        ("svd-xt", 25, False, "stabilityai/stable-video-diffusion-img2vid-xt"),
        ("svd-xt-1.1", 25, True, "stabilityai/stable-video-diffusion-img2vid-xt-1-1"),
    ],
)
def test_svd_entries(name, num_frames, gated, hub_id):
    model = find_model(name)
    assert (model.num_frames, model.gated, model.hub_id) == (num_frames, gated, hub_id)
    assert (model.height, model.width) == (576, 1024)
    assert model.kind == "svd"
    assert model.weights_bytes / 2**30 == pytest.approx(4.2, abs=0.01)


def test_the_gated_model_is_not_offered_on_modelscope():
    """A mirror of a gated model would be a way around its licence."""
    assert find_model("svd-xt-1.1").modelscope_id is None
    assert find_model("svd-xt").modelscope_id == "AI-ModelScope/stable-video-diffusion-img2vid-xt"


def test_micro_is_14_frames_of_72_by_128_and_never_called_svd():
    micro = find_model("micro")
    assert (micro.num_frames, micro.height, micro.width) == (14, 72, 128)
    assert micro.kind == "micro"
    assert "svd" not in micro.title.lower().replace("svdkit", "")
    assert micro.folder is not None
    assert micro.folder.parts[-2:] == ("svdkit", "micro")
    assert micro.hub_id is None


def test_model_info_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        find_model("svd").name = "other"  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(
    "name",
    [
        "svd-xt",
        "SVD-XT",
        "stabilityai/stable-video-diffusion-img2vid-xt",
        "AI-ModelScope/stable-video-diffusion-img2vid-xt",
    ],
)
def test_known_ids_lead_to_the_catalogue(name):
    assert find_model(name).name == "svd-xt"


def test_other_hub_ids_are_taken_as_they_are():
    model = find_model("someone/my-svd")
    assert (model.name, model.hub_id, model.weights_bytes) == ("someone/my-svd", "someone/my-svd", 0)


def test_a_folder_tells_its_own_frames_and_size(original):
    model = find_model(original)
    # The toy's UNet has sample_size 8, and its VAE halves three times.
    assert (model.num_frames, model.height, model.width) == (4, 64, 64)
    assert model.weights_bytes == sum(file.stat().st_size for file in original.glob("*/*.safetensors"))


def test_a_folder_is_named_without_its_path(original):
    """Names go into records, and a path tells about the machine."""
    model = find_model(original)
    assert model.name == "my-svd"
    assert str(original.parent) not in model.title


@pytest.mark.parametrize("name", ["micro", "svd-xt", "SVD"])
def test_a_folder_is_not_named_as_a_model_of_the_catalogue(original, tmp_path, name):
    """A record of it would be replayed with the catalogue's weights, and a folder called micro would count as ours."""
    model = find_model(shutil.copytree(original, tmp_path / name))
    assert (model.name, model.kind) == (f"./{name}", "svd")
    with pytest.raises(ModelError, match=f"'./{name}' is not known"):
        find_model(model.name)


def test_a_folder_with_height_and_width_in_its_sample_size(folder):
    """Micro's UNet knows both sides, and its VAE halves twice."""
    _edit(folder / "unet" / "config.json", sample_size=[18, 32], num_frames=14)
    _edit(folder / "vae" / "config.json", block_out_channels=[32, 64, 64])
    model = describe_folder(folder)
    assert (model.height, model.width, model.num_frames) == (72, 128, 14)


def test_svds_own_sample_size_means_576_by_1024(folder):
    _edit(folder / "unet" / "config.json", sample_size=96)
    assert (describe_folder(folder).height, describe_folder(folder).width) == (576, 1024)


def test_a_description_keeps_what_was_known(original):
    base = ModelInfo(name="a/b", title="t", num_frames=25, height=576, width=1024, hub_id="a/b")
    model = describe_folder(original, base=base)
    assert (model.name, model.title, model.hub_id, model.num_frames) == ("a/b", "t", "a/b", 4)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("svd-tx", "did you mean 'svd-xt'"), ("mikro", "did you mean 'micro'?"), ("wan", "is not known: give one of")],
)
def test_an_unknown_name_gets_suggestions(name, hint):
    with pytest.raises(ModelError) as caught:
        find_model(name)
    assert f"model {name!r} is not known" in str(caught.value)
    assert hint in str(caught.value)
    assert "give one of micro, svd, svd-xt, svd-xt-1.1, an existing folder, or a hub id 'owner/name'" in str(
        caught.value
    )


def test_a_missing_folder_is_unknown(tmp_path):
    with pytest.raises(ModelError, match="is not known"):
        find_model(tmp_path / "nothing")


@pytest.mark.parametrize("suffix", ["ckpt", "bin", "pt", "pth"])
def test_a_pickle_file_is_refused_by_name(suffix):
    with pytest.raises(UnsafeWeightsError, match=rf"svd_xt\.{suffix} is a pickle checkpoint, which can run any code"):
        find_model(f"svd_xt.{suffix}")


def test_a_single_file_checkpoint_gets_a_way_out():
    with pytest.raises(ModelError, match="single-file checkpoint; svdkit reads folders in diffusers layout") as caught:
        find_model("svd_xt.safetensors")
    assert "downloads 4.2 GiB" in str(caught.value)
    assert not isinstance(caught.value, UnsafeWeightsError)


# Which files


def test_patterns_take_the_variant_and_nothing_else():
    import fnmatch

    wanted = {
        "model_index.json",
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "feature_extractor/preprocessor_config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "image_encoder/model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model.safetensors.index.fp16.json",
    }
    unwanted = {
        "svd_xt.safetensors",
        "svd_xt_image_decoder.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.bin",
        "unet/diffusion_pytorch_model.non_ema.fp16.safetensors",
        "image_encoder/model.safetensors",
        "svd11.webp",
    }
    taken = {name for name in wanted | unwanted if any(fnmatch.fnmatchcase(name, p) for p in allow_patterns("fp16"))}
    assert taken == wanted


def test_patterns_of_full_precision_leave_fp16():
    assert not any("fp16" in pattern for pattern in allow_patterns(None))
    assert "unet/diffusion_pytorch_model.safetensors" in allow_patterns(None)


def test_weight_files_of_one_file(original):
    assert _weight_files(original, "image_encoder", "fp16") == ["image_encoder/model.fp16.safetensors"]


def test_weight_files_of_shards(sharded):
    files = _weight_files(sharded, "unet", "fp16")
    assert len(files) > 1
    assert all((sharded / file).is_file() for file in files)


def test_an_index_cannot_point_out_of_the_folder(sharded, tmp_path):
    copy = shutil.copytree(sharded, tmp_path / "copy")
    index = copy / "vae" / "diffusion_pytorch_model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../../secret.safetensors"}}), encoding="utf-8")
    assert _weight_files(copy, "vae", "fp16") == ["vae/secret.safetensors"]


@pytest.mark.parametrize("place", [0.5, -1])
def test_fingerprint_follows_the_weights(original, folder, place):
    """In a file of some MB a byte in the middle counts too: the micro model's parts are that small."""
    assert fingerprint(folder) == fingerprint(original)
    assert re.fullmatch("[0-9a-f]{12}", fingerprint(folder))
    file = folder / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    content = bytearray(file.read_bytes()) + bytes(5 << 20)
    file.write_bytes(content)
    before = fingerprint(folder)
    content[int(place * len(content)) if place > 0 else place] ^= 1
    file.write_bytes(content)
    assert fingerprint(folder) != before


# What a good folder is


def test_a_good_folder_passes(original):
    check_folder(original)


def test_a_sharded_folder_passes(sharded):
    check_folder(sharded)


def test_a_folder_in_full_precision_passes_when_asked_for(tmp_path):
    folder = write_hub_folder(tmp_path / "full", variant=None)
    check_folder(folder, variant=None)
    check_folder(folder, variant="any")
    with pytest.raises(
        VariantError, match=r"image_encoder/ has no fp16 weights, only full-precision: load with variant=N"
    ):
        check_folder(folder)
    assert half_precision(folder) == []


def test_full_precision_that_is_missing_is_said_too(original):
    with pytest.raises(VariantError, match="has no full-precision weights, only fp16: load with variant='fp16'"):
        check_folder(original, variant=None)


def test_a_mixed_folder_passes_as_any(folder):
    """A fine-tuned UNet in full precision beside the fp16 rest is common."""
    unet = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    unet.rename(unet.with_name("diffusion_pytorch_model.safetensors"))
    check_folder(folder, variant="any")
    assert half_precision(folder) == ["image_encoder", "vae"]


def test_no_folder(tmp_path):
    with pytest.raises(ModelError, match="no model folder"):
        check_folder(tmp_path / "nothing")


def test_an_empty_folder(tmp_path):
    with pytest.raises(IncompleteModelError, match=r"lacks model_index\.json: download it again"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("svd_xt.safetensors", ModelError, "is a single-file checkpoint"),
        ("svd_xt.ckpt", UnsafeWeightsError, "is a pickle checkpoint"),
    ],
)
def test_a_folder_around_a_single_file(tmp_path, name, error, text):
    (tmp_path / name).touch()
    with pytest.raises(error, match=text):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "feature_extractor/preprocessor_config.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "image_encoder/model.fp16.safetensors",
    ],
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(IncompleteModelError, match=rf"the model folder 'my-svd' lacks {re.escape(name)}: download"):
        check_folder(folder)


def test_a_missing_shard_is_named(sharded, tmp_path):
    copy = shutil.copytree(sharded, tmp_path / "copy")
    shard = _weight_files(copy, "unet", "fp16")[1]
    (copy / shard).unlink()
    with pytest.raises(IncompleteModelError, match=f"lacks {shard}: download"):
        check_folder(copy)


@pytest.mark.parametrize("kept", [0, 5, 100, 100_000])
def test_a_file_cut_short_is_found(folder, kept):
    file = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(IncompleteModelError, match=r"unet/diffusion_pytorch_model\.fp16\.safetensors is .*: download"):
        check_folder(folder)


def test_a_git_lfs_pointer_is_explained(folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3049435836\n"
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_text(pointer, encoding="utf-8")
    with pytest.raises(IncompleteModelError, match=r"git-lfs pointer, not the weights .run `git lfs pull`"):
        check_folder(folder)


def test_a_file_that_is_no_safetensors_is_found(folder):
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes((4).to_bytes(8, "little") + b"{[}]")
    with pytest.raises(IncompleteModelError, match="is 12 B, half-downloaded or no safetensors file"):
        check_folder(folder)


@pytest.mark.parametrize("network", NETWORKS)
def test_pickle_weights_are_refused(folder, network):
    next((folder / network).glob("*.safetensors")).unlink()
    (folder / network / "pytorch_model.bin").touch()
    with pytest.raises(UnsafeWeightsError, match=rf"{network}/ has only pickle weights \(pytorch_model\.bin\)"):
        check_folder(folder)


def test_pickles_beside_safetensors_are_left_alone(folder):
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never opened")
    check_folder(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "\x00\x01"])
def test_a_broken_configuration_is_found(folder, content):
    (folder / "vae" / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(IncompleteModelError, match=r"vae/config\.json (cannot be read as JSON|holds no JSON object)"):
        check_folder(folder)


def test_another_pipeline_is_refused(folder):
    _edit(folder / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(ModelError, match="is of 'StableDiffusionPipeline'; svdkit runs 'StableVideoDiffusionPipeline'"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("component", "entry"),
    [
        ("scheduler", ["diffusers", "LCMScheduler"]),
        ("unet", ["my_module", "UNetSpatioTemporalConditionModel"]),
        ("unet", ["diffusers"]),
        ("vae", None),
        ("feature_extractor", "CLIPImageProcessor"),
    ],
)
def test_classes_outside_the_known_ones_are_refused(folder, component, entry):
    """A repository must not be able to bring code, nor a scheduler that is silently wrong with this network."""
    _edit(folder / "model_index.json", **{component: entry})
    with pytest.raises(
        ModelError, match=f"as {component}; svdkit loads only .* and never code that comes with a model"
    ):
        check_folder(folder)


def test_custom_pipeline_code_is_refused(folder):
    _edit(folder / "model_index.json", _class_name=["pipeline", "StableVideoDiffusionPipeline"])
    (folder / "pipeline.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    with pytest.raises(ModelError, match="svdkit runs 'StableVideoDiffusionPipeline' only"):
        check_folder(folder)


def _edit(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **changes}), encoding="utf-8")
