"""What is here, what it is worth, and that nobody's name, path or token gets out."""

from __future__ import annotations

import dataclasses
import getpass
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from svdkit import environment as facts
from svdkit.environment import Facts, Finding, Gpu, doctor, gather, judge, notebook_kind, summary

GIB = 1024**3
H200 = Gpu("NVIDIA H200", vram_bytes=140 * GIB, free_bytes=139 * GIB, capability=(9, 0))
T4 = Gpu("Tesla T4", vram_bytes=15 * GIB, free_bytes=14 * GIB, capability=(7, 5))
P100 = Gpu("Tesla P100-PCIE-16GB", vram_bytes=16 * GIB, free_bytes=None, capability=(6, 0))
CU128 = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")

GOOD = Facts(
    python="3.11.7",
    system="Linux x86_64",
    cpu_count=16,
    versions={
        "torch": "2.13.0+cu128",
        "torchvision": "0.28.0+cu128",
        "diffusers": "0.42.1",
        "transformers": "5.23.0",
        "accelerate": "1.15.0",
        "safetensors": "0.8.0",
        "huggingface-hub": "2.4.0",
        "numpy": "2.4.6",
        "pillow": "13.0.0",
        "imageio-ffmpeg": "0.6.0",
    },
    cuda="12.8",
    cudnn=91900,
    architectures=CU128,
    gpus=(H200,),
    driver="570.86.15",
    ffmpeg="7.0.2-static",
    ram_bytes=128 * GIB,
    ram_free_bytes=120 * GIB,
    disk_free_bytes=60 * GIB,
    token=True,
)


def found(name, base=GOOD, **changes):
    """The one finding of a name after some facts changed."""
    [finding] = [finding for finding in judge(dataclasses.replace(base, **changes)) if finding.name == name]
    return finding


def with_versions(**changes):
    """Versions as in GOOD, some changed or (None) gone."""
    merged = dict(GOOD.versions) | {name.replace("_", "-"): version for name, version in changes.items()}
    return {name: version for name, version in merged.items() if version is not None}


# --- judging ------------------------------------------------------------------------------------------------------


def test_a_good_machine_is_all_ok_and_needs_nothing():
    assert [(finding.status, finding.cure) for finding in judge(GOOD)] == [("ok", "")] * 8


def test_a_good_machine_in_words():
    assert [finding.what for finding in judge(GOOD)] == [
        "Python 3.11.7 on Linux x86_64, 16 cores",
        "torch 2.13.0+cu128, built for CUDA 12.8",
        "NVIDIA H200, 140.0 GiB, 139.0 GiB free, driver 570.86.15",
        "diffusers 0.42.1, transformers 5.23.0, accelerate 1.15.0",
        "ffmpeg 7.0.2-static",
        "128.0 GiB of RAM, 120.0 GiB free",
        "60.0 GiB free where the hub's downloads go",
        "a token is set",
    ]


def test_nothing_at_all_is_judged_without_a_crash():
    assert {finding.name: finding.status for finding in judge(Facts())} == {
        "python": "ok",
        "torch": "fail",
        "libraries": "fail",
        "ffmpeg": "fail",
        "hub": "ok",
    }


def test_whatever_is_not_ok_has_a_cure():
    for base in (
        Facts(),
        GOOD,
        dataclasses.replace(GOOD, gpus=(), driver=None),
        dataclasses.replace(GOOD, gpus=(P100,)),
    ):
        for finding in judge(base):
            assert finding.status in {"ok", "warn", "fail"}
            assert finding.status == "ok" or finding.cure, finding


def test_without_torch_a_finding_says_so():
    finding = found("torch", versions=with_versions(torch=None))
    assert (finding.status, finding.what) == ("fail", "torch is not installed")
    assert finding.cure == "install it: choose yours on https://pytorch.org/get-started/locally/"


def test_a_broken_torch_says_why():
    finding = found("torch", torch_problem="OSError: libcudart.so.12: cannot open")
    assert finding.status == "fail"
    assert finding.what == "torch 2.13.0+cu128 cannot be used: OSError: libcudart.so.12: cannot open"


def test_missing_libraries_are_listed_with_the_command():
    finding = found("libraries", versions=with_versions(diffusers=None, safetensors=None))
    assert (finding.status, finding.what) == ("fail", "not installed: diffusers, safetensors")
    assert finding.cure == "pip install diffusers safetensors"


