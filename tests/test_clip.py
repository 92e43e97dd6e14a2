"""Clips keep their frames and provenance through every format, and show themselves in a notebook."""

from __future__ import annotations

import base64
import json
import pickle
import re
import string
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from svdkit.clip import Clip, lettering, picture_sheet
from svdkit.errors import ClipError, SvdkitWarning
from tests.clips import micro_clip, moving, provenance

if TYPE_CHECKING:
    from pathlib import Path

LOSSY = {".mp4": 3.0, ".webm": 3.0, ".webp": 3.0, ".gif": 14.0}  # 256 colours cannot hold a gradient in three channels


class TestObject:
    def test_sizes(self):
        clip = micro_clip()
        assert (clip.num_frames, clip.height, clip.width) == (4, 32, 48)

    def test_frames_are_a_read_only_copy(self):
        frames = moving()
        clip = Clip(frames, fps=7)
        frames[:] = 0
        assert clip.frames.max() > 200
        with pytest.raises(ValueError, match="read-only"):
            clip.frames[0] = 0

    def test_it_survives_pickling_as_a_worker_process_needs(self):
        assert pickle.loads(pickle.dumps(micro_clip())) == micro_clip()

    def test_equal_when_frames_rate_and_provenance_are(self):
        assert micro_clip() == micro_clip()
        assert micro_clip() != micro_clip(fps=8)
        assert micro_clip() != micro_clip(provenance=None)
        assert micro_clip() != Clip(moving()[::-1], fps=7, provenance=provenance(), photo=micro_clip().photo)
        assert micro_clip() != "a clip"

    def test_time_and_place_do_not_make_clips_different(self):
        """Else a replayed clip would never equal its original."""
        later = provenance(stage_seconds={"encode": 9.0}, environment={"gpu": "H200"}, created_at="2031-01-01")
        assert micro_clip() == micro_clip(provenance=later)
        assert micro_clip() != micro_clip(provenance=provenance(settings={"seed": 2}))

    def test_it_has_no_hash(self):
        with pytest.raises(TypeError, match="unhashable"):
            hash(micro_clip())

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            ([[1]], "frames are a list; give one array, of a list np.stack(it)"),
            (np.zeros((4, 8, 8), np.uint8), "frames have shape (4, 8, 8); give (frames, height, width, 3)"),
            (np.zeros((4, 8, 8, 4), np.uint8), "frames have shape (4, 8, 8, 4)"),
            (np.zeros((0, 8, 8, 3), np.uint8), "at least one frame"),
            (np.zeros((4, 8, 8, 3)), "frames are float64; give uint8, values 0 to 255"),
            (np.zeros((1, 1, 1, 3), np.uint8).repeat(34_000_000, 1), "frames of 1x34000000 pixels are larger than 8K"),
        ],
    )
    def test_wrong_frames_are_refused(self, frames: object, message: str):
        with pytest.raises(ClipError, match=re.escape(message)):
            Clip(frames, fps=7)  # type: ignore[arg-type]

    @pytest.mark.parametrize("fps", [0, -1, 0.09, 241, float("nan"), float("inf"), True, "7", None])
    def test_wrong_rates_are_refused(self, fps: object):
        with pytest.raises(ClipError, match=re.escape(f"fps is {fps!r}; give 0.1 to 240 frames a second")):
            Clip(moving(), fps=fps)  # type: ignore[arg-type]

    @pytest.mark.parametrize("fps", [np.int64(12), np.float32(12), Fraction(24, 2), Decimal(12)])
    def test_any_real_number_is_a_rate(self, fps: Any):
        assert repr(Clip(moving(), fps=fps).fps) == "12.0"

    def test_wrong_provenance_and_photo_are_refused(self):
        with pytest.raises(ClipError, match="provenance is a dict; give a Provenance, or None"):
            micro_clip(provenance={})
        with pytest.raises(ClipError, match="photo is a str; give the PIL image"):
            micro_clip(photo="rocket.jpg")


