"""svdkit.image, fitting: crop, pad, stretch, what is shown of it, and the way back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from svdkit.errors import ImageError
from svdkit.image import Frame, fit, preview_fit, read_image, restore, sample_photo, size_advice

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


def pixels(image: Image.Image) -> npt.NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


def chart(height: int, width: int) -> Image.Image:
    """A photo whose red grows to the right and whose green grows downwards: a colour is a place."""
    values = np.zeros((height, width, 3), np.uint8)
    values[:, :, 0] = np.linspace(0, 255, width)
    values[:, :, 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(values)


class TestCrop:
    def test_the_middle_is_kept(self) -> None:
        frame = fit(chart(100, 400), height=64, width=64)
        assert frame.box == (150.0, 0.0, 250.0, 100.0)
        assert (frame.photo_height, frame.photo_width) == (100, 400)
        assert frame.content_box == (0, 0, 64, 64)
        assert pixels(frame.image)[32, 32] == pytest.approx((128, 128, 0), abs=4)

    @pytest.mark.parametrize(
        ("focus", "box"),
        [
            ((0.0, 0.0), (0.0, 0.0, 100.0, 100.0)),
            ((1.0, 1.0), (300.0, 0.0, 400.0, 100.0)),
            ((0.4, 0.9), (110.0, 0.0, 210.0, 100.0)),
            ((0.05, 0.5), (0.0, 0.0, 100.0, 100.0)),
        ],
    )
    def test_the_focus_is_in_the_middle_as_far_as_the_photo_goes(self, focus: tuple[float, float], box: object) -> None:
        assert fit(chart(100, 400), height=64, width=64, focus=focus).box == pytest.approx(box)

    def test_the_focus_works_downwards_too(self) -> None:
        frame = fit(chart(400, 100), height=64, width=64, focus=(0.5, 0.25))
        assert frame.box == pytest.approx((0.0, 50.0, 100.0, 150.0))

    def test_the_aspect_is_never_distorted(self) -> None:
        """The kept part has the frame's aspect to a fraction of a pixel, for odd sizes too."""
        for height, width in ((576, 1024), (1024, 576), (72, 128), (577, 1023), (320, 576), (8, 999)):
            left, top, right, bottom = fit("cat", height=height, width=width).box
            assert (right - left) / (bottom - top) == pytest.approx(width / height)

    def test_a_photo_of_the_right_size_is_not_touched(self) -> None:
        photo = sample_photo("coffee")
        for mode in ("crop", "pad", "stretch"):
            frame = fit(photo, height=photo.height, width=photo.width, mode=mode)
            assert (pixels(frame.image) == pixels(photo)).all()

    def test_shrinking_averages_and_does_not_sparkle(self) -> None:
        """Stripes of one pixel become grey; without averaging they would become a pattern (moiré)."""
        stripes = np.zeros((640, 640, 3), np.uint8)
        stripes[:, ::2] = 255
        values = pixels(fit(stripes, height=64, width=64).image)[:, 4:-4]
        assert values.min() >= 124
        assert values.max() <= 131

    def test_shrinking_a_large_photo_in_two_steps_is_as_good_as_in_one(self) -> None:
        large = sample_photo("rocket").resize((5120, 3416), Image.Resampling.BICUBIC)
        fair = large.resize((128, 72), Image.Resampling.LANCZOS, box=fit(large, height=72, width=128).box)
        assert np.abs(pixels(fit(large, height=72, width=128).image) - pixels(fair)).max() <= 3

    def test_enlarging_is_smooth(self) -> None:
        values = pixels(fit(chart(9, 16), height=576, width=1024).image)[:, 64:-64, 0]
        assert np.abs(np.diff(values, axis=1)).max() <= 2


