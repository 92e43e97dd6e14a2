"""svdkit.image, fitting: crop, pad, stretch, what is shown of it, and the way back."""

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svdkit.errors import ImageError
from svdkit.image import Frame, fit, preview_fit, read_image, restore, sample_photo, size_advice

MODES = ("crop", "pad", "stretch")


def pixels(image):
    return np.asarray(image).astype(np.int64)


def chart(height, width):
    """A photo whose red grows to the right and whose green grows downwards: a colour is a place."""
    values = np.zeros((height, width, 3), np.uint8)
    values[:, :, 0] = np.linspace(0, 255, width)
    values[:, :, 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(values)


WIDE, TALL, FULL = (100, 400), (400, 100), (0, 0, 64, 64)


@pytest.mark.parametrize(
    ("photo", "mode", "focus", "box", "content"),
    [
        (WIDE, "crop", (0.5, 0.5), (150, 0, 250, 100), FULL),
        (WIDE, "crop", (0.0, 0.0), (0, 0, 100, 100), FULL),
        (WIDE, "crop", (1.0, 1.0), (300, 0, 400, 100), FULL),
        (WIDE, "crop", (0.4, 0.9), (110, 0, 210, 100), FULL),
        (WIDE, "crop", (0.05, 0.5), (0, 0, 100, 100), FULL),
        (TALL, "crop", (0.5, 0.25), (0, 50, 100, 150), FULL),
        (WIDE, "pad", (0.5, 0.5), (0, 0, 400, 100), (0, 24, 64, 40)),
        (TALL, "pad", (0.5, 0.5), (0, 0, 100, 400), (24, 0, 40, 64)),
        (WIDE, "stretch", (0.5, 0.5), (0, 0, 400, 100), FULL),
    ],
)
def test_what_is_kept_and_where_it_is(photo, mode, focus, box, content):
    """The focus is in the middle as far as the photo goes."""
    frame = fit(chart(*photo), height=64, width=64, mode=mode, focus=focus)
    assert (frame.photo_height, frame.photo_width) == photo
    assert frame.box == pytest.approx(box)
    assert frame.content_box == content


def test_what_is_seen_of_it():
    crop, pad, stretch = (
        pixels(fit(chart(*WIDE), height=64, width=64, mode=mode, border="#102030").image) for mode in MODES
    )
    assert crop[32, 32] == pytest.approx((128, 128, 0), abs=4)
    assert (pad[:24] == (16, 32, 48)).all()
    assert (pad[40:] == (16, 32, 48)).all()
    assert pad[32, 60] == pytest.approx((240, 136, 0), abs=8)
    corners = stretch[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.abs(corners[:, :2] - [[0, 0], [255, 0], [0, 255], [255, 255]]).max() <= 4
    white = fit(chart(*WIDE), height=64, width=64, mode="pad", border="white").image
    assert white.getpixel((0, 0)) == (255, 255, 255)


def test_the_aspect_is_never_distorted():
    """The kept part has the frame's aspect to a fraction of a pixel, for odd sizes too."""
    for height, width in ((576, 1024), (1024, 576), (72, 128), (577, 1023), (320, 576), (8, 999)):
        left, top, right, bottom = fit("cat", height=height, width=width).box
        assert (right - left) / (bottom - top) == pytest.approx(width / height)


def test_a_photo_of_the_right_size_is_not_touched():
    photo = sample_photo("coffee")
    for mode in MODES:
        assert (pixels(fit(photo, height=photo.height, width=photo.width, mode=mode).image) == pixels(photo)).all()


def test_shrinking_averages_and_does_not_sparkle():
    """Stripes of one pixel become grey; without averaging they would become a pattern (moiré)."""
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    values = pixels(fit(stripes, height=64, width=64).image)[:, 4:-4]
    assert values.min() >= 124
    assert values.max() <= 131


def test_shrinking_a_large_photo_in_two_steps_is_as_good_as_in_one_and_enlarging_is_smooth():
    large = sample_photo("rocket").resize((5120, 3416), Image.Resampling.BICUBIC)
    fair = large.resize((128, 72), Image.Resampling.LANCZOS, box=fit(large, height=72, width=128).box)
    assert np.abs(pixels(fit(large, height=72, width=128).image) - pixels(fair)).max() <= 3
    values = pixels(fit(chart(9, 16), height=576, width=1024).image)[:, 64:-64, 0]
    assert np.abs(np.diff(values, axis=1)).max() <= 2


def test_the_blurred_border_is_the_photo_out_of_focus():
    photo = fit("rocket", height=1024, width=576, mode="pad")
    assert photo.content_box == (0, 320, 576, 704)
    border = pixels(photo.image)[:312]
    assert max(np.abs(np.diff(border, axis=axis)).max() for axis in (0, 1)) <= 4
    sky = pixels(sample_photo("rocket"))[:100].mean(axis=(0, 1))
    assert border.mean(axis=(0, 1)) == pytest.approx(sky, abs=40)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (1, 1), (3, 200_000)])