class TestLabel:
    def test_micro_is_called_micro(self):
        assert micro_clip().label == "micro · 4 frames · 7 fps · bucket 127 · seed 1"

    def test_micro_is_never_called_svd_whatever_its_model_says(self):
        misnamed = provenance(model={"name": "stable-video-diffusion"})
        clip = micro_clip(provenance=misnamed)
        shown = clip.label + repr(clip) + re.sub('base64,[^"]*', "", clip._repr_html_())
        assert "micro" in shown
        assert not re.search("svd|diffusion", shown, re.IGNORECASE)

    def test_random_weights_are_said(self):
        made = provenance(kind="svd", model={"name": "svd-xt", "weights": "random"})
        assert micro_clip(1, provenance=made).label.startswith("svd-xt with random weights · 1 frame · ")

    def test_a_foreign_video_is_a_video(self):
        assert Clip(moving(), fps=7.5).label == "video · 4 frames · 7.5 fps"


class TestSaveAndRead:
    @pytest.mark.parametrize("suffix", LOSSY)
    @pytest.mark.parametrize(("height", "width"), [(32, 48), (31, 47), (48, 32)])
    def test_every_format_gives_the_clip_back(self, suffix: str, height: int, width: int, tmp_path: Path):
        """Size, number, rate, provenance and photo are exact; colours stay near."""
        clip = Clip(moving(5, height=height, width=width), fps=7, provenance=provenance(), photo=micro_clip().photo)
        read = Clip.read(clip.save(tmp_path / f"walk{suffix}"))
        assert (read.frames.shape, read.fps) == (clip.frames.shape, 7.0)
        assert read.provenance is not None
        assert read.provenance.to_dict() == provenance(created_at=read.provenance.created_at).to_dict()
        assert read.photo == clip.photo
        assert np.abs(read.frames.astype(int) - clip.frames).mean() < LOSSY[suffix]

    def test_png_frames_are_exact(self, tmp_path: Path):
        folder = micro_clip().save(tmp_path / "walk.png")
        assert folder == tmp_path / "walk_frames"
        assert sorted(path.name for path in folder.iterdir()) == ["0001.png", "0002.png", "0003.png", "0004.png"]
        for path in (folder, tmp_path / "walk.png", tmp_path / "walk.json", str(folder)):
            assert Clip.read(path) == micro_clip()

    @pytest.mark.parametrize("suffix", [*LOSSY, ".png"])
    def test_the_file_alone_still_knows_everything(self, suffix: str, tmp_path: Path):
        path = micro_clip().save(tmp_path / f"walk{suffix}")
        (tmp_path / "walk.json").unlink()
        (tmp_path / "walk.photo.png").unlink()
        read = Clip.read(path)
        assert (read.provenance, read.fps, read.photo) == (provenance(), 7.0, None)

    @pytest.mark.parametrize("suffix", LOSSY)
    def test_frames_that_stand_still_are_all_there(self, suffix: str, tmp_path: Path):
        """gif and webp join equal neighbours into one frame with a long delay."""
        frames = moving(3).repeat([1, 50, 2], axis=0)
        assert Clip.read(Clip(frames, fps=7).save(tmp_path / f"walk{suffix}")).num_frames == 53
        assert Clip.read(Clip(frames[1:51], fps=7).save(tmp_path / f"walk{suffix}")).num_frames == 50

    def test_the_files_beside(self, tmp_path: Path):
        micro_clip().save(tmp_path / "walk.mp4")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["walk.json", "walk.mp4", "walk.photo.png"]
        values = json.loads((tmp_path / "walk.json").read_text())
        assert values["digital_source_type"].endswith("/digitalsourcetype/trainedAlgorithmicMedia")
        assert values["provenance"]["settings"]["seed"] == 1
        with Image.open(tmp_path / "walk.photo.png") as photo:
            assert photo.size == (48, 32)

    def test_a_private_photo_can_be_left_out(self, tmp_path: Path):
        micro_clip().save(tmp_path / "walk.mp4", keep_photo=False)
        assert not (tmp_path / "walk.photo.png").exists()

    def test_the_photo_is_saved_without_its_own_metadata(self, tmp_path: Path):
        photo = micro_clip().photo
        assert photo is not None
        photo.info["Comment"] = "taken at home"
        micro_clip(photo=photo).save(tmp_path / "walk.gif")
        with Image.open(tmp_path / "walk.photo.png") as saved:
            assert not saved.info

    def test_formats_of_one_clip_share_one_json(self, tmp_path: Path):
        micro_clip().save(tmp_path / "walk.mp4", scale=2)
        micro_clip().save(tmp_path / "walk.gif")
        assert Clip.read(tmp_path / "walk.json").frames.shape == (4, 64, 96, 3)
        assert Clip.read(tmp_path / "walk.gif").frames.shape == (4, 32, 48, 3)

    def test_scaled_files_are_larger_and_even(self, tmp_path: Path):
        clip = Clip(moving(height=31, width=47), fps=7)
        assert Clip.read(clip.save(tmp_path / "walk.mp4", scale=1.5)).frames.shape == (4, 46, 70, 3)

    def test_suffixes_are_read_in_capitals_too(self, tmp_path: Path):
        assert Clip.read(micro_clip().save(tmp_path / "WALK.GIF")).provenance == provenance()

    def test_what_a_file_holds_counts_not_its_suffix(self, tmp_path: Path):
        path = micro_clip().save(tmp_path / "walk.gif")
        assert Clip.read(path.rename(tmp_path / "walk.mp4")).num_frames == 4

    def test_a_name_may_look_like_an_option_or_an_address(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        for name in ("-i.mp4", "http:walk.mp4", "100%03d.mp4", "für Elise #1.mp4"):
            assert Clip.read(micro_clip().save(name)).num_frames == 4

    def test_a_video_of_someone_else_is_a_clip_without_provenance(self, tmp_path: Path):
        path = Clip(moving(), fps=12.5).save(tmp_path / "walk.mp4")
        text = path.read_bytes().replace(b"svdkit_clip", b"other_thing")
        path.write_bytes(text)
        (tmp_path / "walk.json").write_text('{"made by": "another program"}')
        read = Clip.read(path)
        assert (read.provenance, read.fps, read.num_frames) == (None, 12.5, 4)

    def test_what_svdkit_did_not_make_is_not_marked_as_generated(self, tmp_path: Path):
        for suffix in LOSSY:
            path = Clip(moving(), fps=7).save(tmp_path / f"walk{suffix}")
            assert b"trainedAlgorithmicMedia" not in path.read_bytes() + (tmp_path / "walk.json").read_bytes()

    def test_foreign_frames_play_at_seven_a_second_in_the_order_of_their_numbers(self, tmp_path: Path):
        for i in (10, 9, 1):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"shot{i}.png")
        read = Clip.read(tmp_path)
        assert (read.fps, read.frames[:, 0, 0, 0].tolist()) == (7.0, [1, 9, 10])

    def test_a_foreign_gif_keeps_its_rhythm(self, tmp_path: Path):
        first, second = (Image.new("L", (8, 8), grey) for grey in (50, 200))
        first.save(tmp_path / "a.gif", save_all=True, append_images=[second], duration=[100, 300])
        read = Clip.read(tmp_path / "a.gif")
        assert (read.fps, read.num_frames) == (10.0, 4)