class TestPad:
    def test_the_whole_photo_is_in_the_middle(self) -> None:
        frame = fit(chart(100, 400), height=64, width=64, mode="pad", border="#102030")
        assert frame.box == (0.0, 0.0, 400.0, 100.0)
        assert frame.content_box == (0, 24, 64, 40)
        values = pixels(frame.image)
        assert (values[:24] == (16, 32, 48)).all()
        assert (values[40:] == (16, 32, 48)).all()
        assert values[32, 60] == pytest.approx((240, 136, 0), abs=8)

    def test_a_portrait_photo_has_borders_at_the_sides(self) -> None:
        assert fit(chart(400, 100), height=64, width=64, mode="pad").content_box == (24, 0, 40, 64)

    def test_the_blurred_border_is_the_photo_out_of_focus(self) -> None:
        photo = fit("rocket", height=1024, width=576, mode="pad")
        top = photo.content_box[1]
        assert photo.content_box == (0, 320, 576, 704)
        border = pixels(photo.image)[: top - 8]
        assert np.abs(np.diff(border, axis=0)).max() <= 4
        assert np.abs(np.diff(border, axis=1)).max() <= 4
        sky = pixels(sample_photo("rocket"))[:100].mean(axis=(0, 1))
        assert border.mean(axis=(0, 1)) == pytest.approx(sky, abs=40)

    def test_the_border_is_chosen_by_name_too(self) -> None:
        frame = fit(chart(100, 400), height=64, width=64, mode="pad", border="white")
        assert frame.image.getpixel((0, 0)) == (255, 255, 255)


class TestStretch:
    def test_the_whole_photo_fills_the_frame(self) -> None:
        frame = fit(chart(100, 400), height=64, width=64, mode="stretch")
        assert frame.box == (0.0, 0.0, 400.0, 100.0)
        corners = pixels(frame.image)[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert np.abs(corners[:, :2] - [[0, 0], [255, 0], [0, 255], [255, 255]]).max() <= 4


class TestExtremes:
    @pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
    @pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (1, 1), (3, 200_000)])
    def test_odd_shapes_are_fitted_and_come_back(self, size: tuple[int, int], mode: str) -> None:
        frame = fit(Image.new("RGB", size, "white"), height=64, width=128, mode=mode, border="white")
        assert (pixels(frame.image) >= 254).all()
        back = restore(np.asarray(frame.image)[None], frame)
        assert back.shape[0] == 1
        assert min(back.shape) >= 1
        assert max(preview_fit(Image.new("RGB", size), height=64, width=128, mode=mode).size) <= 768

    @pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 2048), (1024, 576), (577, 321)])
    def test_every_size_from_8_is_possible(self, height: int, width: int) -> None:
        for mode in ("crop", "pad", "stretch"):
            assert fit("cat", height=height, width=width, mode=mode).image.size == (width, height)

    def test_numpys_whole_numbers_are_sizes(self) -> None:
        frame = fit("cat", height=np.int64(64), width=np.uint8(128), focus=(np.float32(0.5), 1))  # type: ignore[arg-type]
        assert json.loads(json.dumps(frame.to_dict()))["height"] == 64


class TestRefusals:
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
            (
                {"focus": (0.5, 1.1)},
                r"focus=\(0\.5, 1\.1\) is not a point in the photo\. Give \(x, y\), each from 0 to 1",
            ),
            ({"focus": (float("nan"), 0)}, "is not a point"),
            ({"focus": "centre"}, "focus='centre' is not a point"),
            ({"focus": 0.5}, r"focus=0\.5 is not a point"),
            ({"focus": (0, 0, 0)}, "is not a point"),
            ({"border": "blurred"}, r"'blurred' is not a colour\. Give a name such as .white."),
            ({"border": None}, "None is not a colour"),
        ],
    )
    def test_a_bad_setting_is_named_before_the_photo_is_read(self, change: dict[str, Any], message: str) -> None:
        settings: dict[str, Any] = {"height": 64, "width": 64} | change
        for function in (fit, preview_fit):
            with pytest.raises(ImageError, match=message):
                function("no_such_file.jpg", **settings)

    def test_a_bad_photo_is_the_readers_error(self) -> None:
        with pytest.raises(ImageError, match=r"no_such_file\.jpg does not exist"):
            fit("no_such_file.jpg", height=64, width=64)


