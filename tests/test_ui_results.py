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

import numpy as np
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
from svdkit.ui.results import ClipHistory, Made, _python_code, _sweep_file, _video_bytes
from tests.clips import SETTINGS, micro_clip, provenance
from tests.ui_toys import close_all, state, tree

HOSTILE = "</textarea></script><script>alert(1)</script>'\"\\{{ 7*7 }}\n- a: b.jpg"
FOCUS = (0.5, 0.25)
LOAD = LoadSettings(model="micro", dtype="fp32", memory="resident", device="cpu").to_dict()


def clip_of(*, seed: int = 1, load: dict[str, Any] | None = None, **changes: Any) -> Clip:
    settings = ClipSettings(seed=seed, **changes).resolve(height=32, width=48, num_frames=4, max_guidance_scale=1.0)
    about = provenance(settings=settings.to_dict(), load=LOAD if load is None else load)
    return micro_clip(provenance=about)


def made(*, seed: int = 1, photo: str = "rocket", **more: Any) -> Made:
    return Made(clip=clip_of(seed=seed), photo=of(photo), model="micro", **more)


def of(name: str) -> Photo:
    return Photo(sample_photo("cat"), name, "crop", FOCUS)


def results(folder: Path | None = None, *, words: Words | None = None, on_finish: Any = id) -> ClipHistory:
    return ClipHistory(words or Words(), picture=as_html("svdkit-picture"), folder=folder, on_finish=on_finish)


def shown(part: Any) -> bool:
    return bool(part.layout.display != "none")