class TestDisagreement:
    def test_the_provenance_inside_wins_over_a_json_of_another_clip(self, tmp_path: Path):
        micro_clip(provenance=provenance(settings={"seed": 5})).save(tmp_path / "old.gif", keep_photo=False)
        path = micro_clip().save(tmp_path / "walk.gif", keep_photo=False)
        (tmp_path / "old.json").replace(tmp_path / "walk.json")
        assert Clip.read(path).provenance == provenance()

    def test_the_json_beside_serves_when_another_program_removed_the_metadata(self, tmp_path: Path):
        path = micro_clip().save(tmp_path / "walk.gif")
        path.write_bytes(path.read_bytes().replace(b"svdkit_clip", b"other_thing"))
        assert Clip.read(path).provenance == provenance()

    def test_a_broken_json_is_left_out_with_a_warning(self, tmp_path: Path):
        path = Clip(moving(), fps=12.5).save(tmp_path / "walk.gif")
        path.write_bytes(path.read_bytes().replace(b"svdkit_clip", b"other_thing"))
        (tmp_path / "walk.json").write_text('{"svdkit_clip": 1, "fps": 0}')
        with pytest.warns(SvdkitWarning, match=r"what walk.json says of the clip is broken and left out: fps is 0"):
            assert Clip.read(path).fps == 12.5

    def test_another_photo_is_left_out_with_a_warning(self, tmp_path: Path):
        path = micro_clip().save(tmp_path / "walk.gif")
        Image.new("RGB", (48, 32)).save(tmp_path / "walk.photo.png")
        with pytest.warns(SvdkitWarning, match=r"what walk.photo.png says .* left out: the picture is not the one"):
            assert Clip.read(path).photo is None

    def test_missing_frames_are_said(self, tmp_path: Path):
        folder = micro_clip().save(tmp_path / "walk.png")
        (folder / "0004.png").unlink()
        with pytest.warns(SvdkitWarning, match="walk_frames holds 3 of its 4 frames; it was cut short"):
            assert Clip.read(folder).num_frames == 3


