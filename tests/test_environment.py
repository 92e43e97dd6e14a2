"""What is here, what it is worth, and that nobody's name, path or token gets out."""

from __future__ import annotations

import dataclasses
import getpass
import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from svdkit import environment as facts
from svdkit.environment import Facts, Gpu, default_model, doctor, gather, judge, notebook_kind, summary

GIB = 1024**3
H200 = Gpu("NVIDIA H200", vram_bytes=140 * GIB, free_bytes=139 * GIB, capability=(9, 0))
T4 = Gpu("Tesla T4", vram_bytes=15 * GIB, free_bytes=14 * GIB, capability=(7, 5))
P100 = Gpu("Tesla P100", vram_bytes=16 * GIB, free_bytes=None, capability=(6, 0))
CU128 = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
VERSIONS = {
    "torch": "2.13.0+cu128",
    "torchvision": "0.28.0+cu128",
    "diffusers": "0.42.1",
    "transformers": "5.23.0",
    "imageio-ffmpeg": "0.6.0",
    **dict.fromkeys(("accelerate", "safetensors", "huggingface-hub", "numpy", "pillow"), "1.15.0"),
}
GOOD = Facts(
    python="3.11.7",
    system="Linux x86_64",
    cpu_count=16,
    versions=VERSIONS,
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
NO_GPU: dict[str, Any] = {"gpus": (), "driver": None}


def changed(gpu=None, **changes):
    """Facts as in GOOD, some changed; what has a version there or is a package, becomes one, or (None) is gone."""
    packages = {name.replace("_", "-"): changes.pop(name) for name in [*changes] if name.replace("_", "-") in VERSIONS}
    versions = {name: version for name, version in (VERSIONS | packages).items() if version is not None}
    changes |= {"gpus": (dataclasses.replace(T4, **gpu),)} if gpu else {}
    return dataclasses.replace(GOOD, versions=versions, **changes)


# --- judging ------------------------------------------------------------------------------------------------------


MACHINES: dict[str, dict[str, Any]] = {
    "no torch": {"torch": None},
    "a broken torch": {"torch_problem": "OSError: libcudart.so.12: cannot open"},
    "missing libraries": {"diffusers": None, "safetensors": None},
    "no GPU": NO_GPU,
    "torch for the CPU": {"gpus": (), "cuda": None},
    "a GPU that torch cannot see": {"gpus": ()},
    "an Apple GPU": NO_GPU | {"mps": True},
    "a P100 on Kaggle (Kaggle/docker-python #1546)": {"gpus": (P100,)},
    "a GPU newer than torch": {"gpu": {"capability": (12, 0)}, "architectures": ("sm_80", "sm_90")},
    "a small GPU": {"gpu": {"vram_bytes": 6 * GIB, "free_bytes": None}},
    "a GPU that others use": {"gpu": {"free_bytes": 3 * GIB}},
    "a torchvision of another torch": {"torchvision": "0.27.0"},
    "a torchvision for another device": {"torchvision": "0.28.0+cpu"},
    "an old diffusers": {"diffusers": "0.31.0"},
    "no ffmpeg": {"ffmpeg": None},
    "an ffmpeg without encoders": {"ffmpeg_lacks": (".mp4", ".webm")},
    "just enough memory": {"ram_bytes": 8 * GIB, "ram_free_bytes": 8 * GIB},
    "little memory": {"ram_bytes": 16 * GIB, "ram_free_bytes": 3 * GIB},
    "a full disk": {"disk_free_bytes": 0},
    "no token": {"token": False},
    "offline": {"offline": True},
}


def test_what_the_doctor_says():
    """The golden file has all findings of a good machine, and of others what is different there."""
    good = judge(GOOD)
    lines = [f"{finding.status:<5} {finding.name:<12} {finding.what}" for finding in good]
    assert [finding.cure for finding in good] == [""] * 8
    for machine, changes in MACHINES.items():
        lines += ["", machine]
        for finding in judge(changed(**changes)):
            if finding not in good:
                lines.append(f"{finding.status:<5} {finding.name:<12} {finding.what}")
                lines += [f"      -> {finding.cure}"] if finding.cure else []
            assert finding.status == "ok" or finding.cure
    assert "\n".join(lines) + "\n" == (Path(__file__).parent / "golden" / "doctor.txt").read_text(encoding="utf-8")


def test_nothing_at_all_is_judged_without_a_crash():
    """What is unknown, such as memory and disk, is not judged."""
    found = [(finding.name, finding.status) for finding in judge(Facts())]
    assert found == [("python", "ok"), ("torch", "fail"), ("libraries", "fail"), ("ffmpeg", "fail"), ("hub", "ok")]


def test_every_gpu_has_a_finding():
    findings = [finding for finding in judge(changed(gpus=(H200, T4))) if finding.name == "gpu"]
    assert [finding.what.split(",")[0] for finding in findings] == ["NVIDIA H200", "Tesla T4"]


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 9), CU128, True),  # an RTX 4090 runs what is built for 8.6
        ((12, 1), CU128, True),
        ((7, 2), ("sm_75",), False),
        ((12, 0), ("sm_80", "sm_90"), False),
        ((12, 0), ("sm_80", "compute_90"), True),  # compiled for the card when it starts
        ((9, 0), ("sm_90a",), True),
        ((9, 0), ("gfx90a", "gfx1100"), True),  # AMD: nothing to judge by
        ((9, 0), (), True),
    ],
)
def test_what_a_gpu_can_run(capability, architectures, runs):
    assert (facts.lacking_code(capability, architectures) is None) == runs