def test_odd_shapes_are_fitted_and_come_back(size, mode):
    frame = fit(Image.new("RGB", size, "white"), height=64, width=128, mode=mode, border="white")
    assert (pixels(frame.image) >= 254).all()
    back = restore(np.asarray(frame.image)[None], frame)
    assert back.shape[0] == 1
    assert min(back.shape) >= 1
    assert max(preview_fit(Image.new("RGB", size), height=64, width=128, mode=mode).size) <= 768


def test_every_size_from_8_is_possible_numpys_too():
    for height, width in ((8, 8), (8, 2048), (1024, 576), (577, 321)):
        for mode in MODES:
            assert fit("cat", height=height, width=width, mode=mode).image.size == (width, height)
    frame = fit("cat", height=np.int64(64), width=np.uint8(128), focus=(np.float32(0.5), 1))  # type: ignore[arg-type]
    assert json.loads(json.dumps(frame.to_dict()))["height"] == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 7}, r"height=7 is not a frame's size\. Give a whole number of pixels from 8 to 8192"),
        ({"width": 10**9}, "width=1000000000 is not a frame's size"),
        ({"width": 64.0}, r"width=64\.0 is not a frame's size"),
        ({"height": True}, "height=True"),
        ({"height": None}, "height=None"),
        ({"mode": "cut"}, r"mode='cut' is unknown\. The modes are: crop, pad, stretch\."),
        ({"mode": ["crop"]}, r"mode=\['crop'\] is unknown"),
        ({"focus": (0.5, 1.1)}, r"focus=\(0\.5, 1\.1\) is not a point in the photo\. Give \(x, y\), each from 0 to 1"),
        ({"focus": (float("nan"), 0)}, "is not a point"),
        ({"focus": "centre"}, "focus='centre' is not a point"),
        ({"focus": 0.5}, r"focus=0\.5 is not a point"),
        ({"focus": (0, 0, 0)}, "is not a point"),
        ({"border": "blurred"}, r"'blurred' is not a colour\. Give a name such as .white."),
        ({"border": None}, "None is not a colour"),
        ({}, r"no_such_file\.jpg does not exist"),
    ],
)
def test_a_bad_setting_is_named_before_the_photo_is_read(change, message):
    settings: dict[str, Any] = {"height": 64, "width": 64} | change
    for function in (fit, preview_fit):
        with pytest.raises(ImageError, match=message):
            function("no_such_file.jpg", **settings)


def test_a_frame_tells_its_source_by_name_only_and_its_picture_carries_nothing(tmp_path):
    sample_photo("cat").save(tmp_path / "me.png")
    sources = [fit(source, height=64, width=64).source for source in ("cat", tmp_path / "me.png", np.zeros((9, 9)))]
    assert sources == ["cat", "me.png", None]
    assert fit("rocket", height=64, width=64).image.info == {}


def test_its_hash_is_of_size_and_pixels():
    frame = fit("cat", height=64, width=128)
    assert frame.sha256 == hashlib.sha256(b"64x128x3:" + np.asarray(frame.image).tobytes()).hexdigest()
    assert fit("cat", height=64, width=128).sha256 == frame.sha256
    black = np.zeros((16, 16))
    assert fit(black, height=16, width=64).sha256 != fit(black, height=32, width=32).sha256


def test_a_frame_goes_through_json_and_back(tmp_path):
    frame = fit("rocket", height=64, width=128, mode="pad", focus=(0.25, 0.5), border="#102030")
    frame.image.save(tmp_path / "photo.png")
    data = json.loads(json.dumps(frame.to_dict()))
    assert "image" not in data
    assert data["content_box"] == [16, 0, 112, 64]
    again = Frame.from_dict(data, image=read_image(tmp_path / "photo.png"))
    assert again == frame
    assert again.focus == (0.25, 0.5)
    with pytest.raises(ImageError, match=r"not the one described: its SHA-256 differs\. Give the picture that was"):
        Frame.from_dict(data, image=fit("cat", height=64, width=128).image)
    wrong: list[Any] = [{}, {"height": 64}, [], None]
    for odd in wrong:
        with pytest.raises(ImageError, match=r"does not describe a frame .* Give what Frame\.to_dict\(\) returned"):
            Frame.from_dict(odd, image=Image.new("RGB", (128, 64)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 72}, r"a frame of \(128, 72\) .* needs an RGB image of that size, not .*mode=RGB size=128x64"),
        ({"image": Image.new("L", (128, 64))}, "not .*mode=L size=128x64"),
        ({"mode": "tile"}, "mode='tile' is unknown"),
        ({"source": 7}, "source=7 is not a name"),
        (
            {"box": (0.0, 0.0, 900.0, 10.0)},
            r"\(0\.0, 0\.0, 900\.0, 10\.0\) is not left, top, right and bottom inside a picture of \(640, 427\)",
        ),
        ({"content_box": (9, 0, 9, 64)}, r"inside a picture of \(128, 64\)"),
    ],
)
def test_parts_that_do_not_belong_together(change, message):
    frame = fit("rocket", height=64, width=128)
    with pytest.raises(ImageError, match=message):
        dataclasses.replace(frame, **change)
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.height = 8  # type: ignore[misc]


