"""The command: what it prints, what it leaves, and how it ends."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import svdkit
from svdkit.cli import app, make
from svdkit.cli import notebook as commands
from svdkit.cli.options import (
    CLIP,
    FAILED,
    INTERRUPTED,
    LOAD,
    WRONG_INPUT,
    RefusedInput,
    takes,
)
from svdkit.clip import Clip
from svdkit.environment import Finding
from svdkit.errors import (
    Cancelled,
    ClipError,
    DownloadError,
    ImageError,
    ModelError,
    OutOfMemoryError,
    SettingsError,
    SvdkitWarning,
)
from svdkit.settings import ClipSettings, LoadSettings
from tests.clips import micro_clip, provenance
from tests.toy import write_hub_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

ROOT = Path(__file__).parents[1]

pytestmark = [
    # numpy says so of torch inside diffusers' scheduler, which calls np.array(tensor).
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
    # of the libraries that run notebooks, about one another
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def run(*words: object) -> Result:
    """Run the command in this process; wide, so that typer's own messages stay on one line."""
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a toy model, as a user's download would be."""
    return write_hub_folder(tmp_path_factory.mktemp("models") / "toy-svd")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test fail as soon as a model is loaded."""

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("a model was loaded")

    importlib.import_module("svdkit.generate")  # has its own name for load, which must stay the real one
    monkeypatch.setattr("svdkit.pipeline.load", refuse)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `svdkit models` end with an error."""

    def fail() -> None:
        raise error

    monkeypatch.setattr("svdkit.models.catalogue", fail)


# What it is


def test_help_is_quick_and_needs_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "try:\n"
        "    import svdkit.cli; sys.argv = ['svdkit', '--help']; svdkit.cli.main()\n"
        "finally:\n"
        "    print({'torch', 'diffusers', 'numpy', 'PIL', 'pandas', 'papermill', 'nbconvert'} & sys.modules.keys())"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.stdout.splitlines()[-1] == "set()"
    assert min(seconds) < 1


def test_no_command_shows_the_help_and_is_wrong_usage() -> None:
    result = run()
    assert result.exit_code == WRONG_INPUT
    assert all(f" {name} " in result.output for name in ("animate", "replay", "models", "doctor", "demo", "app"))
    assert "Make a clip from a photo." in result.output
    assert "Begin with: svdkit demo" in result.output


def test_the_version_and_that_the_installed_command_ends_with_the_exit_code() -> None:
    assert run("--version").stdout == f"svdkit {svdkit.__version__}\n"
    code = "import sys; from svdkit.cli import main; sys.argv = ['svdkit', 'replay', 'nix.mp4']; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == WRONG_INPUT
    assert done.stdout == ""
    assert re.fullmatch(r"error: .*nix.mp4 is not there; check the name and the folder\n", done.stderr)


@pytest.mark.parametrize("words", [["animat"], ["animate"], ["animate", "rocket", "--steps", "4"], ["models", "svd"]])
def test_wrong_usage(words: list[str]) -> None:
    result = run(*words)
    assert result.exit_code == WRONG_INPUT
    assert "Usage: " in result.stderr


# Its options


def test_there_is_an_option_of_the_same_type_for_every_setting() -> None:
    """The settings are the list; `preset` of LoadSettings can only be None yet, and the command's is another."""
    assert {*CLIP} == ClipSettings().to_dict().keys()
    assert {*LOAD} == LoadSettings().to_dict().keys() - {"preset"}
    text = run("animate", "--help").stdout
    assert all(f"--{name.replace('_', '-')} " in text for name in (*CLIP, *LOAD))
    assert "Default: 127." in text
    made = inspect.signature(make.animate).parameters
    kinds = {name: option.annotation.__origin__ for name, option in made.items()}
    wanted = {"fps": int | None, "playback_fps": float | None, "seed": list[int] | None, "compile": bool}
    assert wanted.items() <= kinds.items()
    assert (made["compile"].default, made["fps"].default) == (False, None)


def test_takes_explains_the_options_that_a_command_has_itself() -> None:
    @takes("fps")
    def show(photo: str, *, quiet: bool = False, **given: Any) -> None:
        """Show.

        Args:
            photo: What is
                shown.
            quiet: Say nothing.
        """

    parameters = inspect.signature(show).parameters
    assert list(parameters) == ["photo", "quiet", "fps"]
    assert parameters["photo"].annotation.__metadata__[0].help == "What is shown."
    assert show.__doc__ == "Show."


# Wrong input: found before a model is loaded