# --- GPU ----------------------------------------------------------------------------------------------------------


def test_every_gpu_has_a_finding():
    findings = [finding for finding in judge(dataclasses.replace(GOOD, gpus=(H200, T4))) if finding.name == "gpu"]
    assert [finding.what.split(",")[0] for finding in findings] == ["NVIDIA H200", "Tesla T4"]


def test_no_gpu_is_a_warning_and_micro_still_works():
    finding = found("gpu", gpus=(), driver=None)
    assert (finding.status, finding.what) == (
        "warn",
        "no GPU: micro is made for that, the full models would need hours",
    )
    assert finding.cure.startswith("nothing to do for micro; ")
    assert "Colab: Runtime, Change runtime type; Kaggle: Settings, Accelerator" in finding.cure


def test_a_driver_under_a_torch_for_the_cpu_is_found():
    finding = found("gpu", gpus=(), cuda=None)
    assert finding.what == "an NVIDIA driver (570.86.15) is here, but this torch is built without CUDA"
    assert finding.cure.startswith("install torch with CUDA: ")


def test_a_driver_whose_gpu_torch_cannot_see_is_found():
    finding = found("gpu", gpus=())
    assert finding.what == "an NVIDIA driver (570.86.15) is here, but torch for CUDA 12.8 finds no GPU"
    assert "--gpus all" in finding.cure


def test_an_apple_gpu_is_fine():
    assert found("gpu", gpus=(), mps=True, driver=None).what == "Apple GPU (MPS); svdkit uses fp32 on it"


def test_a_gpu_that_torch_has_no_code_for_fails():
    """Kaggle gives P100s with a torch that cannot use them (Kaggle/docker-python #1546)."""
    finding = found("gpu", gpus=(P100,))
    assert finding.status == "fail"
    assert finding.what.endswith("this torch has no code for sm_60, so the first computation fails")
    assert finding.cure.startswith(
        "on Kaggle choose GPU T4; else install a torch that has sm_60, as builds for CUDA 12.6"
    )


def test_a_gpu_newer_than_torch_gets_a_build_that_has_it():
    new = dataclasses.replace(P100, name="NVIDIA GeForce RTX 5090", capability=(12, 0))
    finding = found("gpu", gpus=(new,), architectures=("sm_80", "sm_90"))
    assert finding.cure.startswith("install a torch that has sm_120, as builds for CUDA 12.8 or later do: ")


@pytest.mark.parametrize(
    ("capability", "architectures", "status"),
    [
        ((8, 9), CU128, "ok"),  # an RTX 4090 runs what is built for 8.6
        ((12, 1), CU128, "ok"),
        ((7, 2), ("sm_75",), "fail"),
        ((12, 0), ("sm_80", "sm_90"), "fail"),
        ((12, 0), ("sm_80", "compute_90"), "ok"),  # compiled for the card when it starts
        ((9, 0), ("sm_90a",), "ok"),
        ((9, 0), ("gfx90a", "gfx1100"), "ok"),  # AMD: nothing to judge by
        ((9, 0), (), "ok"),
    ],
)
def test_what_a_gpu_can_run(capability, architectures, status):
    gpu = dataclasses.replace(H200, capability=capability)
    assert found("gpu", gpus=(gpu,), architectures=architectures).status == status


def test_a_small_gpu_is_told_what_it_can_do():
    finding = found("gpu", gpus=(dataclasses.replace(T4, vram_bytes=6 * GIB, free_bytes=None),))
    assert finding.status == "warn"
    assert finding.what == "Tesla T4, 6.0 GiB, driver 570.86.15: svd-xt at its own size needs 7.3 GiB"
    assert finding.cure == "make smaller clips (height 320, width 512), or use micro"


def test_a_gpu_that_others_use_is_told():
    finding = found("gpu", gpus=(dataclasses.replace(T4, free_bytes=3 * GIB),))
    assert (finding.status, finding.cure) == ("warn", "nvidia-smi lists them; shut down idle notebooks")
    assert finding.what.endswith("3.0 GiB free, driver 570.86.15: other programs hold more than half of it")


