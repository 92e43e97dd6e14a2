"""The clips of a panel: played, listed, compared, saved, taken elsewhere as code or a sweep, and forgotten."""

from __future__ import annotations

import base64
import gc
import html
import json
import re
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import yaml

import svdkit
from svdkit.clip import Clip
from svdkit.errors import ClipError
from svdkit.generate import generate
from svdkit.image import sample_photo
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.sweep import plan_sweep, read_sweep
from svdkit.ui.form import Photo
from svdkit.ui.parts import Words, as_html
from svdkit.ui.results import ClipHistory, Made, recipes
from tests.clips import SETTINGS, micro_clip, provenance
from tests.ui_toys import close_all, state, tree

HOSTILE = "</textarea></script><script>alert(1)</script>'\"\\{{ 7*7 }}\n- a: b.jpg"
LOAD = LoadSettings(model="micro", dtype="fp32", memory="resident", device="cpu").to_dict()


def clip_of(*, seed: int = 1, load: dict[str, Any] | None = None, **changes: Any) -> Clip:
    settings = ClipSettings(seed=seed, **changes).resolve(height=32, width=48, num_frames=4, max_guidance_scale=1.0)
    about = provenance(settings=settings.to_dict(), load=LOAD if load is None else load)
    return micro_clip(provenance=about)


def of(*, seed: int = 1, photo: Any = "rocket", **more: Any) -> dict[str, Any]:
    """What the panel hands in of a clip."""
    taken = photo if isinstance(photo, Photo) else Photo(sample_photo("cat"), photo, "crop", (0.5, 0.25))
    return {"clip": clip_of(seed=seed), "photo": taken, "model": "micro", **more}


def code_of(**more: Any) -> str:
    return recipes(Made(number=1, **of(**more)))[0]


def sweep_of(**more: Any) -> str:
    return recipes(Made(number=1, **of(**more)))[1]


def results(folder: Path | None = None, *, words: Words | None = None, on_finish: Any = id) -> ClipHistory:
    return ClipHistory(words or Words(), as_html("svdkit-picture"), folder, on_finish)


def drafted(one: ClipHistory, *seeds: int, **more: Any) -> list[Made]:
    """Make drafts, and show them in step."""
    drafts = [one.add(**of(seed=seed, finish=ClipSettings(seed=seed), **more)) for seed in seeds]
    one.show(drafts)
    return drafts


def choose(one: ClipHistory, *numbers: int) -> None:
    for number, mark in enumerate(one.list.children):
        mark.value = number in numbers


def shown(part: Any) -> bool:
    return bool(part.layout.display != "none")