class TestRefusals:
    @pytest.mark.parametrize("name", ["walk.avi", "walk", ".mp4", "", "walk.mp4.zip"])
    def test_unknown_suffixes_are_not_written(self, name: str, tmp_path: Path):
        with pytest.raises(ClipError, match=r"has no suffix of a clip; use .mp4 \(plays everywhere\), .webm"):
            micro_clip().save(f"{tmp_path}/{name}")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(("path", "message"), [(7, "not 7"), (None, "not None"), (b"a.mp4", "not b'a.mp4'")])
    def test_what_is_no_path(self, path: object, message: str):
        with pytest.raises(ClipError, match=f"a clip's path is a text or a Path, {message}"):
            Clip.read(path)  # type: ignore[arg-type]
        with pytest.raises(ClipError, match="a clip's path is a text or a Path"):
            micro_clip().save(path)  # type: ignore[arg-type]

    @pytest.mark.parametrize("scale", [0, -1, 17, float("nan")])
    def test_odd_scales(self, scale: float, tmp_path: Path):
        with pytest.raises(ClipError, match="give a factor above 0, at most 16"):
            micro_clip().save(tmp_path / "walk.mp4", scale=scale)

    def test_what_cannot_be_read_says_why(self, tmp_path: Path):
        (tmp_path / "text.mp4").write_text("#EXTM3U\nhttp://example.org/secret.ts\n")
        (tmp_path / "other.json").write_text('{"a": 1}')
        (tmp_path / "empty").mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
        micro_clip().save(tmp_path / "gone.gif")
        (tmp_path / "gone.gif").unlink()
        for name, message in {
            "none.mp4": "none.mp4 is not there; check the name and the folder",
            "a\0b.mp4": "is not there",
            "text.mp4": "text.mp4 is not an mp4, webm, gif or webp video; convert it first",
            "other.json": "other.json has no clip beside it; give a video",
            "empty": "holds no .png frames",
            "one.png": "one.png has no clip beside it; give a video, a folder of frames",
            "gone.json": "gone.json has no clip beside it; give a video",
            "x" * 300 + ".mp4": "cannot be read (File name too long)",
        }.items():
            with pytest.raises(ClipError, match=re.escape(message)):
                Clip.read(f"{tmp_path}/{name}")

    def test_frames_of_different_sizes(self, tmp_path: Path):
        folder = micro_clip().save(tmp_path / "walk.png")
        Image.new("RGB", (8, 8)).save(folder / "0003.png")
        with pytest.raises(
            ClipError, match=r"0003.png is not as large as 0001.png; all frames of a clip have one size"
        ):
            Clip.read(folder)

    def test_the_current_folder_is_a_folder_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(micro_clip().save(tmp_path / "walk.png"))
        assert Clip.read(".") == micro_clip()
        with pytest.raises(ClipError, match=r"^/ holds no .png frames; give a folder that Clip.save wrote"):
            Clip.read("/")


class TestDisplay:
    def test_a_notebook_shows_a_player_that_needs_no_other_file(self):
        shown = micro_clip()._repr_html_()
        assert re.search(r"<video controls loop muted autoplay playsinline ", shown)
        assert not re.search(r"https?://|//cdn|<link|<script", shown)
        video = base64.b64decode(re.findall(r'src="data:video/mp4;base64,([^"]+)"', shown)[0])
        poster = base64.b64decode(re.findall(r'poster="data:image/jpeg;base64,([^"]+)"', shown)[0])
        assert (video[4:8], poster[:3]) == (b"ftyp", b"\xff\xd8\xff")
        assert "<figcaption" in shown
        assert "micro · 4 frames · 7 fps · bucket 127 · seed 1</figcaption>" in shown

    @pytest.mark.parametrize(
        ("height", "width", "shown"), [(72, 128, 480), (128, 72, 270), (32, 640, 640), (576, 1024, 768)]
    )
    def test_small_clips_are_enlarged_and_large_ones_limited(self, height: int, width: int, shown: int):
        html = Clip(np.zeros((1, height, width, 3), np.uint8), fps=7)._repr_html_()
        assert f"width:{shown}px;max-width:100%" in html
        assert "image-rendering:auto" in html

    def test_captions_are_escaped(self):
        evil = micro_clip(provenance=provenance(settings={"seed": '"><script>alert(1)</script>'}))
        assert "<script" not in evil._repr_html_()
        assert "&quot;&gt;&lt;script&gt;" in evil._repr_html_()