LONG = "x" * 300
TOO_LONG = "cannot be saved in '.': the name is too long; choose"
WRONG = [
    (["animate", "nix.jpg"], "nix.jpg does not exist."),
    (["animate", "rocket", "--fps", "0", "--seed", "-1"], "ClipSettings: 2 problems\n- fps=0: must be a whole number"),
    (["animate", "rocket", "--preset", "comfy"], "there is no preset 'comfy'; did you mean 'comfyui'?"),
    (["animate", "rocket", "--model", "svd-xl"], "model 'svd-xl' is not known; did you mean"),
    (["animate", "rocket", "--dtype", "half"], "LoadSettings: dtype='half': must be 'auto'"),
    (["animate", "rocket", "--fit", "zoom"], "zoom"),
    (["animate", "rocket", "--focus", "2", "0"], "is not a point in the photo"),
    (["animate", "rocket", "-o", "a.avi"], "a.avi: a clip is saved as .mp4, .webm, .webp, .gif or .png (a folder of"),
    (["animate", "rocket", "--scale", "0"], "scale is 0.0; give a factor above 0, at most 16"),
    (["animate", "rocket", "--model", "svd-xt", "--scale", "8"], "are larger than 8K"),
    (["animate", "rocket", "-o", "x.gif", "--playback-fps", "60"], "a gif shows at most 50 frames a second, not 60"),
    (["animate", "rocket", "--decode-chunk-size", "30"], "decode_chunk_size=30 with num_frames=14"),
    (["animate", "rocket", "-o", "nix/a.mp4"], "the folder nix is not there; create it first, or choose another"),
    (["animate", "rocket", "--model", LONG], "model 'xxx"),
    (["animate", "rocket", "-o", f"{LONG}.mp4"], f"{LONG}.mp4 {TOO_LONG}"),
    (["animate", "rocket", "-o", f"{'犬' * 83}.mp4"], f".mp4 {TOO_LONG}"),
    (["animate", LONG], "xxx"),
    (["replay", f"{LONG}.mp4"], "cannot be read (File name too long); check the path and its rights"),
    (["demo", "--photo", "nix.jpg"], "nix.jpg does not exist"),
    (["demo", "--model", "svd-xl"], "is not known"),
]


@pytest.mark.parametrize(("words", "text"), WRONG, ids=lambda value: "-".join(value)[:40])
def test_wrong_input_is_found_first(words: list[str], text: str, here: Path, no_load: None) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (WRONG_INPUT, "")
    assert result.stderr.startswith("error: ")
    assert text in result.stderr
    assert "did not expect this" not in result.stderr
    assert list(here.iterdir()) == []


def test_a_missing_encoder_is_found_first(here: Path, no_load: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(here / "none"))
    result = run("animate", "rocket")
    assert result.exit_code == WRONG_INPUT
    assert result.stderr.startswith("error: a .mp4 file: ffmpeg cannot be started")


@pytest.mark.parametrize(
    ("name", "output"),
    [("r.mp4", "r.mp4"), ("r.json", "r.mp4"), ("r.photo.png", "r.mp4"), ("r_frames", "r.png")],
)
def test_nothing_is_replaced_without_being_asked(name: str, output: str, here: Path, no_load: None) -> None:
    """Not even a JSON that only happens to have the clip's name."""
    Path(name).write_text("mine", encoding="utf-8")
    result = run("animate", "rocket", "-o", output)
    assert result.exit_code == WRONG_INPUT
    assert result.stderr == f"error: {name} in . would be replaced; give --overwrite or another --output\n"
    make.check_target(Path(output), overwrite=True)


# Clips, made by a toy model


def animate(toy: Path, *words: object) -> Result:
    result = run("animate", "rocket", "--model", toy, "--num-inference-steps", 2, *words)
    assert result.exit_code == 0, result.output
    return result


def test_animate_names_the_clip_after_the_photo_and_says_what_it_did(toy: Path, here: Path) -> None:
    result = animate(toy, "--seed", 5, "--motion-bucket-id", 40, "--fit", "pad", "--border", "#000000")
    assert result.stdout == "rocket.mp4\n"
    assert "toy-svd (trained weights" in result.stderr
    assert "- dtype: fp32" in result.stderr
    assert "denoise" in result.stderr
    assert "seed 5; once more: svdkit replay rocket.mp4" in result.stderr
    assert sorted(path.name for path in here.iterdir()) == ["rocket.json", "rocket.mp4", "rocket.photo.png"]
    made = Clip.read("rocket.mp4").provenance
    assert made is not None
    wanted = {"seed": 5, "motion_bucket_id": 40, "num_inference_steps": 2, "height": 64}
    assert wanted.items() <= made.settings.items()
    assert (made.image["mode"], made.image["source"]) == ("pad", "rocket")