# --- versions that hurt -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "cudnn", "hurts"),
    [
        ("2.8.0", 91002, False),
        ("2.9.0+cu128", 91002, True),
        ("2.9.0", 91600, True),  # 2.9.0 does not look at cuDNN at all
        ("2.9.1", 91300, True),
        ("2.9.1", 91500, False),
        ("2.9.1", None, True),
        ("2.10.0", 91002, False),
        ("2.13.0+cu128", 91002, False),
    ],
)
def test_torch_with_slow_convolutions_over_time(version, cudnn, hurts):
    facts_ = dataclasses.replace(GOOD, versions=with_versions(torch=version, torchvision=None), cudnn=cudnn)
    warnings = [finding for finding in judge(facts_) if finding.name == "torch" and finding.status == "warn"]
    assert len(warnings) == hurts
    for finding in warnings:
        assert "about four times slower in half precision" in finding.what
        assert "pytorch/issues/166122" in finding.what


def test_slow_half_precision_does_not_matter_without_a_gpu():
    facts_ = dataclasses.replace(GOOD, versions=with_versions(torch="2.9.0", torchvision=None), gpus=(), driver=None)
    assert [finding.status for finding in judge(facts_) if finding.name == "torch"] == ["ok"]


@pytest.mark.parametrize(("version", "hurts"), [("0.6.0", False), ("0.8.0", False), ("0.8.1", True), ("1.0", True)])
def test_imageio_ffmpeg_with_ffmpeg_9(version, hurts):
    findings = judge(dataclasses.replace(GOOD, versions=with_versions(imageio_ffmpeg=version)))
    cures = [finding.cure for finding in findings if finding.name == "imageio-ffmpeg"]
    assert cures == ["pip install imageio-ffmpeg==0.6.0"] * hurts


def test_an_old_diffusers_is_told():
    assert found("diffusers", versions=with_versions(diffusers="0.31.0")).cure == "pip install -U diffusers"


@pytest.mark.parametrize(
    ("torch", "transformers", "fails"),
    [("2.4.1", "5.23.0", True), ("2.4.1+cu121", "5.0.0", True), ("2.4.1", "4.57.0", False), ("2.6.0", "5.23.0", False)],
)
def test_a_torch_that_transformers_does_not_use(torch, transformers, fails):
    """It imports, and then no model can be loaded: a rented image with an older torch."""
    versions = with_versions(torch=torch, transformers=transformers, torchvision=None)
    findings = judge(dataclasses.replace(GOOD, versions=versions))
    cures = [finding.cure for finding in findings if finding.name == "torch" and finding.status == "fail"]
    assert len(cures) == fails
    assert all("pip install 'transformers<5'" in cure for cure in cures)


def test_the_tested_versions_are_not_known_bad():
    """constraints.txt must not pin what the doctor warns of."""
    text = (Path(__file__).parents[1] / "constraints.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", text, flags=re.MULTILINE))
    findings = judge(dataclasses.replace(GOOD, versions=dict(GOOD.versions) | pins, cudnn=None))
    assert pins
    assert [finding for finding in findings if finding.status != "ok"] == []


@pytest.mark.parametrize(
    ("torch", "vision", "clash"),
    [
        ("2.13.0", "0.28.0", None),
        ("2.0.1", "0.15.2", None),
        ("2.9.0", "0.23.0", "torchvision 0.23.0 does not belong to torch 2.9.0, but 0.24 does"),
        ("2.13.0", None, None),
        ("3.0", "0.40", None),  # nobody knows yet
        ("nightly", "0.28.0", None),
        ("2.13.0+cu128", "0.28.0+cu128", None),
        ("2.13.0+cu128", "0.28.0", None),
        (
            "2.13.0+cu128",
            "0.28.0+cpu",
            "torchvision 0.28.0+cpu and torch 2.13.0+cu128 are built for different devices",
        ),
    ],
)
def test_torch_and_torchvision_belong_together(torch, vision, clash):
    findings = judge(dataclasses.replace(GOOD, versions=with_versions(torch=torch, torchvision=vision)))
    whats = [finding.what for finding in findings if finding.name == "torchvision"]
    assert whats == ([f"{clash}; diffusers cannot be imported"] if clash else [])