@pytest.mark.parametrize(
    ("changes", "hurts"),
    [
        ({"torch": "2.8.0", "cudnn": 91002}, None),
        ({"torch": "2.9.0+cu128", "cudnn": 91002}, "about four times slower in half precision"),
        ({"torch": "2.9.0", "cudnn": 91600}, "pytorch/issues/166122"),  # 2.9.0 does not look at cuDNN at all
        ({"torch": "2.9.1", "cudnn": 91300}, "pytorch/issues/166122"),
        ({"torch": "2.9.1", "cudnn": None}, "pytorch/issues/166122"),
        ({"torch": "2.9.1", "cudnn": 91500}, None),
        ({"torch": "2.10.0", "cudnn": 91002}, None),
        ({"torch": "2.9.0"} | NO_GPU, None),  # slow half precision does not matter without a GPU
        ({"imageio_ffmpeg": "0.8.0"}, None),
        ({"imageio_ffmpeg": "0.8.1"}, "brings ffmpeg 9: mediapy.read_video fails with it"),
        ({"imageio_ffmpeg": "1.0"}, "brings ffmpeg 9"),
        # It imports, and then no model can be loaded: a rented image with an older torch.
        ({"torch": "2.4.1+cu121", "transformers": "5.0.0"}, "transformers 5.0.0 needs torch 2.6, not 2.4.1+cu121"),
        ({"torch": "2.4.1", "transformers": "4.57.0"}, None),
        ({"torch": "2.6.0"}, None),
        ({"torch": "2.13.0", "torchvision": "0.28.0"}, None),
        ({"torch": "2.0.1", "torchvision": "0.15.2", "transformers": "4.57.0"}, None),
        ({"torch": "2.13.0+cu128", "torchvision": "0.28.0"}, None),
        ({"torch": "3.0", "torchvision": "0.40"}, None),  # nobody knows yet
        ({"torch": "nightly", "torchvision": "0.28.0"}, None),
    ],
)
def test_versions_that_hurt(changes, hurts):
    found = [finding for finding in judge(changed(**{"torchvision": None} | changes)) if finding.name in VERSIONS]
    bad = [finding for finding in found if finding.status != "ok"]
    assert len(bad) == (hurts is not None)
    assert all(hurts in finding.what and finding.cure for finding in bad)


def test_the_tested_versions_are_not_known_bad():
    """constraints.txt must not pin what the doctor warns of."""
    text = (Path(__file__).parents[1] / "constraints.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", text, flags=re.MULTILINE))
    findings = judge(dataclasses.replace(GOOD, versions=VERSIONS | pins, cudnn=None))
    assert pins
    assert [finding for finding in findings if finding.status != "ok"] == []