class TestFrame:
    def test_it_tells_its_source_by_name_only(self, tmp_path: Path) -> None:
        sample_photo("cat").save(tmp_path / "me.png")
        sources = [fit(source, height=64, width=64).source for source in ("cat", tmp_path / "me.png", np.zeros((9, 9)))]
        assert sources == ["cat", "me.png", None]

    def test_its_hash_is_of_size_and_pixels(self) -> None:
        frame = fit("cat", height=64, width=128)
        assert frame.sha256 == hashlib.sha256(b"64x128x3:" + np.asarray(frame.image).tobytes()).hexdigest()
        assert fit("cat", height=64, width=128).sha256 == frame.sha256
        black = np.zeros((16, 16))
        assert fit(black, height=16, width=64).sha256 != fit(black, height=32, width=32).sha256

    def test_its_picture_carries_nothing_else(self) -> None:
        assert fit("rocket", height=64, width=64).image.info == {}

    def test_it_goes_through_json_and_back(self, tmp_path: Path) -> None:
        frame = fit("rocket", height=64, width=128, mode="pad", focus=(0.25, 0.5), border="#102030")
        frame.image.save(tmp_path / "photo.png")
        data = json.loads(json.dumps(frame.to_dict()))
        assert "image" not in data
        assert data["content_box"] == [16, 0, 112, 64]
        again = Frame.from_dict(data, image=read_image(tmp_path / "photo.png"))
        assert again == frame
        assert again.focus == (0.25, 0.5)

    def test_another_picture_is_not_taken_for_it(self) -> None:
        data = fit("rocket", height=64, width=128).to_dict()
        with pytest.raises(ImageError, match=r"not the one described: its SHA-256 differs. Give the picture that was"):
            Frame.from_dict(data, image=fit("cat", height=64, width=128).image)

    @pytest.mark.parametrize("data", [{}, {"height": 64}, [], None])
    def test_an_incomplete_description(self, data: Any) -> None:
        with pytest.raises(ImageError, match=r"does not describe a frame .* Give what Frame\.to_dict\(\) returned"):
            Frame.from_dict(data, image=Image.new("RGB", (128, 64)))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"height": 72}, r"a frame of \(128, 72\) .* needs an RGB image of that size, not .*mode=RGB size=128x64"),
            ({"image": Image.new("L", (128, 64))}, "not .*mode=L size=128x64"),
            ({"mode": "tile"}, "mode='tile' is unknown"),
            (
                {"box": (0.0, 0.0, 900.0, 10.0)},
                r"\(0\.0, 0\.0, 900\.0, 10\.0\) is not left, top, right and bottom inside a picture of \(640, 427\)",
            ),
            ({"content_box": (9, 0, 9, 64)}, r"inside a picture of \(128, 64\)"),
        ],
    )
    def test_parts_that_do_not_belong_together(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ImageError, match=message):
            dataclasses.replace(fit("rocket", height=64, width=128), **change)

    def test_it_cannot_be_changed(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            fit("cat", height=64, width=64).height = 8  # type: ignore[misc]


class TestRestore:
    def clip(self, frame: Frame) -> npt.NDArray[np.uint8]:
        return np.stack([np.asarray(frame.image)] * 3)

    def test_a_crop_is_unchanged(self) -> None:
        frame = fit("cat", height=64, width=128)
        assert (restore(self.clip(frame), frame) == self.clip(frame)).all()

    def test_a_pad_loses_its_borders(self) -> None:
        frame = fit(chart(100, 400), height=64, width=64, mode="pad", border="white")
        back = restore(self.clip(frame), frame)
        assert back.shape == (3, 16, 64, 3)
        assert back[..., 2].max() <= 2  # the chart has no blue, the border has

    @pytest.mark.parametrize(
        ("height", "width", "expected"), [(64, 64, (16, 64)), (64, 512, (64, 256)), (32, 128, (32, 128))]
    )
    def test_a_stretch_is_squeezed_back(self, height: int, width: int, expected: tuple[int, int]) -> None:
        frame = fit(chart(100, 400), height=height, width=width, mode="stretch")
        back = restore(self.clip(frame), frame)
        assert back.shape == (3, *expected, 3)
        direct = fit(chart(100, 400), height=expected[0], width=expected[1], mode="stretch").image
        assert np.abs(back[0] - pixels(direct)).max() <= 4

    def test_no_frames_come_back_as_none(self) -> None:
        for mode in ("crop", "pad", "stretch"):
            frame = fit(chart(100, 400), height=64, width=64, mode=mode)
            assert restore(np.empty((0, 64, 64, 3), np.uint8), frame).shape[0] == 0

    @pytest.mark.parametrize(
        "frames",
        [np.zeros((3, 64, 64, 3)), np.zeros((64, 64, 3), np.uint8), np.zeros((3, 64, 128, 3), np.uint8), None, [[1]]],
    )
    def test_frames_of_another_clip(self, frames: Any) -> None:
        frame = fit("cat", height=64, width=64, mode="pad")
        with pytest.raises(
            ImageError, match=r"do not belong to this frame: allowed is uint8 of \(frames, 64, 64, 3\)\. Give"
        ):
            restore(frames, frame)


class TestPreview:
    def test_the_cut_is_shaded_and_the_kept_part_is_as_it_is(self) -> None:
        photo = sample_photo("coffee")
        shown = preview_fit("coffee", height=400, width=300)
        assert shown.size == photo.size
        kept = fit("coffee", height=400, width=300).box
        assert kept == (150.0, 0.0, 450.0, 400.0)
        assert (pixels(shown)[4:-4, 154:446] == pixels(photo)[4:-4, 154:446]).all()
        for cut in (slice(0, 148), slice(452, 600)):
            assert pixels(shown)[:, cut].mean() < 0.75 * pixels(photo)[:, cut].mean()

    def test_a_thin_line_goes_around_what_is_kept(self) -> None:
        shown = pixels(preview_fit("rocket", height=576, width=1024, focus=(0.5, 0.5)))
        assert (shown[32:34, 5:-5] == 255).all()
        assert (shown[[30, 36], 5:-5] < 255).any()

    def test_large_photos_are_shown_smaller(self) -> None:
        large = sample_photo("rocket").resize((3000, 2000))
        assert preview_fit(large, height=576, width=1024).size == (768, 512)
        assert preview_fit(large, height=1024, width=576, mode="pad").size == (432, 768)

    @pytest.mark.parametrize("mode", ["pad", "stretch"])
    def test_modes_that_cut_nothing_show_the_frame(self, mode: str) -> None:
        shown = preview_fit("cat", height=64, width=128, mode=mode, border="red")
        assert (pixels(shown) == pixels(fit("cat", height=64, width=128, mode=mode, border="red").image)).all()


class TestSizeAdvice:
    @pytest.mark.parametrize(
        ("height", "width"), [(576, 1024), (1024, 576), (320, 576), (320, 512), (768, 768), (576, 576), (512, 1024)]
    )
    def test_good_sizes_need_no_advice(self, height: int, width: int) -> None:
        assert size_advice(height=height, width=width, trained_height=576, trained_width=1024) is None

    @pytest.mark.parametrize(
        ("height", "width", "message"),
        [
            (256, 256, "is 0.11 of the area that the model was trained on (576×1024): expect blur"),
            (1088, 1920, "is 3.5 × the area that the model was trained on (576×1024): expect repeated"),
            (384, 1024, "is longer than 2:1"),
            (600, 1000, "is not in multiples of 64"),
            (72, 1280, "is 0.16 of the area"),
        ],
    )
    def test_a_far_size_is_told_and_the_best_one_named(self, height: int, width: int, message: str) -> None:
        advice = size_advice(height=height, width=width, trained_height=576, trained_width=1024)
        assert advice is not None
        assert message in advice
        assert "The best size is 576×1024; good ones are multiples of 64, up to 2:1, with at least a quarter" in advice
        assert "noise_aug_strength from 0.05 to 0.1" in advice

    def test_several_remarks_are_one_text(self) -> None:
        advice = size_advice(height=72, width=1288, trained_height=576, trained_width=1024)
        assert advice is not None
        assert "; it is longer than 2:1" in advice
        assert "; it is not in multiples of 64" in advice

    def test_a_model_of_another_grid(self) -> None:
        """Micro was trained at 72 × 128, which is no multiple of 64: multiples of 8 are enough for it."""
        trained = {"trained_height": 72, "trained_width": 128}
        assert size_advice(height=72, width=128, **trained) is None
        assert size_advice(height=96, width=96, **trained) is None
        assert "The best size is 72×128" in str(size_advice(height=576, width=1024, **trained))

    def test_a_portrait_is_advised_a_portrait(self) -> None:
        advice = size_advice(height=2048, width=1152, trained_height=576, trained_width=1024)
        assert "The best size is 1024×576;" in str(advice)