class TestCode:
    def test_it_makes_the_same_clip(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run as it stands, on the real micro: bit for bit the frames it was written for."""
        pipe = svdkit.load("micro")
        settings = ClipSettings(num_frames=3, num_inference_steps=2, seed=9, motion_bucket_id=60, fps=9)
        clip = generate(pipe, "cat", settings, fit_mode="crop", focus=(0.25, 0.75), progress=False)
        code = code_of(clip=clip, photo=Photo(None, "cat", "crop", (0.25, 0.75)))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(svdkit, "load", lambda model, **load: pipe)
        names: dict[str, Any] = {}
        exec(code, names)
        assert names["clip"] == clip
        assert Clip.read("clip.mp4").provenance == clip.provenance

    def test_the_call_loads_what_was_loaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every setting of loading that is not the usual one is in the call, and svdkit.load takes it."""
        asked = list[Any]()
        monkeypatch.setattr(svdkit, "load", lambda model, **load: asked.append(LoadSettings(model=model, **load)))
        monkeypatch.setattr(svdkit, "generate", lambda *_, **__: clip_of())
        monkeypatch.setattr(Clip, "save", lambda *_, **__: None)
        load = LoadSettings(model="svd-xt", weights="random", dtype="bf16", memory="offload", device="cuda")
        exec(code_of(clip=clip_of(load=load.to_dict()), model="svd-xt"), {})
        assert asked == [load]

    def test_what_it_looks_like(self) -> None:
        code = code_of(seed=7)
        assert code.startswith(
            "import svdkit\n\npipe = svdkit.load('micro', dtype='fp32', memory='resident', device='cpu')\n"
        )
        call = "clip = svdkit.generate(pipe, photo, settings, fit_mode='crop', focus=(0.5, 0.25))\n"
        assert code.endswith(f"photo = 'rocket'\n{call}clip.save(\"clip.mp4\")\n")
        assert "    seed=7,\n" in code
        assert "photo = 'photo.jpg'  # where your upload is\n" in code_of(photo="")

    def test_a_hostile_name_is_a_text(self) -> None:
        """It comes out as the photo it is called, and nothing of it runs."""
        (line,) = [line for line in code_of(photo=HOSTILE).splitlines() if line.startswith("photo = ")]
        names: dict[str, Any] = {}
        exec(line, names)
        assert names["photo"] == HOSTILE

    def test_a_pipeline_that_svdkit_did_not_load_is_not_said_to_be_micro(self) -> None:
        """Nobody knows how it was made: code that loads another model would make another clip."""
        about = provenance(kind="svd", load={}, model={"name": "own pipeline", "revision": None, "weights": "unknown"})
        code, sweep = recipes(Made(number=1, **of(clip=micro_clip(provenance=about))))
        compile(code, "code", "exec")
        assert "svdkit.load('micro'" not in code
        assert sweep.startswith("# a sweep loads its model itself")


class TestSweep:
    def plan(self, text: str, path: Path) -> Any:
        file = path / "sweep.yml"
        file.write_text(text, encoding="utf-8")
        return plan_sweep(**read_sweep(file), forecast=False)

    def test_svdkit_sweep_takes_it(self, tmp_path: Path) -> None:
        """Three motions by three seeds around the clip, all else as it was."""
        clip = clip_of(seed=7, motion_bucket_id=100, noise_aug_strength=0.05)
        jobs = self.plan(sweep_of(clip=clip), tmp_path).jobs
        clips = [run.clip for run in jobs]
        assert {(one.motion_bucket_id, one.seed) for one in clips} == {
            (m, s) for m in (50, 100, 150) for s in (7, 8, 9)
        }
        assert len(clips) == 9
        assert {(one.noise_aug_strength, one.height, one.width, one.num_frames) for one in clips} == {(0.05, 32, 48, 4)}
        assert {(run.load.model, run.frame.mode, run.frame.focus) for run in jobs} == {("micro", "crop", (0.5, 0.25))}

    @pytest.mark.parametrize(("bucket", "expected"), [(1, [1]), (127, [63, 127, 190]), (255, [127, 255])])
    def test_motion_stays_within_what_is_useful(self, bucket: int, expected: list[int]) -> None:
        text = sweep_of(clip=clip_of(motion_bucket_id=bucket))
        assert yaml.safe_load(text)["axes"]["motion_bucket_id"] == expected

    @pytest.mark.parametrize("mode", ["crop", "pad"])
    def test_a_photo_with_an_awkward_name(self, tmp_path: Path, mode: str) -> None:
        """Written so that YAML reads it back as it was; a focus is only for cropping."""
        for name in (HOSTILE, "照片 #1.jpg", "yes", "1e3", ": x"):
            assert yaml.safe_load(sweep_of(photo=name))["photos"] == [name]
        file = tmp_path / "照片 #1: a.png"
        sample_photo("cat").save(file)
        taken = Photo(None, str(file), mode, (0.5, 0.25))
        assert len(self.plan(sweep_of(photo=taken), tmp_path).jobs) == 9

    def test_it_says_how_to_run_it(self) -> None:
        head = "# svdkit sweep this_file.yml\n"
        assert sweep_of().startswith(f"{head}photos: [rocket]\n")
        upload = sweep_of(photo="", model="/models/mine")
        assert upload.startswith(f"{head}# photo.jpg stands for your upload\nphotos: [photo.jpg]\n")
        assert yaml.safe_load(upload)["load"]["model"] == "/models/mine"


class TestShown:
    def test_at_first_there_is_nothing(self) -> None:
        one = results()
        assert one.player.value == '<div class="svdkit-empty">The clip will be here.</div>'
        assert (shown(one._after), shown(one._history), shown(one.save)) == (False, False, False)

    def test_a_clip_plays_at_once(self, tmp_path: Path) -> None:
        """With a poster, its shape, a caption, and a download that says how it was made, and has no photo."""
        one = results()
        added = one.add(**of(seed=42))
        text = one.player.value
        assert re.search(r'<video controls loop muted autoplay playsinline aria-label="#1 micro · motion 127', text)
        assert "aspect-ratio:1.5000" in text
        assert 'poster="data:image/jpeg;base64,' in text
        video, download = re.findall(r'(?:src|href)="data:video/mp4;base64,([^"]+)"', text)
        assert video == download
        (tmp_path / "a.mp4").write_bytes(base64.b64decode(video))
        read = Clip.read(tmp_path / "a.mp4")
        assert (read.provenance, read.photo, read.num_frames) == (added.clip.provenance, None, 4)
        assert 'download="clip-1-seed-42.mp4"' in text
        assert added.label(Words()) == "#1 micro · motion 127 · steps 25 · seed 42 · frames 4 · 7 fps"
        assert "2.8 s</figcaption>" in text
        assert (shown(one._after), shown(one._history)) == (True, False)
        assert "seed=42" in one.code.value
        assert yaml.safe_load(one.sweep.value)["axes"]["seed"] == [42, 43, 44]

    def test_two_clips_can_be_compared(self) -> None:
        """Not one alone, and only those that are chosen."""
        one = results()
        for seed in (1, 2, 3):
            one.add(**of(seed=seed))
        assert shown(one._history)
        assert [mark.value for mark in one.list.children] == [False, False, False]
        choose(one, 0)
        assert one.compare.disabled
        choose(one, 0, 1)
        assert not one.compare.disabled
        one.compare.click()
        page = html.unescape(one.compared.value)
        assert one.compared.value.startswith("<iframe ")
        assert ("seed 1" in page, "seed 2" in page, "seed 3" in page) == (True, True, False)

    def test_drafts_are_offered_to_be_finished(self) -> None:
        """A button each, which hands on the settings of the full clip; of several in view none is to be saved."""
        finished = list[Any]()
        one = results(on_finish=lambda *draft: finished.append(draft[:2]))
        drafts = drafted(one, 5, 6)
        assert [button.description for button in one.drafts.children] == ["Finish seed 5", "Finish seed 6"]
        assert "seed 6" in html.unescape(one.player.value)
        assert not shown(one._after)
        one.drafts.children[1].click()
        assert finished == [(drafts[1].photo, drafts[1].finish)]
        choose(one, 0)
        one.again.click()  # a draft can be had as it is, too
        assert (shown(one._after), len(one.drafts.children)) == (True, 1)
        assert 'download="clip-1-seed-5.mp4"' in one.player.value
        one.add(**of(seed=6))
        assert one.drafts.children == ()

    def test_hostile_names_are_texts_everywhere(self) -> None:
        """In no widget of HTML is anything of them a tag; in a text field they are what they are."""
        one = results()
        settings = SETTINGS | {"height": 32, "width": 48, "num_frames": 4, "seed": 3, "playback_fps": 7.0}
        model = {"name": "<script>alert(2)</script>", "revision": "a", "weights": "trained"}
        hostile = micro_clip(provenance=provenance(load=LOAD, model=model, settings=settings))
        for _ in range(2):
            one.add(**of(photo=HOSTILE) | {"clip": hostile})
        choose(one, 0, 1)
        one.compare_chosen()
        pages = [widget.value for widget in tree(one.widget) if type(widget).__name__ == "HTML"]
        assert any(pages)
        assert not any("<script>alert" in page for page in pages)
        assert f"photo = {HOSTILE!r}\n" in one.code.value

    def test_another_language(self) -> None:
        words = Words()
        one = results(Path("out"), words=words)
        drafted(one, 5, 6)
        choose(one, 0, 1)
        one.compare.click()
        words.switch("zh")
        assert one.save.description == "保存到 out"
        assert (one.recipes.get_title(0), one.recipes.get_title(1)) == ("Python 代码", "批量实验文件")
        assert "<h3>已生成的视频</h3>" in [getattr(part, "value", "") for part in tree(one.widget)]
        assert [button.description for button in one.drafts.children] == ["用种子 5 完成", "用种子 6 完成"]
        label = "#1 micro · 运动 127 · 25 步 · 种子 5 · 4 帧 · 7 fps"
        assert one.list.children[0].description == label
        for shown_in_step in (one.player.value, one.compared.value):
            assert 'title="同步播放"' in shown_in_step
            assert json.dumps(label) in html.unescape(shown_in_step)
        one.forget()
        one.add(**of(seed=7))
        words.switch("zh")
        assert "运动 127" in one.player.value


class TestSave:
    def test_the_newest_is_saved_unless_another_is_chosen(self, tmp_path: Path) -> None:
        """The folder is made only then; a sample's photo goes beside the clip; nothing is written over."""
        folder = tmp_path / "outputs" / "panel"
        one = results(folder)
        one.save_current()
        one.add(**of(seed=1))
        one.add(**of(seed=2))
        assert not folder.exists()
        one.save.click()
        names = ["clip-2-seed-2.json", "clip-2-seed-2.mp4", "clip-2-seed-2.photo.png"]
        assert sorted(path.name for path in folder.iterdir()) == names
        assert one.saved.value == f"Saved as {folder / 'clip-2-seed-2.mp4'}"
        assert Clip.read(folder / "clip-2-seed-2.mp4").provenance == clip_of(seed=2).provenance
        choose(one, 0, 1)
        assert one.again.disabled
        choose(one, 0)
        one.again.click()
        assert 'download="clip-1-seed-1.mp4"' in one.player.value
        assert "seed=1" in one.code.value
        for name in ("clip-1-seed-1.mp4", "clip-1-seed-1-2.mp4"):
            one.save.click()
            assert (folder / name).is_file()

    def test_the_photo_of_an_upload_is_left_out(self, tmp_path: Path) -> None:
        one = results(tmp_path)
        one.add(**of(photo=""))
        one.save.click()
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".mp4"]

    def test_without_a_folder_there_is_nothing_to_save(self) -> None:
        one = results(None)
        one.add(**of())
        one.save_current()
        assert (one.saved.value, shown(one.save)) == ("", False)

    def test_a_folder_that_cannot_be_made_is_said_to_be(self, tmp_path: Path) -> None:
        """An error of a callback vanishes in a log that nobody reads."""
        (tmp_path / "file").write_text("in the way", encoding="utf-8")
        one = results(tmp_path / "file" / "panel")
        one.add(**of())
        one.save.click()
        assert one.saved.value.startswith('<span role="alert">')
        assert "file" in one.saved.value

    def test_a_folder_with_a_hostile_name(self, tmp_path: Path) -> None:
        one = results(tmp_path / "<b>bold")
        one.add(**of())
        one.save.click()
        assert "<b>" not in one.saved.value
        assert "&lt;b&gt;bold" in one.saved.value

    @pytest.mark.parametrize("kind", [ClipError, OSError])
    def test_a_clip_that_cannot_be_shown_is_not_lost(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
    ) -> None:
        """Such as on a full disk: it is in the list, and can be saved where there is room."""

        def full(_: Clip) -> bytes:
            raise kind("no space left")

        one = results(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[ClipHistory.__module__], "_video_bytes", full)
            with pytest.raises(kind):
                one.add(**of(seed=4))
            choose(one, 0)
            one.again.click()
            assert "no space left" in one.saved.value
        assert len(one.made) == 1
        one.save.click()
        assert (tmp_path / "clip-1-seed-4.mp4").is_file()