@pytest.mark.parametrize(
    ("driver", "gpu", "model"),
    [
        ("580.65", Gpu("T4", 15 * GIB, None, (7, 5)), "svd-xt"),
        ("580.65", Gpu("GTX 1050", 4 * GIB, None, (7, 5)), "micro"),
        ("580.65", Gpu("P100", 16 * GIB, None, (6, 0)), "micro"),
        (None, Gpu("T4", 15 * GIB, None, (7, 5)), "micro"),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_the_model_where_none_is_named(monkeypatch, driver, gpu, model):
    """The full one where a GPU can hold it and torch has code for it; without a driver nobody looks."""
    monkeypatch.setattr(facts, "_driver", lambda: driver)
    monkeypatch.setattr(facts, "gather", lambda **_: Facts(gpus=(gpu,), architectures=("sm_75", "sm_90")))
    assert default_model() == model


# --- gathering ----------------------------------------------------------------------------------------------------


def test_this_machine_has_facts():
    here = gather(ask_torch=False)
    assert here.python == platform.python_version()
    assert here.cpu_count >= 1
    assert (here.ram_bytes or 0) >= (here.ram_free_bytes or 0) > here.cpu_count
    assert here.disk_free_bytes is not None
    assert here.gpus == ()
    assert here.versions["numpy"] == importlib.metadata.version("numpy")


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
    assert (facts._ram() == (2**20, free)) == (free is not None)
    assert (facts.free_ram() == free) == (free is not None)


@pytest.mark.parametrize("file", ["NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23\nGCC: 12.2.0", None])
def test_the_driver_is_told_by_a_file_or_by_nvidia_smi(monkeypatch, file):
    """Windows has no such file, nor has Linux inside of it."""

    def read_text(path, **named):
        if file is None:
            raise FileNotFoundError
        return file

    monkeypatch.setattr(Path, "read_text", read_text)
    stdout = "570.86.15\n" if file is None else "1.2"
    monkeypatch.setattr(subprocess, "run", lambda *args, **named: types.SimpleNamespace(stdout=stdout))
    assert facts._driver.__wrapped__() == "570.86.15"
    assert file or facts._cpu() == (platform.processor() or None)


def test_the_encoders_of_an_ffmpeg_are_asked_for_and_a_broken_one_is_none(monkeypatch, tmp_path):
    assert facts._ffmpeg(ask=True)["ffmpeg_lacks"] == ()
    poor = tmp_path / "ffmpeg"
    poor.write_text("#!/bin/sh\necho 'ffmpeg version 7'; echo ' V....D libvpx-vp9 libvpx VP9'\n")
    poor.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(poor))
    assert facts._ffmpeg(ask=True) == {"ffmpeg": "7", "ffmpeg_lacks": (".mp4",)}
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", types.SimpleNamespace(get_ffmpeg_version=lambda: 1 / 0))
    assert facts._ffmpeg(ask=True) == {}


def test_a_half_removed_package_has_no_version(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: None if name == "torch" else "1.0")
    versions = gather(ask_torch=True).versions
    assert ("torch" in versions, versions["numpy"]) == (False, "1.0")


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ImportError("no torch"), "ImportError: no torch"),
        (RuntimeError("operator does not exist"), "RuntimeError: operator does not exist"),
        (OSError("/home/ann lee/x/lib.so: bad\nand more"), "OSError: ~/x/lib.so: bad"),
    ],
)
def test_a_torch_that_breaks_on_import_is_a_problem_and_no_crash(monkeypatch, error, problem):
    """Its message loses the home folder."""
    monkeypatch.setenv("HOME", "/home/ann lee")
    monkeypatch.setenv("USERPROFILE", "/home/ann lee")

    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise error

    monkeypatch.setitem(sys.modules, "torch", Broken("torch"))
    assert facts._ask_torch(free=True) == {"torch_problem": problem}


def stand_in_torch(monkeypatch, *, full=False):
    """A torch with one GPU, as far as the facts ask it."""

    def free(index):
        if full:
            raise RuntimeError("CUDA out of memory")
        return 10, 16

    of = types.SimpleNamespace
    card = of(name="Tesla T4", total_memory=16, major=7, minor=5)
    backends = of(cudnn=of(version=lambda: 91900), mps=of(is_available=lambda: False))
    cuda = of(get_arch_list=lambda: ["sm_75"], device_count=lambda: 1, mem_get_info=free)
    cuda.get_device_properties = lambda index: card
    monkeypatch.setitem(sys.modules, "torch", of(version=of(cuda="12.8"), backends=backends, cuda=cuda))