class TestCode:
    def test_it_makes_the_same_clip(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run as it stands, on the real micro: bit for bit the frames it was written for."""
        import torch  # this test needs the model

        pipe = svdkit.load("micro")
        assert isinstance(pipe.unet, torch.nn.Module)
        settings = ClipSettings(num_frames=3, num_inference_steps=2, seed=9, motion_bucket_id=60, fps=9)
        clip = generate(pipe, "cat", settings, fit_mode="crop", focus=(0.25, 0.75), progress=False)
        code = _python_code(
            Made(clip=clip, photo=Photo(sample_photo("cat"), "cat", "crop", (0.25, 0.75)), model="micro")
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(svdkit, "load", lambda model, **load: pipe)
        names: dict[str, Any] = {}
        exec(code, names)
        assert names["clip"] == clip
        assert np.array_equal(names["clip"].frames, clip.frames)
        assert Clip.read("clip.mp4").provenance == clip.provenance

    def test_the_call_loads_what_was_loaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every setting of loading that is not the usual one is in the call, and svdkit.load takes it."""
        asked = list[Any]()
        monkeypatch.setattr(svdkit, "load", lambda model, **load: asked.append(LoadSettings(model=model, **load)))
        monkeypatch.setattr(svdkit, "generate", lambda *_, **__: clip_of())
        monkeypatch.setattr(Clip, "save", lambda *_, **__: None)
        load = LoadSettings(model="svd-xt", weights="random", dtype="bf16", memory="offload", device="cuda")
        exec(_python_code(Made(clip=clip_of(load=load.to_dict()), photo=of("rocket"), model="svd-xt")), {})
        assert asked == [load]

    def test_what_it_looks_like(self) -> None:
        code = _python_code(Made(clip=clip_of(seed=7), photo=of("rocket"), model="micro"))
        assert code.startswith(
            "import svdkit\n\npipe = svdkit.load('micro', dtype='fp32', memory='resident', device='cpu')\n"
        )
        assert (
            "photo = 'rocket'\nclip = svdkit.generate(pipe, photo, settings, fit_mode='crop', focus=(0.5, 0.25))\n"
            in code
        )
        assert code.endswith('clip.save("clip.mp4")\n')
        assert "    seed=7,\n" in code

    def test_an_upload_has_no_name_in_it(self) -> None:
        code = _python_code(Made(clip=clip_of(), photo=of(""), model="micro"))
        assert "photo = 'photo.jpg'  # where your upload is\n" in code

    def test_a_hostile_name_is_a_text(self) -> None:
        """It comes out as the photo it is called, and nothing of it runs."""
        code = _python_code(Made(clip=clip_of(), photo=of(HOSTILE), model="micro"))
        (line,) = [line for line in code.splitlines() if line.startswith("photo = ")]
        names: dict[str, Any] = {}
        exec(line, names)
        assert names["photo"] == HOSTILE

    def test_a_pipeline_that_svdkit_did_not_load_is_not_said_to_be_micro(self) -> None:
        """Nobody knows how it was made: code that loads another model would make another clip."""
        about = provenance(kind="svd", load={}, model={"name": "own pipeline", "revision": None, "weights": "unknown"})
        code = _python_code(Made(clip=micro_clip(provenance=about), photo=of("rocket"), model="micro"))
        compile(code, "code", "exec")
        assert "svdkit.load('micro'" not in code


class TestSweep:
    def plan(self, text: str, path: Path) -> Any:
        file = path / "sweep.yml"
        file.write_text(text, encoding="utf-8")
        return plan_sweep(**read_sweep(file), forecast=False)

    def test_svdkit_sweep_takes_it(self, tmp_path: Path) -> None:
        """Three motions by three seeds around the clip, all else as it was."""
        clip = clip_of(seed=7, motion_bucket_id=100, noise_aug_strength=0.05)
        plan = self.plan(_sweep_file(Made(clip=clip, photo=of("rocket"), model="micro")), tmp_path)
        clips = [run.clip for run in plan.jobs]
        assert sorted({one.motion_bucket_id for one in clips}) == [50, 100, 150]
        assert sorted({one.seed for one in clips}) == [7, 8, 9]
        assert len(clips) == 9
        assert {one.noise_aug_strength for one in clips} == {0.05}
        assert {(one.height, one.width, one.num_frames) for one in clips} == {(32, 48, 4)}
        assert {run.load.model for run in plan.jobs} == {"micro"}
        assert {(run.frame.mode, run.frame.focus) for run in plan.jobs} == {("crop", (0.5, 0.25))}

    @pytest.mark.parametrize(("bucket", "expected"), [(1, [1]), (127, [63, 127, 190]), (255, [127, 255])])
    def test_motion_stays_within_what_is_useful(self, bucket: int, expected: list[int], tmp_path: Path) -> None:
        text = _sweep_file(Made(clip=clip_of(motion_bucket_id=bucket), photo=of("rocket"), model="micro"))
        assert yaml.safe_load(text)["axes"]["motion_bucket_id"] == expected
        assert len(self.plan(text, tmp_path).jobs) == 3 * len(expected)

    def test_a_photo_with_an_awkward_name(self, tmp_path: Path) -> None:
        """Written so that YAML reads it back as it was."""
        for name in (HOSTILE, "照片 #1.jpg", "yes", "1e3", ": x"):
            values = yaml.safe_load(_sweep_file(Made(clip=clip_of(), photo=of(name), model="micro")))
            assert values["photos"] == [name]
        file = tmp_path / "照片 #1: a.png"
        micro_clip().photo.save(file)  # type: ignore[union-attr]
        assert len(self.plan(_sweep_file(Made(clip=clip_of(), photo=of(str(file)), model="micro")), tmp_path).jobs) == 9

    def test_it_says_how_to_run_it(self) -> None:
        head = "# svdkit sweep this_file.yml\n"
        assert _sweep_file(Made(clip=clip_of(), photo=of("rocket"), model="micro")).startswith(
            f"{head}photos: [rocket]\n"
        )
        upload = _sweep_file(Made(clip=clip_of(), photo=of(""), model="/models/mine"))
        assert upload.startswith(f"{head}# photo.jpg stands for your upload\nphotos: [photo.jpg]\n")
        assert yaml.safe_load(upload)["load"]["model"] == "/models/mine"


def test_the_video_says_how_it_was_made_and_has_no_photo(tmp_path: Path) -> None:
    """The bytes of an mp4 that svdkit reads back."""
    path = tmp_path / "a.mp4"
    path.write_bytes(_video_bytes(clip_of(seed=5)))
    read = Clip.read(path)
    assert read.provenance == clip_of(seed=5).provenance
    assert read.photo is None
    assert read.num_frames == 4


class TestShown:
    def test_at_first_there_is_nothing(self) -> None:
        one = results()
        assert one.player.value == '<div class="svdkit-empty">The clip will be here.</div>'
        assert (shown(one._after), shown(one._history), shown(one.save)) == (False, False, False)

    def test_a_clip_plays_at_once(self) -> None:
        """With a poster, its shape, a caption, and a download under a name that says the seed."""
        one = results()
        added = one.add(made(seed=42))
        text = one.player.value
        assert re.search(r'<video controls loop muted autoplay playsinline aria-label="#1 micro · motion 127', text)
        assert "aspect-ratio:1.5000" in text
        assert 'poster="data:image/jpeg;base64,' in text
        video, download = re.findall(r'(?:src|href)="data:video/mp4;base64,([^"]+)"', text)
        assert video == download
        assert base64.b64decode(video)[4:8] == b"ftyp"
        assert 'download="clip-1-seed-42.mp4"' in text
        expected = "#1 micro · motion 127 · steps 25 · seed 42 · frames 4 · 7 fps"
        assert added.label(Words()) == expected
        assert "2.8 s</figcaption>" in text
        assert (shown(one._after), shown(one._history)) == (True, False)
        assert "seed=42" in one.code.value
        assert yaml.safe_load(one.sweep.value)["axes"]["seed"] == [42, 43, 44]

    def test_at_most_twelve_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The newest; their numbers go on."""
        one = results()
        monkeypatch.setattr(one, "_play", id)  # fifteen videos would take seconds
        for seed in range(15):
            one.add(made(seed=seed))
        assert [kept.number for kept in one.made] == list(range(4, 16))
        assert [mark.description.split()[0] for mark in one.list.children] == [f"#{number}" for number in range(4, 16)]

    def test_two_clips_can_be_compared(self) -> None:
        """Not one alone, and only those that are chosen."""
        one = results()
        one.add(made(seed=1))
        assert one.compare.disabled
        one.add(made(seed=2))
        one.add(made(seed=3))
        assert shown(one._history)
        assert [mark.value for mark in one.list.children] == [False, False, False]
        one.list.children[0].value = True
        assert one.compare.disabled
        one.list.children[1].value = True
        assert not one.compare.disabled
        one.compare.click()
        page = html.unescape(one.compared.value)
        assert one.compared.value.startswith("<iframe ")
        assert ("seed 1" in page, "seed 2" in page, "seed 3" in page) == (True, True, False)

    def test_drafts_are_offered_to_be_finished(self) -> None:
        """A button each, which hands on the settings of the full clip."""
        wanted = [ClipSettings(seed=seed) for seed in (5, 6)]
        finished = list[Made]()
        one = results(on_finish=finished.append)
        drafts = [one.add(made(seed=clip.seed or 0, finish=clip), alone=False) for clip in wanted]
        one.show_drafts(drafts)
        assert [button.description for button in one.drafts.children] == ["Finish seed 5", "Finish seed 6"]
        assert "seed 6" in html.unescape(one.player.value)
        one.drafts.children[1].click()
        assert finished == [drafts[1]]
        one.add(made(seed=6))
        assert one.drafts.children == ()

    def test_hostile_names_are_texts_everywhere(self) -> None:
        """In no widget of HTML is anything of them a tag; in a text field they are what they are."""
        one = results()
        settings = SETTINGS | {"height": 32, "width": 48, "num_frames": 4, "seed": 3}
        model = {"name": "<script>alert(2)</script>", "revision": "a", "weights": "trained"}
        about = provenance(load=LOAD, model=model, settings=settings)
        hostile = Made(clip=micro_clip(provenance=about), photo=of(HOSTILE), model="micro")
        one.add(hostile)
        one.add(hostile)
        for mark in one.list.children:
            mark.value = True
        one.compare_chosen()
        pages = [widget.value for widget in tree(one.widget) if type(widget).__name__ == "HTML"]
        assert any(pages)
        assert not any("<script>alert" in page for page in pages)
        assert f"photo = {HOSTILE!r}\n" in one.code.value

    def test_another_language(self) -> None:
        words = Words()
        one = results(Path("out"), words=words)
        one.show_drafts([one.add(made(seed=seed, finish=ClipSettings(seed=seed)), alone=False) for seed in (5, 6)])
        for mark in one.list.children:
            mark.value = True
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
        one.add(made(seed=7))
        words.switch("zh")
        assert "运动 127" in one.player.value


class TestChosen:
    def test_an_earlier_clip_is_shown_again_and_saved(self, tmp_path: Path) -> None:
        """With its download and its code; the next new clip takes its place."""
        one = results(tmp_path)
        for seed in (1, 2):
            one.add(made(seed=seed))
        assert one.again.disabled
        one.list.children[0].value = True
        assert not one.again.disabled
        one.again.click()
        assert 'download="clip-1-seed-1.mp4"' in one.player.value
        assert "seed=1" in one.code.value
        one.save.click()
        assert (tmp_path / "clip-1-seed-1.mp4").is_file()
        one.list.children[1].value = True
        assert one.again.disabled
        one.add(made(seed=3))
        assert 'download="clip-3-seed-3.mp4"' in one.player.value

    def test_a_draft_can_be_had_as_it_is(self, tmp_path: Path) -> None:
        """While all are in view none is the one to save."""
        one = results(tmp_path)
        one.show_drafts([one.add(made(seed=seed, finish=ClipSettings(seed=seed)), alone=False) for seed in (5, 6)])
        assert not shown(one._after)
        one.list.children[0].value = True
        one.again.click()
        assert shown(one._after)
        assert one.drafts.children == ()
        assert 'download="clip-1-seed-5.mp4"' in one.player.value

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
                one.add(made(seed=4))
            one.list.children[0].value = True
            one.again.click()
            assert "no space left" in one.saved.value
        assert len(one.made) == 1
        one.save.click()
        assert (tmp_path / "clip-1-seed-4.mp4").is_file()


class TestSave:
    def test_the_newest_is_saved(self, tmp_path: Path) -> None:
        """The folder is made only then; a sample's photo goes beside the clip."""
        folder = tmp_path / "outputs" / "panel"
        one = results(folder)
        one.add(made(seed=1))
        one.add(made(seed=2))
        assert not folder.exists()
        one.save.click()
        assert sorted(path.name for path in folder.iterdir()) == [
            "clip-2-seed-2.json",
            "clip-2-seed-2.mp4",
            "clip-2-seed-2.photo.png",
        ]
        assert one.saved.value == f"Saved as {folder / 'clip-2-seed-2.mp4'}"
        assert Clip.read(folder / "clip-2-seed-2.mp4").provenance == clip_of(seed=2).provenance

    def test_the_photo_of_an_upload_is_left_out(self, tmp_path: Path) -> None:
        one = results(tmp_path)
        one.add(made(photo=""))
        one.save.click()
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".mp4"]
        assert "photo" not in [path.stem for path in tmp_path.rglob("*.png")]

    def test_without_a_folder_or_a_clip_there_is_nothing_to_save(self, tmp_path: Path) -> None:
        results(tmp_path).save_current()
        one = results(None)
        one.add(made())
        one.save_current()
        assert one.saved.value == ""
        assert list(tmp_path.iterdir()) == []
        assert not shown(one.save)

    def test_a_folder_that_cannot_be_made_is_said_to_be(self, tmp_path: Path) -> None:
        """An error of a callback vanishes in a log that nobody reads."""
        (tmp_path / "file").write_text("in the way", encoding="utf-8")
        one = results(tmp_path / "file" / "panel")
        one.add(made())
        one.save.click()
        assert "file" in one.saved.value
        assert "Saved as" not in one.saved.value

    def test_a_folder_with_a_hostile_name(self, tmp_path: Path) -> None:
        one = results(tmp_path / "<b>bold")
        one.add(made())
        one.save.click()
        assert "<b>" not in one.saved.value
        assert "&lt;b&gt;bold" in one.saved.value