def test_forgetting_leaves_nothing_behind() -> None:
    """Nothing in any widget that is left, so that a saved notebook has none; and clips and photos are let go of.

    ipywidgets keeps every widget that is open, and with a draft's button what it would finish.
    """
    close_all()
    one = results(Path("out"))
    for seeds in ((5, 6), (15, 16)):
        drafted(one, *seeds, photo="secret.jpg")
    choose(one, *range(4))
    one.compare_chosen()
    assert "data:video" in state()
    assert "secret.jpg" in state()
    alive = [weakref.ref(part) for kept in one.made for part in (kept.clip, kept.photo.image)]
    one.forget()
    left = state()
    assert not any(trace in left for trace in ("data:", "base64,", "secret.jpg"))
    gc.collect()
    assert [part() for part in alive] == [None] * 8
    assert (one.made, shown(one._after)) == ([], False)
    assert "The clip will be here." in one.player.value
    assert one.add(**of(seed=8)).number == 5


def test_at_most_twelve_are_kept_and_what_leaves_the_page_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest; their numbers go on. The buttons of drafts go when the next clip comes."""
    one = results()
    monkeypatch.setattr(one, "_play", id)  # many videos would take seconds
    drafted(one, 5, 6)
    buttons, marks = one.drafts.children, one.list.children
    for seed in range(11):
        one.add(**of(seed=seed))
    assert [kept.number for kept in one.made] == list(range(2, 14))
    assert [mark.description.split()[0] for mark in one.list.children] == [f"#{number}" for number in range(2, 14)]
    assert [button.comm for button in buttons] == [None] * 2
    assert (marks[0].comm is None, marks[1].comm is None) == (True, False)
    kept = one.list.children
    one.forget()
    assert [mark.comm for mark in kept] == [None] * 12