def make_font(path: Path, letters: str) -> None:
    """Write a font that draws each of its letters as a bar of its own height, and all others as a box."""
    names = {letter: f"letter{ord(letter)}" for letter in letters}
    glyphs = {}
    for height, name in enumerate([".notdef", *names.values()]):
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for point in ((0, 100 + 9 * height), (800, 100 + 9 * height), (800, 0)):
            pen.lineTo(point)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap({ord(letter): name for letter, name in names.items()})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


class TestContactSheet:
    def test_every_frame_is_on_it_in_order(self):
        frames = np.zeros((7, 10, 20, 3), np.uint8)
        frames += np.arange(10, 80, 10, dtype=np.uint8)[:, None, None, None]
        sheet = Clip(frames, fps=7).contact_sheet(columns=3)
        centres = [sheet.getpixel((8 + i % 3 * 328 + 160, 8 + i // 3 * 186 + 80)) for i in range(7)]
        assert centres == [(value, value, value) for value in range(10, 80, 10)]

    def test_long_settings_are_wrapped_not_cut(self):
        narrow, wide = (micro_clip().contact_sheet(columns=columns) for columns in (1, 4))
        assert (narrow.width, wide.width) == (336, 1320)
        assert narrow.height > 4 * (213 + 26) + 3 * 18
        assert all(np.asarray(sheet)[:, -4:].min() == 255 for sheet in (narrow, wide))

    @pytest.mark.parametrize(
        ("fonts", "drawn"),
        [
            ([], ["photo \\u732b.jpg · bucket 1", "\\u72d7 a"]),
            (["no font", "latin.ttf"], ["photo \\u732b.jpg · bucket 1", "\\u72d7 a"]),
            (["latin.ttf", "chinese.ttf"], ["photo 猫.jpg · bucket 1", "狗 a"]),
        ],
    )
    def test_letters_that_pillows_font_lacks(
        self, fonts: list[str], drawn: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """In a font of this machine, else escaped; never as boxes that are all the same."""
        latin = string.ascii_letters + string.digits + "\\.· "
        make_font(tmp_path / "latin.ttf", latin)
        make_font(tmp_path / "chinese.ttf", latin + "猫狗")
        (tmp_path / "no font").write_bytes(b"no font")
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / name) for name in fonts])
        font, texts = lettering(["photo 猫.jpg · bucket 1", "狗\n a"], size=14)
        assert texts == drawn
        assert ("chinese" in str(font.path)) == ("猫" in drawn[0])
        cat, dog = (picture_sheet([None], [name], height=9, width=200, columns=1) for name in ("猫", "狗"))
        assert cat.tobytes() != dog.tobytes()

    def test_wide_letters_are_wrapped_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        make_font(tmp_path / "chinese.ttf", "猫")
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / "chinese.ttf")])
        sheet = np.asarray(picture_sheet([None], [""], height=9, width=200, columns=1, caption="猫" * 40))
        assert sheet[:, -4:].min() == 255
        assert (sheet.shape[1] - 16) // 13 < 40 < 4 * (sheet.shape[1] - 16) // 13

    def test_columns_are_no_more_than_frames(self):
        assert micro_clip(2).contact_sheet(columns=9).width == 8 + 2 * 328

    @pytest.mark.parametrize("columns", [0, -1, 2.5, True, "4"])
    def test_wrong_columns_are_refused(self, columns: object):
        with pytest.raises(ClipError, match=r"columns is .*; give a whole number from 1 to 4096"):
            micro_clip().contact_sheet(columns=columns)  # type: ignore[arg-type]