def test_forgetting_leaves_nothing_behind() -> None:
    """No picture, no video, no recipe in any widget that is left, so that a saved notebook has none."""
    close_all()
    one = results(Path("out"))
    drafts = [made(seed=seed, photo="secret.jpg", finish=ClipSettings(seed=seed)) for seed in (5, 6)]
    one.show_drafts([one.add(draft, alone=False) for draft in drafts])
    for mark in one.list.children:
        mark.value = True
    one.compare_chosen()
    assert "data:video" in state()
    assert "secret.jpg" in state()
    one.forget()
    left = state()
    assert "data:" not in left
    assert "base64," not in left
    assert "secret.jpg" not in left
    assert one.made == []
    assert "The clip will be here." in one.player.value
    assert not shown(one._after)
    one.add(made(seed=8))
    assert one.made[0].number == 3


def test_forgetting_lets_go_of_clips_and_photos() -> None:
    """ipywidgets keeps every widget that is open, and with a draft's button what it would finish."""
    one = results()
    for round_ in range(2):
        drafts = [made(seed=10 * round_ + seed, finish=ClipSettings(seed=seed)) for seed in (5, 6)]
        one.show_drafts([one.add(draft, alone=False) for draft in drafts])
    for mark in one.list.children:
        mark.value = True
    one.compare_chosen()
    alive = [weakref.ref(part) for kept in one.made for part in (kept.clip, kept.photo.image)]
    one.forget()
    del drafts
    gc.collect()
    assert [part() for part in alive] == [None] * 8


def test_what_leaves_the_page_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The buttons of drafts when the next clip comes, the box of the thirteenth clip, and all when it is cleared."""
    one = results()
    monkeypatch.setattr(one, "_play", id)
    one.show_drafts([one.add(made(seed=seed, finish=ClipSettings(seed=seed)), alone=False) for seed in (5, 6)])
    buttons, marks = one.drafts.children, one.list.children
    for seed in range(11):
        one.add(made(seed=seed))
    assert [button.comm for button in buttons] == [None] * 2
    assert marks[0].comm is None
    assert marks[1].comm is not None
    kept = one.list.children
    one.forget()
    assert [mark.comm for mark in kept] == [None] * 12