def test_a_torchvision_clash_fails_with_the_way_out():
    finding = found("torchvision", versions=with_versions(torchvision="0.27.0"))
    assert finding.status == "fail"
    assert finding.cure.startswith("pip uninstall torchvision (svdkit works without it)")


# --- memory, disk, ffmpeg, hub ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "free", "status"), [(16, 12, "ok"), (12, 12, "ok"), (16, 3, "warn"), (4, 4, "warn")])
def test_memory_for_loading(total, free, status):
    finding = found("memory", ram_bytes=total * GIB, ram_free_bytes=free * GIB)
    assert finding.status == status
    assert status == "ok" or finding.what.endswith("loading the full models takes about 8.0 GiB")


def test_unknown_memory_and_disk_are_not_judged():
    names = [finding.name for finding in judge(dataclasses.replace(GOOD, ram_bytes=None, disk_free_bytes=None))]
    assert "memory" not in names
    assert "disk" not in names


def test_a_full_disk_is_told_before_the_download():
    finding = found("disk", disk_free_bytes=5 * GIB)
    assert finding.status == "warn"
    assert finding.what == (
        "5.0 GiB free where the hub's downloads go: svd-xt takes 4.2 GiB, and as much again while it downloads"
    )
    assert "HF_HOME" in finding.cure


def test_without_ffmpeg_clips_cannot_be_saved():
    finding = found("ffmpeg", ffmpeg=None)
    assert (finding.status, finding.what) == ("fail", "no ffmpeg: clips cannot be saved as video")


@pytest.mark.parametrize(
    ("lacks", "has"),
    [
        ((".mp4",), "no libx264 for .mp4"),
        ((".mp4", ".webm"), "no libx264 for .mp4, no libvpx-vp9 for .webm"),
    ],
)
def test_an_ffmpeg_without_an_encoder_is_not_ok(lacks, has):
    finding = found("ffmpeg", ffmpeg_lacks=lacks)
    what = f"ffmpeg 7.0.2-static has {has}: such clips cannot be saved as video"
    assert (finding.status, finding.what) == ("fail", what)


def test_the_encoders_of_an_ffmpeg_are_asked_for(monkeypatch, tmp_path):
    assert facts._ffmpeg_lacks() == ()
    poor = tmp_path / "ffmpeg"
    poor.write_text("#!/bin/sh\necho ' V....D libvpx-vp9 libvpx VP9'\n")
    poor.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(poor))
    assert facts._ffmpeg_lacks() == (".mp4",)


def test_no_token_is_fine_but_for_one_model():
    finding = found("hub", token=False)
    assert (finding.status, finding.what) == ("ok", "no token is set, which only svd-xt-1.1 needs")
    assert finding.cure.endswith("hf auth login")


def test_offline_mode_is_told():
    finding = found("hub", offline=True)
    assert finding.status == "warn"
    assert finding.what == "a token is set; offline mode is on, so nothing can be downloaded"


def test_findings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Finding("x", "ok", "y").status = "fail"  # type: ignore[misc]


# --- gathering ----------------------------------------------------------------------------------------------------


def test_this_machine_has_facts():
    here = gather(ask_torch=False)
    assert here.python == platform.python_version()
    assert here.cpu_count >= 1
    assert here.ram_bytes is None or here.ram_bytes > here.cpu_count
    assert here.disk_free_bytes is not None
    assert here.gpus == ()
    assert here.versions["numpy"] == importlib.metadata.version("numpy")