def test_animate_several_seeds_quietly(toy: Path, here: Path) -> None:
    """Each seed once, each file under its own name; stdout holds the names and nothing else is printed."""
    result = animate(toy, *("--seed", 1, "--seed", 2, "--seed", 1), "-o", "walk.gif", "--no-keep-photo", "--quiet")
    assert (result.stdout, result.stderr) == ("walk-seed-1.gif\nwalk-seed-2.gif\n", "")
    assert {path.suffix for path in here.iterdir()} == {".gif", ".json"}


def test_animate_begins_from_a_preset(toy: Path, here: Path) -> None:
    """The clip has the name of the photo, whatever that is."""
    Image.new("RGB", (90, 60), "teal").save("my holiday #1.png")
    words = ("--preset", "comfyui", "--fps", 9, "--num-inference-steps", 2, "--quiet", "--scale", 2)
    assert run("animate", "my holiday #1.png", "--model", toy, *words).stdout == "my-holiday-1.mp4\n"
    clip = Clip.read("my-holiday-1.mp4")
    assert clip.provenance is not None
    assert clip.provenance.conditioning == {"fps": 8, "motion_bucket_id": 127, "noise_aug_strength": 0.0}
    assert (clip.height, clip.fps) == (128, 9)


@pytest.mark.parametrize(
    ("source", "name"),
    [(None, "clip"), ("..", "clip"), ("ein Bär.jpg", "ein-Bär"), (f"{'犬' * 83}.jpg", "犬" * 66)],
)
def test_default_names(source: str | None, name: str) -> None:
    assert make.default_name(source) == f"{name}.mp4"


def test_replay_of_frames_is_the_same_to_the_bit(toy: Path, here: Path) -> None:
    animate(toy, "-o", "walk.png", "--quiet")
    result = run("replay", "walk.png", "--model", toy, "-o", "again.mp4")
    assert (result.exit_code, result.stdout) == (0, "again.mp4\n")
    assert "the frames are those of the file, bit for bit" in result.stderr
    assert Clip.read("again.mp4").provenance == Clip.read("walk.png").provenance


def test_replay_of_a_video_says_how_near_it_comes(toy: Path, here: Path) -> None:
    animate(toy, "-o", "walk.mp4", "--quiet")
    result = run("replay", "walk.mp4", "--model", toy)
    assert (result.exit_code, result.stdout) == (0, "walk-replay.mp4\n")
    assert "mean difference from the file's frames, which a video holds compressed: " in result.stderr
    assert run("replay", "walk.mp4", "--model", toy).exit_code == WRONG_INPUT, "walk-replay.mp4 is there now"


def test_a_clip_of_another_size_is_not_compared() -> None:
    small, large = Clip(np.zeros((2, 8, 8, 3), np.uint8), fps=7), Clip(np.zeros((2, 16, 16, 3), np.uint8), fps=7)
    assert make.compare_frames(small, large) == "the file's frames were saved in another size, so they are not compared"


@pytest.mark.parametrize(
    ("made_with", "text"),
    [
        (None, "carries no svdkit provenance"),
        ("my-model", "yourself and pass it as --model"),
        ("somebody/their-svd", "if you trust it, pass --model with that name"),
    ],
)
def test_replay_refuses_what_it_cannot_make_again(made_with: str | None, text: str, here: Path) -> None:
    """Also where the very folder of frames is named."""
    made = provenance(load={"model": made_with}) if made_with else None
    os.chdir(micro_clip(provenance=made).save("walk.png"))
    result = run("replay", ".")
    assert result.exit_code == WRONG_INPUT, result.output
    assert text in result.stderr


# What there is


def test_models() -> None:
    lines = run("models").stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["NAME", "micro", "svd", "svd-xt", "svd-xt-1.1"]
    assert "14 frames, height 72, width 128" in lines[1]
    assert "in the package" in lines[1]
    assert "25 frames, height 576, width 1024  4.2 GiB to download, gated" in lines[4]


