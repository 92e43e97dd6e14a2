"""Clips keep their frames and provenance through every format, and show themselves in a notebook."""

import base64
import json
import pickle
import re
import string
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from svdkit.clip import Clip, lettering, picture_sheet
from svdkit.errors import ClipError, SvdkitWarning
from tests.clips import micro_clip, moving, provenance

LOSSY = {".mp4": 3.0, ".webm": 3.0, ".webp": 3.0, ".gif": 14.0}  # 256 colours cannot hold a gradient in three channels


def test_frames_are_a_read_only_copy_that_survives_pickling_as_a_worker_process_needs():
    frames = moving()
    clip = Clip(frames, fps=7)
    frames[:] = 0
    assert clip.frames.max() > 200
    assert (clip.num_frames, clip.height, clip.width) == (4, 32, 48)
    with pytest.raises(ValueError, match="read-only"):
        clip.frames[0] = 0
    assert pickle.loads(pickle.dumps(micro_clip())) == micro_clip()


def test_equal_when_frames_rate_and_provenance_are():
    """Time and place do not make clips different: else a replayed clip would never equal its original."""
    later = provenance(stage_seconds={"encode": 9.0}, environment={"gpu": "H200"}, created_at="2031-01-01")
    assert micro_clip() == micro_clip() == micro_clip(provenance=later)
    for other in (
        micro_clip(fps=8),
        micro_clip(provenance=None),
        micro_clip(provenance=provenance(settings={"seed": 2})),
        Clip(moving()[::-1], fps=7, provenance=provenance(), photo=micro_clip().photo),
        "a clip",
    ):
        assert micro_clip() != other
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
def test_wrong_frames_are_refused(frames, message):
    with pytest.raises(ClipError, match=re.escape(message)):
        Clip(frames, fps=7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({"fps": fps}, f"fps is {fps!r}; give 0.1 to 240 frames a second")
          for fps in (0, -1, 0.09, 241, float("nan"), float("inf"), True, "7", None)),
        ({"provenance": {}}, "provenance is a dict; give a Provenance, or None"),
        ({"photo": "rocket.jpg"}, "photo is a str; give the PIL image"),
    ],
)  # fmt: skip
def test_wrong_parts_are_refused(changes, message):
    with pytest.raises(ClipError, match=re.escape(message)):
        micro_clip(**changes)


@pytest.mark.parametrize("fps", [np.int64(12), np.float32(12), Fraction(24, 2), Decimal(12)])
def test_any_real_number_is_a_rate(fps):
    assert repr(Clip(moving(), fps=fps).fps) == "12.0"


def test_micro_is_never_called_svd_whatever_its_model_says():
    assert micro_clip().label == "micro · 4 frames · 7 fps · bucket 127 · seed 1"
    clip = micro_clip(provenance=provenance(model={"name": "stable-video-diffusion"}))
    shown = clip.label + repr(clip) + re.sub('base64,[^"]*', "", clip._repr_html_())
    assert "micro" in shown
    assert not re.search("svd|diffusion", shown, re.IGNORECASE)
    made = provenance(kind="svd", model={"name": "svd-xt", "weights": "random"})
    assert micro_clip(1, provenance=made).label.startswith("svd-xt with random weights · 1 frame · ")
    assert Clip(moving(), fps=7.5).label == "video · 4 frames · 7.5 fps"


@pytest.mark.parametrize("suffix", LOSSY)
@pytest.mark.parametrize(("height", "width"), [(32, 48), (31, 47), (48, 32)])
def test_every_format_gives_the_clip_back(suffix, height, width, tmp_path):
    """Size, number, rate, provenance and photo are exact; colours stay near."""
    clip = Clip(moving(5, height=height, width=width), fps=7, provenance=provenance(), photo=micro_clip().photo)
    read = Clip.read(clip.save(tmp_path / f"walk{suffix}"))
    assert (read.frames.shape, read.fps) == (clip.frames.shape, 7.0)
    assert read.provenance is not None
    assert read.provenance.to_dict() == provenance(created_at=read.provenance.created_at).to_dict()
    assert read.photo == clip.photo
    assert np.abs(read.frames.astype(int) - clip.frames).mean() < LOSSY[suffix]


def test_png_frames_are_exact(tmp_path, monkeypatch):
    folder = micro_clip().save(tmp_path / "walk.png")
    assert folder == tmp_path / "walk_frames"
    assert sorted(path.name for path in folder.iterdir()) == ["0001.png", "0002.png", "0003.png", "0004.png"]
    monkeypatch.chdir(folder)
    for path in (folder, tmp_path / "walk.png", tmp_path / "walk.json", str(folder), "."):
        assert Clip.read(path) == micro_clip()


@pytest.mark.parametrize("suffix", [*LOSSY, ".png"])
def test_the_file_alone_still_knows_everything(suffix, tmp_path):
    path = micro_clip().save(tmp_path / f"walk{suffix}")
    (tmp_path / "walk.json").unlink()
    (tmp_path / "walk.photo.png").unlink()
    read = Clip.read(path)
    assert (read.provenance, read.fps, read.photo) == (provenance(), 7.0, None)