def test_memory_is_unknown_without_psutil(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert facts._ram_bytes() == {}


CGROUP_2 = {"memory.max": "1048576\n", "memory.current": "600000\n", "memory.stat": "anon 9\ninactive_file 100000\n"}
CGROUP_1 = {
    "memory.limit_in_bytes": "1048576\n",
    "memory.usage_in_bytes": "600000\n",
    "memory.stat": "inactive_file 7\ntotal_inactive_file 100000\n",
}


@pytest.mark.parametrize(
    ("folder", "files", "free"),
    [
        ("/sys/fs/cgroup", CGROUP_2, 548_576),
        ("/sys/fs/cgroup/memory", CGROUP_1, 548_576),
        ("/sys/fs/cgroup", CGROUP_2 | {"memory.max": "max\n"}, None),
    ],
)
def test_a_containers_limit_and_what_is_used_of_it_count(monkeypatch, folder, files, free):
    """Cached files that the kernel can drop are free."""

    def read_text(path):
        if str(path.parent) != folder:
            raise FileNotFoundError
        return files[path.name]

    monkeypatch.setattr(Path, "read_text", read_text)
    ram = facts._ram_bytes()
    assert (ram["ram_bytes"] == 2**20) == (free is not None)
    assert (ram["ram_free_bytes"] == free) == (free is not None)
    assert (facts.free_ram() == free) == (free is not None)


@pytest.mark.parametrize(
    ("system", "release", "text"),
    [
        ("Linux", "6.1.0", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23\nGCC: 12.2.0"),
        ("Windows", "11", "570.86.15\n"),
        ("Linux", "5.15.153.1-microsoft-standard-WSL2", "570.86.15\n"),  # has no such file
    ],
)
def test_the_driver_of_each_system(monkeypatch, system, release, text):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setattr(Path, "read_text", lambda path, **named: text if release == "6.1.0" else "")
    monkeypatch.setattr(subprocess, "run", lambda *args, **named: types.SimpleNamespace(stdout=text))
    assert facts._driver.__wrapped__() == "570.86.15"


def test_a_broken_ffmpeg_is_no_ffmpeg(monkeypatch):
    broken = types.SimpleNamespace(get_ffmpeg_version=lambda: 1 / 0)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", broken)
    assert facts._ffmpeg_version() is None


def test_a_half_removed_package_has_no_version(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: None if name == "torch" else "1.0")
    assert "torch" not in facts._versions()
    assert facts._versions()["numpy"] == "1.0"


@pytest.mark.parametrize("error", [ImportError("no torch"), OSError("lib.so"), RuntimeError("operator does not exist")])
def test_a_torch_that_breaks_on_import_is_a_problem_and_no_crash(monkeypatch, error):
    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise error

    monkeypatch.setitem(sys.modules, "torch", Broken("torch"))
    assert facts._ask_torch(free=True) == {"torch_problem": f"{type(error).__name__}: {error}"}


def stand_in_torch(monkeypatch, *, full=False):
    """A torch with one GPU, as far as the facts ask it."""

    def free(index):
        if full:
            raise RuntimeError("CUDA out of memory")
        return 10, 16

    card = types.SimpleNamespace(name="Tesla T4", total_memory=16, major=7, minor=5)
    cudnn = types.SimpleNamespace(version=lambda: 91900)
    mps = types.SimpleNamespace(is_available=lambda: False)
    cuda = types.SimpleNamespace(
        get_arch_list=lambda: ["sm_75"],
        device_count=lambda: 1,
        get_device_properties=lambda index: card,
        mem_get_info=free,
    )
    torch = types.SimpleNamespace(
        version=types.SimpleNamespace(cuda="12.8"), backends=types.SimpleNamespace(cudnn=cudnn, mps=mps), cuda=cuda
    )
    monkeypatch.setitem(sys.modules, "torch", torch)


def test_what_torch_tells_about_a_gpu(monkeypatch):
    stand_in_torch(monkeypatch)
    asked = facts._ask_torch(free=True)
    assert asked["gpus"] == (Gpu("Tesla T4", vram_bytes=16, free_bytes=10, capability=(7, 5)),)
    assert (asked["cuda"], asked["cudnn"], asked["architectures"]) == ("12.8", 91900, ("sm_75",))


def test_free_memory_is_asked_only_when_wanted_and_none_when_the_gpu_is_full(monkeypatch):
    stand_in_torch(monkeypatch, full=True)
    assert facts._ask_torch(free=True)["gpus"][0].free_bytes == 0
    assert facts._ask_torch(free=False)["gpus"][0].free_bytes is None


def test_the_disk_of_a_folder_not_yet_made_is_measured(tmp_path):
    assert (facts._disk_free(tmp_path / "not" / "yet") or 0) > 0


def test_a_token_is_seen_and_never_opened(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert not gather(ask_torch=False).token
    (tmp_path / "token").write_text("hf_secret")
    (tmp_path / "token").chmod(0)
    assert gather(ask_torch=False).token
    (tmp_path / "token").unlink()
    monkeypatch.setenv("HF_TOKEN", " ")
    assert not gather(ask_torch=False).token
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert gather(ask_torch=False).token


def test_offline_mode_is_read_as_the_hub_reads_it(monkeypatch):
    for value, offline in (("1", True), ("true", True), ("0", False), ("", False)):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert gather(ask_torch=False).offline == offline


def test_messages_lose_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann lee")
    monkeypatch.setenv("USERPROFILE", "/home/ann lee")

    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise OSError("/home/ann lee/x/lib.so: bad\nand more")

    monkeypatch.setitem(sys.modules, "torch", Broken("torch"))
    assert facts._ask_torch(free=False) == {"torch_problem": "OSError: ~/x/lib.so: bad"}


# --- the summary --------------------------------------------------------------------------------------------------


def test_the_summary_is_plain_json():
    assert json.loads(json.dumps(summary(), allow_nan=False)) == summary()


def test_the_summary_tells_versions_without_importing_torch():
    """In a fresh Python, since other tests import torch."""
    code = "import sys, json, svdkit.environment as e; s = e.summary(); print(json.dumps([s, 'torch' in sys.modules]))"
    made, imported = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not imported
    assert made["torch"] == importlib.metadata.version("torch")
    assert made["python"] == platform.python_version()


def test_the_summary_asks_a_torch_that_is_there_already(monkeypatch):
    stand_in_torch(monkeypatch)
    made = summary()
    assert (made["gpu"], made["gpu_count"], made["vram_bytes"], made["cuda"]) == ("Tesla T4", 1, 16, "12.8")
    assert summary(gpu=False)["gpu"] is None


def test_the_summary_names_what_computes_and_not_what_is_only_there(monkeypatch):
    cards = (T4, dataclasses.replace(T4, name="NVIDIA L4", vram_bytes=22 * GIB))
    monkeypatch.setattr(facts, "gather", lambda **_: Facts(gpus=cards))
    assert [summary(device=device)["gpu"] for device in ("auto", "cuda", "cuda:1", "cpu")] == [
        *("Tesla T4", "Tesla T4", "NVIDIA L4", None),
    ]
    assert summary(device="cuda:1")["vram_bytes"] == 22 * GIB


def test_the_summary_holds_nobodys_name_path_or_token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:password@mirror.example")
    text = json.dumps(summary(gpu=True)).lower()
    secrets = [
        "hf_verysecret",
        "password",
        "mirror.example",
        str(Path.home()),
        str(Path.cwd()),
        sys.prefix,
        platform.node(),
    ]
    with_user = [*secrets, *([] if getpass.getuser() == "root" else [getpass.getuser()])]
    assert [secret for secret in with_user if len(secret) > 1 and secret.lower() in text] == []
    assert "/" not in json.dumps({name: value for name, value in summary().items() if name not in {"cpu", "gpu"}})


def test_the_doctor_holds_no_token_and_no_home(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    text = repr(doctor())
    assert "hf_verysecret" not in text
    assert f"{Path.home()}/" not in text
    assert "a token is set" in text


# --- where we run -------------------------------------------------------------------------------------------------


def in_shell(monkeypatch, **shell):
    """Stand in for IPython with such a shell; a notebook's shell has a kernel."""
    stand_in = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(**shell))
    monkeypatch.setitem(sys.modules, "IPython", stand_in)


@pytest.fixture(autouse=True)
def _at_home(monkeypatch):
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)


def test_a_plain_python_is_a_terminal(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert notebook_kind() == "terminal"


def test_ipython_in_a_terminal_is_a_terminal(monkeypatch):
    in_shell(monkeypatch)
    assert notebook_kind() == "terminal"


def test_ipython_imported_but_not_running_is_a_terminal(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert notebook_kind() == "terminal"


@pytest.mark.parametrize(
    ("variable", "kind"), [("COLAB_RELEASE_TAG", "colab"), ("KAGGLE_KERNEL_RUN_TYPE", "kaggle"), ("OTHER", "jupyter")]
)
def test_a_kernel_is_known_by_its_host(monkeypatch, variable, kind):
    in_shell(monkeypatch, kernel=object())
    monkeypatch.setenv(variable, "x")
    assert notebook_kind() == kind


def test_a_script_on_colab_is_in_a_terminal(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    assert notebook_kind() == "terminal"