def test_doctor_is_a_table_with_cures_and_fails_when_svdkit_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [Finding(name=name, status="fail", what="is missing", cure="get it") for name in ("torch", "ffmpeg")]
    warn = Finding(name="gpu", status="warn", what="no GPU", cure="rent one. " * 8 + "Or use micro")
    found = (Finding(name="python", status="ok", what="Python 3.11"), warn, *broken)
    monkeypatch.setattr("svdkit.environment.doctor", lambda: found)
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["doctor"])
    assert result.stdout.splitlines()[:5] == [
        "ok    python          Python 3.11",
        "warn  gpu             no GPU",
        "                      → rent one. rent one. rent one. rent one. rent one. rent",
        "                        one. rent one. rent one. Or use micro",
        "fail  torch           is missing",
    ]
    assert result.exit_code == FAILED
    assert result.stderr == "\n2 failures: mend from the top, for one may cause the next\n"


def test_doctor_of_this_machine() -> None:
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("ok    python          Python 3.")


# How it ends

ODD = "error: {}. svdkit did not expect this{}; the same command with --debug shows where it happened\n"
ENDS = [
    *((error("bad"), WRONG_INPUT, "error: bad\n") for error in (ImageError, SettingsError, RefusedInput)),
    *((error("bad"), FAILED, "error: bad\n") for error in (DownloadError, ModelError, OutOfMemoryError, ClipError)),
    (Cancelled("bad"), INTERRUPTED, "error: bad\n"),
    (KeyboardInterrupt(), INTERRUPTED, "stopped: interrupted; what was saved before is complete\n"),
    (KeyError("x"), FAILED, ODD.format("KeyError: 'x'", "")),
    (
        ImportError("no x"),
        FAILED,
        ODD.format("ImportError: no x", "; svdkit doctor tells whether the installation is sound"),
    ),
]


@pytest.mark.parametrize(("error", "code", "text"), ENDS)
def test_an_error_is_one_plain_paragraph(
    error: BaseException, code: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, error)
    result = run("models")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", text)


def test_commands_take_their_arguments_without_docstrings_too() -> None:
    """Which python -OO removes, and help is taken from."""
    code = "import sys; from svdkit.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-OO", "-c", code, "compare", "a", "b"], capture_output=True, check=False)
    assert (done.returncode, b"there is no a" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("words", [["--debug", "models"], ["models", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ModelError("bad"))
    result = run(*words)
    assert result.exit_code == FAILED
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("svdkit.errors.ModelError: bad\n\nerror: bad\n")


def test_a_warning_of_ours_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def warn() -> tuple[()]:
        warnings.warn("the size is unusual", SvdkitWarning, stacklevel=1)
        return ()

    monkeypatch.setattr("svdkit.models.catalogue", warn)
    result = run("models")
    assert result.exit_code == 0
    assert result.stderr == "note: the size is unusual\n"


# The demo, with one tiny notebook for each case


@pytest.fixture
def notebook(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a notebook of one cell in the quickstart's place."""

    def write(code: str) -> Path:
        usual = 'photo = "rocket"; model = "micro"; output_folder = "outputs/quickstart"'
        defaults = nbformat.v4.new_code_cell(usual, metadata={"tags": ["parameters"]})
        cells = [defaults, nbformat.v4.new_code_cell(code)]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = here / "notebooks" / "tiny.ipynb"
        path.parent.mkdir()
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        monkeypatch.setattr(commands, "_DEMO", path)
        return path

    return write


def test_demo_says_where_everything_is(notebook: Callable[[str], Path], here: Path) -> None:
    notebook("print(photo, output_folder)")
    result = run("demo", "--photo", "cat", "-o", "made here")
    assert result.exit_code == 0, result.output
    first, _, *rest, last = result.stdout.splitlines()
    assert first == "running tiny.ipynb with micro: about a minute or two on a laptop"
    assert rest == [
        f"the clip        {Path('made here/clip.mp4')}",
        f"the notebook    {Path('made here/tiny.ipynb')}",
        f"as a page       {Path('made here/tiny.html')}",
    ]
    assert last.startswith("it took         ")
    executed = (here / "made here" / "tiny.ipynb").read_text(encoding="utf-8")
    assert "cat made here" in executed
    assert str(here) not in executed, "the executed notebook tells a path of this machine"


def test_demo_adds_nothing_when_all_is_as_usual_and_its_page_needs_no_network(
    notebook: Callable[[str], Path], here: Path
) -> None:
    notebook("print('hello')")
    assert run("demo").exit_code == 0
    folder = here / "outputs" / "quickstart"
    assert len(json.loads((folder / "tiny.ipynb").read_text(encoding="utf-8"))["cells"]) == 2
    page = (folder / "tiny.html").read_text(encoding="utf-8")
    assert "hello" in page
    assert '<script src="http' not in page
    assert "<title>svdkit quickstart</title>" in page