@pytest.mark.parametrize("suffix", LOSSY)
def test_frames_that_stand_still_are_all_there(suffix, tmp_path):
    """gif and webp join equal neighbours into one frame with a long delay."""
    frames = moving(3).repeat([1, 50, 2], axis=0)
    assert Clip.read(Clip(frames, fps=7).save(tmp_path / f"walk{suffix}")).num_frames == 53
    assert Clip.read(Clip(frames[1:51], fps=7).save(tmp_path / f"walk{suffix}")).num_frames == 50


def test_the_files_beside(tmp_path):
    """A private photo can be left out, and one that is saved is without its own metadata."""
    photo = micro_clip().photo
    assert photo is not None
    photo.info["Comment"] = "taken at home"
    micro_clip(photo=photo).save(tmp_path / "walk.mp4", keep_photo=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["walk.json", "walk.mp4"]
    values = json.loads((tmp_path / "walk.json").read_text())
    assert values["digital_source_type"].endswith("/digitalsourcetype/trainedAlgorithmicMedia")
    assert values["provenance"]["settings"]["seed"] == 1
    micro_clip(photo=photo).save(tmp_path / "walk.gif")
    with Image.open(tmp_path / "walk.photo.png") as saved:
        assert (saved.size, saved.info) == ((48, 32), {})


def test_formats_of_one_clip_share_one_json_and_scaled_files_are_even(tmp_path):
    micro_clip().save(tmp_path / "walk.mp4", scale=2)
    micro_clip().save(tmp_path / "walk.gif")
    assert Clip.read(tmp_path / "walk.json").frames.shape == (4, 64, 96, 3)
    assert Clip.read(tmp_path / "walk.gif").frames.shape == (4, 32, 48, 3)
    clip = Clip(moving(height=31, width=47), fps=7)
    assert Clip.read(clip.save(tmp_path / "walk.mp4", scale=1.5)).frames.shape == (4, 46, 70, 3)


def test_what_a_file_holds_counts_not_its_suffix(tmp_path):
    path = micro_clip().save(tmp_path / "WALK.GIF")
    assert Clip.read(path.rename(tmp_path / "walk.mp4")).provenance == provenance()


def test_a_name_may_look_like_an_option_or_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-i.mp4", "http:walk.mp4", "100%03d.mp4", "für Elise #1.mp4"):
        assert Clip.read(micro_clip().save(name)).num_frames == 4


def test_a_video_of_someone_else_is_a_clip_without_provenance(tmp_path):
    path = Clip(moving(), fps=12.5).save(tmp_path / "walk.mp4")
    path.write_bytes(path.read_bytes().replace(b"svdkit_clip", b"other_thing"))
    (tmp_path / "walk.json").write_text('{"made by": "another program"}')
    read = Clip.read(path)
    assert (read.provenance, read.fps, read.num_frames) == (None, 12.5, 4)


def test_what_svdkit_did_not_make_is_not_marked_as_generated(tmp_path):
    for suffix in LOSSY:
        path = Clip(moving(), fps=7).save(tmp_path / f"walk{suffix}")
        assert b"trainedAlgorithmicMedia" not in path.read_bytes() + (tmp_path / "walk.json").read_bytes()


def test_foreign_frames_play_at_seven_a_second_in_the_order_of_their_numbers(tmp_path):
    for i in (10, 9, 1):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"shot{i}.png")
    read = Clip.read(tmp_path)
    assert (read.fps, read.frames[:, 0, 0, 0].tolist()) == (7.0, [1, 9, 10])


def test_a_foreign_gif_keeps_its_rhythm(tmp_path):
    first, second = (Image.new("L", (8, 8), grey) for grey in (50, 200))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second], duration=[100, 300])
    read = Clip.read(tmp_path / "a.gif")
    assert (read.fps, read.num_frames) == (10.0, 4)


def test_the_provenance_inside_wins_and_the_json_beside_serves_when_it_was_removed(tmp_path):
    micro_clip(provenance=provenance(settings={"seed": 5})).save(tmp_path / "old.gif", keep_photo=False)
    path = micro_clip().save(tmp_path / "walk.gif", keep_photo=False)
    (tmp_path / "old.json").replace(tmp_path / "walk.json")
    assert Clip.read(path).provenance == provenance()
    path.write_bytes(path.read_bytes().replace(b"svdkit_clip", b"other_thing"))
    assert Clip.read(path).provenance == provenance(settings={"seed": 5})
    (tmp_path / "walk.json").write_text('{"svdkit_clip": 1, "fps": 0}')
    with pytest.warns(SvdkitWarning, match=r"what walk.json says of the clip is broken and left out: fps is 0"):
        assert Clip.read(path).provenance is None