@pytest.mark.parametrize(("free", "full", "bytes_"), [(True, False, 10), (True, True, 0), (False, True, None)])
def test_what_torch_tells_about_a_gpu(monkeypatch, free, full, bytes_):
    """Free memory is asked only when wanted, and none when the GPU is full."""
    stand_in_torch(monkeypatch, full=full)
    asked = facts._ask_torch(free=free)
    assert asked["gpus"] == (Gpu("Tesla T4", vram_bytes=16, free_bytes=bytes_, capability=(7, 5)),)
    assert (asked["cuda"], asked["cudnn"], asked["architectures"], asked["mps"]) == ("12.8", 91900, ("sm_75",), False)


def test_the_disk_of_a_folder_not_yet_made_is_measured(tmp_path, monkeypatch):
    assert (facts._disk_free(tmp_path / "not" / "yet") or 0) > 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: (tmp_path / "nothing").stat())
    assert facts._disk_free(tmp_path) is None


def test_a_token_is_seen_and_never_opened(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert not gather(ask_torch=False).token
    (tmp_path / "token").write_text("hf_secret")
    (tmp_path / "token").chmod(0)
    assert gather(ask_torch=False).token
    (tmp_path / "token").unlink()
    for token, seen in ((" ", False), ("hf_secret", True)):
        monkeypatch.setenv("HF_TOKEN", token)
        assert gather(ask_torch=False).token == seen


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_offline_mode_is_read_as_the_hub_reads_it(monkeypatch, value, offline):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert gather(ask_torch=False).offline == offline


# --- the summary --------------------------------------------------------------------------------------------------


def test_the_summary_tells_versions_without_importing_torch():
    """In a fresh Python, since other tests import torch; it is plain JSON."""
    code = "import sys, json, svdkit.environment as e; s = e.summary(); print(json.dumps([s, 'torch' in sys.modules]))"
    made, imported = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not imported
    assert made["torch"] == importlib.metadata.version("torch")
    assert made["python"] == platform.python_version()


def test_the_summary_names_what_computes_and_not_what_is_only_there(monkeypatch):
    stand_in_torch(monkeypatch)
    made = summary()
    assert (made["gpu"], made["gpu_count"], made["vram_bytes"], made["cuda"]) == ("Tesla T4", 1, 16, "12.8")
    assert summary(gpu=False)["gpu"] is None
    cards = (T4, dataclasses.replace(T4, name="NVIDIA L4", vram_bytes=22 * GIB))
    monkeypatch.setattr(facts, "gather", lambda **_: Facts(gpus=cards))
    devices = {"auto": "Tesla T4", "cuda": "Tesla T4", "cuda:1": "NVIDIA L4", "cpu": None}
    assert {device: summary(device=device)["gpu"] for device in devices} == devices
    assert summary(device="cuda:1")["vram_bytes"] == 22 * GIB


def test_the_summary_holds_nobodys_name_path_or_token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:password@mirror.example")
    text = json.dumps(summary(gpu=True), allow_nan=False).lower()
    secrets = ["hf_verysecret", "password", "mirror.example", str(Path.home()), str(Path.cwd())]
    secrets += [sys.prefix, platform.node(), *([] if getpass.getuser() == "root" else [getpass.getuser()])]
    assert [secret for secret in secrets if len(secret) > 1 and secret.lower() in text] == []
    assert "/" not in json.dumps({name: value for name, value in summary().items() if name not in {"cpu", "gpu"}})


def test_the_doctor_holds_no_token_and_no_home(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    text = repr(doctor())
    assert "hf_verysecret" not in text
    assert f"{Path.home()}/" not in text
    assert "a token is set" in text


# --- where we run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shell", "variable", "kind"),
    [
        (False, "COLAB_RELEASE_TAG", "terminal"),  # a script on Colab
        (None, "OTHER", "terminal"),  # IPython imported but not running
        ({}, "OTHER", "terminal"),  # IPython in a terminal
        ({"kernel": object()}, "OTHER", "jupyter"),
        ({"kernel": object()}, "COLAB_RELEASE_TAG", "colab"),
        ({"kernel": object()}, "KAGGLE_KERNEL_RUN_TYPE", "kaggle"),
    ],
)
def test_a_kernel_is_known_by_its_host(monkeypatch, shell, variable, kind):
    """A notebook's shell has a kernel; False: there is no IPython."""
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "x")
    here = None if shell is None else types.SimpleNamespace(**shell or {})
    ipython = types.SimpleNamespace(get_ipython=lambda: here)
    monkeypatch.setitem(sys.modules, "IPython", None if shell is False else ipython)
    assert notebook_kind() == kind