def clip(frame):
    return np.stack([np.asarray(frame.image)] * 3)


def test_a_crop_comes_back_unchanged_and_a_pad_without_its_borders():
    frame = fit("cat", height=64, width=128)
    assert (restore(clip(frame), frame) == clip(frame)).all()
    frame = fit(chart(100, 400), height=64, width=64, mode="pad", border="white")
    back = restore(clip(frame), frame)
    assert back.shape == (3, 16, 64, 3)
    assert back[..., 2].max() <= 2  # the chart has no blue, the border has


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(64, 64, (16, 64)), (64, 512, (64, 256)), (32, 128, (32, 128))]
)
def test_a_stretch_is_squeezed_back(height, width, expected):
    frame = fit(chart(100, 400), height=height, width=width, mode="stretch")
    back = restore(clip(frame), frame)
    assert back.shape == (3, *expected, 3)
    direct = fit(chart(100, 400), height=expected[0], width=expected[1], mode="stretch").image
    assert np.abs(back[0] - pixels(direct)).max() <= 4


@pytest.mark.parametrize(
    "frames",
    [np.zeros((3, 64, 64, 3)), np.zeros((64, 64, 3), np.uint8), np.zeros((3, 64, 128, 3), np.uint8), None, [[1]]],
)
def test_frames_of_another_clip(frames):
    for mode in MODES:
        frame = fit("cat", height=64, width=64, mode=mode)
        assert restore(np.empty((0, 64, 64, 3), np.uint8), frame).shape[0] == 0  # no frames come back as none
        with pytest.raises(
            ImageError, match=r"do not belong to this frame: allowed is uint8 of \(frames, 64, 64, 3\)\. Give"
        ):
            restore(frames, frame)


def test_the_cut_is_shaded_and_the_kept_part_is_as_it_is_with_a_thin_line_around():
    photo, shown = sample_photo("coffee"), preview_fit("coffee", height=400, width=300)
    assert shown.size == photo.size
    assert fit("coffee", height=400, width=300).box == (150.0, 0.0, 450.0, 400.0)
    assert (pixels(shown)[4:-4, 154:446] == pixels(photo)[4:-4, 154:446]).all()
    assert (pixels(shown)[:, 148:150] == 255).all()
    for cut in (slice(0, 147), slice(453, 600)):
        assert pixels(shown)[:, cut].mean() < 0.75 * pixels(photo)[:, cut].mean()


def test_large_photos_are_shown_smaller():
    large = sample_photo("rocket").resize((3000, 2000))
    assert preview_fit(large, height=576, width=1024).size == (768, 512)
    assert preview_fit(large, height=1024, width=576, mode="pad").size == (432, 768)


@pytest.mark.parametrize("mode", ["pad", "stretch"])
def test_modes_that_cut_nothing_show_the_frame(mode):
    shown = preview_fit("cat", height=64, width=128, mode=mode, border="red")
    assert (pixels(shown) == pixels(fit("cat", height=64, width=128, mode=mode, border="red").image)).all()


SVD = {"trained_height": 576, "trained_width": 1024}
MICRO = {"trained_height": 72, "trained_width": 128}  # no multiples of 64: multiples of 8 are enough for it
GOOD = ((576, 1024), (1024, 576), (320, 576), (320, 512), (768, 768), (576, 576), (512, 1024))


@pytest.mark.parametrize(
    ("height", "width", "trained", "messages"),
    [
        *((*size, SVD, ()) for size in GOOD),
        (256, 256, SVD, ("is 0.11 of the area that the model was trained on (576×1024): expect blur",)),
        (1088, 1920, SVD, ("is 3.5 × the area that the model was trained on (576×1024): expect repeated",)),
        (384, 1024, SVD, ("is longer than 2:1",)),
        (600, 1000, SVD, ("is not in multiples of 64", "noise_aug_strength from 0.05 to 0.1", "The best size is 576×")),
        (72, 1280, SVD, ("is 0.16 of the area", "×1024; good ones are multiples of 64, up to 2:1, with at least a q")),
        (72, 1288, SVD, ("; it is longer than 2:1", "; it is not in multiples of 64")),
        (2048, 1152, SVD, ("The best size is 1024×576;",)),
        (72, 128, MICRO, ()),
        (96, 96, MICRO, ()),
        (576, 1024, MICRO, ("The best size is 72×128",)),
    ],
)
def test_a_far_size_is_told_and_the_best_one_named(height, width, trained, messages):
    advice = size_advice(height=height, width=width, **trained)
    assert (advice is None) == (not messages)
    assert all(message in str(advice) for message in messages)