def test_another_photo_is_left_out_with_a_warning(tmp_path):
    path = micro_clip().save(tmp_path / "walk.gif")
    Image.new("RGB", (48, 32)).save(tmp_path / "walk.photo.png")
    with pytest.warns(SvdkitWarning, match=r"what walk.photo.png says .* left out: the picture is not the one"):
        assert Clip.read(path).photo is None


def test_missing_frames_are_said_and_frames_of_different_sizes_are_refused(tmp_path):
    folder = micro_clip().save(tmp_path / "walk.png")
    (folder / "0004.png").unlink()
    with pytest.warns(SvdkitWarning, match="walk_frames holds 3 of its 4 frames; it was cut short"):
        assert Clip.read(folder).num_frames == 3
    Image.new("RGB", (8, 8)).save(folder / "0003.png")
    with pytest.raises(ClipError, match=r"0003.png is not as large as 0001.png; all frames of a clip have one size"):
        Clip.read(folder)


@pytest.mark.parametrize("name", ["walk.avi", "walk", ".mp4", "", "walk.mp4.zip"])
def test_unknown_suffixes_are_not_written(name, tmp_path):
    with pytest.raises(ClipError, match=r"has no suffix of a clip; use .mp4 \(plays everywhere\), .webm"):
        micro_clip().save(f"{tmp_path}/{name}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("path", "message"), [(7, "not 7"), (None, "not None"), (b"a.mp4", "not b'a.mp4'")])
def test_what_is_no_path(path, message):
    for use in (Clip.read, micro_clip().save):
        with pytest.raises(ClipError, match=f"a clip's path is a text or a Path, {message}"):
            use(path)


@pytest.mark.parametrize("scale", [0, -1, 17, float("nan")])
def test_odd_scales(scale, tmp_path):
    with pytest.raises(ClipError, match="give a factor above 0, at most 16"):
        micro_clip().save(tmp_path / "walk.mp4", scale=scale)


def test_what_cannot_be_read_says_why(tmp_path):
    (tmp_path / "text.mp4").write_text("#EXTM3U\nhttp://example.org/secret.ts\n")
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    for name, message in {
        "none.mp4": "none.mp4 is not there; check the name and the folder",
        "a\0b.mp4": "is not there",
        "text.mp4": "text.mp4 is not an mp4, webm, gif or webp video; convert it first",
        "other.json": "other.json has no clip beside it; give a video",
        "empty": "holds no .png frames; give a folder that Clip.save wrote",
        "../" * 99: "/ holds no .png frames",
        "one.png": "one.png has no clip beside it; give a video, a folder of frames",
        "x" * 300 + ".mp4": "cannot be read (File name too long)",
    }.items():
        with pytest.raises(ClipError, match=re.escape(message)):
            Clip.read(f"{tmp_path}/{name}")


def test_a_notebook_shows_a_player_that_needs_no_other_file():
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
def test_small_clips_are_enlarged_and_large_ones_limited(height, width, shown):
    html = Clip(np.zeros((1, height, width, 3), np.uint8), fps=7)._repr_html_()
    assert f"width:{shown}px;max-width:100%" in html
    assert "image-rendering:auto" in html


def test_captions_are_escaped():
    evil = micro_clip(provenance=provenance(settings={"seed": '"><script>alert(1)</script>'}))._repr_html_()
    assert "<script" not in evil
    assert "&quot;&gt;&lt;script&gt;" in evil


def make_font(path, letters):
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


def test_a_sheet_too_large_for_memory_is_refused():
    clip = Clip(np.zeros((2400, 16, 28, 3), np.uint8), fps=7)
    with pytest.raises(ClipError, match="a contact sheet of 2400 frames of 28x16 pixels is too large; cut the clip"):
        clip.contact_sheet()


def test_every_frame_is_on_the_contact_sheet_in_order():
    frames = np.zeros((7, 10, 20, 3), np.uint8)
    frames += np.arange(10, 80, 10, dtype=np.uint8)[:, None, None, None]
    sheet = Clip(frames, fps=7).contact_sheet(columns=3)
    centres = [sheet.getpixel((8 + i % 3 * 328 + 160, 8 + i // 3 * 186 + 80)) for i in range(7)]
    assert centres == [(value, value, value) for value in range(10, 80, 10)]
    assert micro_clip(2).contact_sheet(columns=9).width == 8 + 2 * 328  # no more columns than frames


def test_long_settings_are_wrapped_not_cut():
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
def test_letters_that_pillows_font_lacks(fonts, drawn, tmp_path, monkeypatch):
    """In a font of this machine, else escaped; never as boxes that are all the same. Wide ones are wrapped too."""
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
    sheet = np.asarray(picture_sheet([None], [""], height=9, width=200, columns=1, caption="猫" * 40))
    assert sheet[:, -4:].min() == 255
    assert sheet[-18:].min() < 255


@pytest.mark.parametrize("columns", [0, -1, 2.5, True, "4"])
def test_wrong_columns_are_refused(columns):
    with pytest.raises(ClipError, match=r"columns is .*; give a whole number from 1 to 4096"):
        micro_clip().contact_sheet(columns=columns)
