"""A photo made into the frame that the model sees, and back: crop, pad or stretch; any size that is a multiple of 8."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from svdkit.errors import ImageError
from svdkit.errors import shown as as_text
from svdkit.image.decode import parse_colour
from svdkit.image.read import SOURCE_KEY, read_image

_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Frame:
    """A photo fitted to the model's size, with what is needed to go back.

    Attributes:
        image: RGB, 8 bits a channel, exactly ``height`` × ``width``.
        height: Pixels, 8 to 8192.
        width: Pixels, 8 to 8192.
        mode: ``"crop"``, ``"pad"`` or ``"stretch"``.
        focus: Where the cut is centred, (x, y) from (0, 0) at the photo's top left to (1, 1) at its bottom right.
        border: ``"blur"`` or a colour; used by ``"pad"`` only.
        photo_height: Pixels of the upright photo.
        photo_width: Pixels of the upright photo.
        box: The part of the photo that is kept: left, top, right, bottom in photo pixels, with fractions.
        content_box: Where that part is in the frame: left, top, right, bottom in frame pixels.
        source: The sample's or the file's name, never its folder; None when there was no file.
        sha256: Of the frame's size and pixels, in hexadecimal; computed, not given.

    Raises:
        ImageError: The values contradict each other.

    Example:
        >>> frame = fit("rocket", height=72, width=128)
        >>> frame.image.size, frame.box
        ((128, 72), (0.0, 33.5, 640.0, 393.5))
    """

    image: Image.Image = field(repr=False, compare=False)  # sha256 stands for it
    height: int
    width: int
    mode: str
    focus: tuple[float, float]
    border: str
    photo_height: int
    photo_width: int
    box: _Box
    content_box: tuple[int, int, int, int]
    source: str | None = None
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        _check_fit(height=self.height, width=self.width, mode=self.mode, focus=self.focus, border=self.border)
        photo, frame = (self.photo_width, self.photo_height), (self.width, self.height)
        if self.image.mode != "RGB" or self.image.size != frame:
            raise ImageError(
                f"a frame of {frame} (width, height) needs an RGB image of that size, not {self.image!r}. Make frames "
                "with svdkit.fit."
            )
        if not isinstance(self.source, str | None):
            raise ImageError(f"source={as_text(self.source)} is not a name. Give that of a file or sample, or None.")
        for box, size in ((self.box, photo), (self.content_box, frame)):
            left, top, right, bottom = box
            if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
                raise ImageError(
                    f"{box} is not left, top, right and bottom inside a picture of {size} (width, height). Make frames "
                    "with svdkit.fit."
                )
        content = f"{self.height}x{self.width}x3:".encode() + self.image.tobytes()  # 2 × 8 is not 4 × 4
        object.__setattr__(self, "sha256", hashlib.sha256(content).hexdigest())

    def to_dict(self) -> dict[str, Any]:
        """Describe the frame in plain JSON, without its pixels."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "image"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, image: Image.Image) -> Frame:
        """Put a frame together again from `to_dict` and its picture, such as the PNG kept beside a clip.

        Raises:
            ImageError: The description is incomplete, or the picture is another one.
        """
        try:
            values: dict[str, Any] = {name: data[name] for name in cls.__dataclass_fields__.keys() - {"image"}}
            values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
            expected = str(values.pop("sha256"))
            frame = cls(image=image, **values)
        except ImageError:
            raise
        except Exception as error:  # a damaged file beside a clip, or an object of the caller's
            raise ImageError(
                f"this does not describe a frame ({as_text(error)}). Give what Frame.to_dict() returned."
            ) from error
        if frame.sha256 != expected:
            raise ImageError(
                "the picture is not the one described: its SHA-256 differs. Give the picture that was saved with the "
                "description, unchanged."
            )
        return frame


def _check_fit(*, height: Any, width: Any, mode: Any, focus: Any, border: Any) -> None:
    """Check the settings of a fit, before the photo is touched."""
    for name, value in (("height", height), ("width", width)):
        if not isinstance(value, int | np.integer) or not 8 <= value <= 8192:  # more would take 200 MB a frame
            raise ImageError(
                f"{name}={as_text(value)} is not a frame's size. Give a whole number of pixels from 8 to 8192, for SVD "
                "a multiple of 8."
            )
    if not isinstance(mode, str) or mode not in ("crop", "pad", "stretch"):
        raise ImageError(f"mode={as_text(mode)} is unknown. The modes are: crop, pad, stretch.")
    try:
        x, y = map(float, focus)
    except Exception:  # noqa: BLE001 - the object is the caller's: it can raise anything
        x = y = -1.0
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ImageError(
            f"focus={as_text(focus)} is not a point in the photo. Give (x, y), each from 0 to 1: (0, 0) is the top "
            "left, (1, 1) the bottom right."
        )
    if not isinstance(border, str) or border != "blur":
        parse_colour(border)


def fit(
    photo: Any,
    *,
    height: int,
    width: int,
    mode: str = "crop",
    focus: tuple[float, float] = (0.5, 0.5),
    border: str = "blur",
) -> Frame:
    """Fit a photo to the model's size.

    Args:
        photo: Anything that `read_image` reads.
        height: Pixels of the frame, 8 to 8192 (for SVD a multiple of 8).
        width: Pixels of the frame, 8 to 8192 (for SVD a multiple of 8).
        mode: ``"crop"`` fills the frame and cuts what is too much; ``"pad"`` keeps the whole photo and adds borders;
            ``"stretch"`` distorts the photo to the frame's aspect.
        focus: For ``"crop"``: the point that should be in the middle, (x, y) from (0, 0) at the photo's top left to
            (1, 1) at its bottom right. The cut never leaves the photo.
        border: For ``"pad"``: ``"blur"``, the photo itself out of focus, or a colour such as ``"#000000"``.

    Returns:
        The frame.

    Raises:
        ImageError: The photo cannot be read, or a setting is none of the above.

    Example:
        >>> fit("rocket", height=576, width=1024, focus=(0.5, 1.0)).box
        (0.0, 67.0, 640.0, 427.0)
    """
    _check_fit(height=height, width=width, mode=mode, focus=focus, border=border)
    image = read_image(photo)
    height, width, focus = int(height), int(width), (float(focus[0]), float(focus[1]))  # may have been numpy's
    box: _Box = (0.0, 0.0, float(image.width), float(image.height))
    if mode == "crop":
        box = _crop_box(image.size, (width, height), focus)
    inner = _inside(image.size, (width, height)) if mode == "pad" else (width, height)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    fitted = part = _resize(image, inner, box=box)
    if mode == "pad":
        if border == "blur":
            # A blur of 1/16 of the frame needs no detail, so it is made at about 1/8 of the size: 60 times less work.
            cover = ImageOps.fit(image, (max(1, width // 8), max(1, height // 8)), Image.Resampling.LANCZOS)
            cover = cover.filter(ImageFilter.GaussianBlur(max(1.0, math.hypot(*cover.size) / 16)))
        else:
            cover = Image.new("RGB", (1, 1), parse_colour(border))
        fitted = cover.resize((width, height), Image.Resampling.BICUBIC)
        fitted.paste(part, (left, top))
    fitted.info = {}
    return Frame(
        image=fitted, height=height, width=width, mode=mode, focus=focus, border=border,
        photo_height=image.height, photo_width=image.width, source=image.info.get(SOURCE_KEY),
        box=box, content_box=(left, top, left + inner[0], top + inner[1]),
    )  # fmt: skip


def size_advice(*, height: int, width: int, trained_height: int, trained_width: int) -> str | None:
    """Say what to expect of a frame size that is far from the one a model was trained on.

    Args:
        height: Pixels of the frame.
        width: Pixels of the frame.
        trained_height: Pixels of the frames the model was trained on.
        trained_width: Pixels of the frames the model was trained on.

    Returns:
        Sentences with what good sizes are, by rules of thumb; None when there is nothing to say.

    Example:
        >>> size_advice(height=576, width=1024, trained_height=576, trained_width=1024) is None
        True
    """
    # 8 for the VAE times 8 for the UNet's three halvings: sides off this grid are padded inside the network.
    grid = 64 if trained_height % 64 == trained_width % 64 == 0 else 8
    area = height * width / (trained_height * trained_width)
    trained = f"that the model was trained on ({trained_height}×{trained_width})"
    remarks = {
        f"is {area:,.1f} × the area {trained}: expect repeated or frozen content, and much more memory": area > 1.1,
        f"is {area:.2g} of the area {trained}: expect blur and flicker": area < 0.25,  # people use down to 0.28
        "is longer than 2:1: expect little motion, or smearing at the ends": not 0.5 <= height / width <= 2,
        f"is not in multiples of {grid}: expect weaker edges": height % grid or width % grid,
    }
    if not any(remarks.values()):
        return None
    said = "; it ".join(remark for remark, applies in remarks.items() if applies)
    best = sorted((trained_height, trained_width), reverse=height > width)
    return (
        f"{height}×{width} (height×width) {said}. The best size is {best[0]}×{best[1]}; good ones are multiples of "
        f"{grid}, up to 2:1, with at least a quarter of its area. If you keep this one, noise_aug_strength from 0.05 "
        "to 0.1 may help."
    )


def preview_fit(
    photo: Any,
    *,
    height: int,
    width: int,
    mode: str = "crop",
    focus: tuple[float, float] = (0.5, 0.5),
    border: str = "blur",
) -> Image.Image:
    """Show what `fit` will do, before anything is generated; the arguments are those of `fit`.

    Returns:
        RGB, at most 768 pixels a side. ``"crop"``: the whole photo, what is cut in the shade and what is kept in a
        thin outline. ``"pad"`` and ``"stretch"``, which cut nothing: the frame.

    Raises:
        ImageError: As for `fit`.

    Example:
        >>> preview_fit("rocket", height=576, width=1024).size
        (640, 427)
    """
    _check_fit(height=height, width=width, mode=mode, focus=focus, border=border)
    image = read_image(photo)
    frame = fit(image, height=height, width=width, mode=mode, focus=focus, border=border)
    shown = image if mode == "crop" else frame.image
    shown.thumbnail((768, 768))  # large enough to judge a cut by, small enough for a notebook's column
    if mode != "crop":
        return shown
    scale = max(shown.size) / max(frame.photo_width, frame.photo_height)
    left, top, right, bottom = (round(side * scale) for side in frame.box)
    canvas = shown.point(lambda level: level // 3)
    canvas.paste("white", (left - 2, top - 2, right + 2, bottom + 2))
    canvas.paste(shown.crop((left, top, right, bottom)), (left, top))
    return canvas


def restore(frames: npt.NDArray[np.uint8], frame: Frame) -> npt.NDArray[np.uint8]:
    """Bring a clip back to the aspect of what was kept of the photo.

    Args:
        frames: Uint8, frames × height × width × 3, of the frame's height and width.
        frame: What `fit` returned for the photo.

    Returns:
        Uint8, frames × height × width × 3. ``"crop"``: unchanged. ``"pad"``: the borders cut off. ``"stretch"``:
        squeezed, in the direction that was stretched most, back to the photo's aspect; never enlarged.

    Raises:
        ImageError: The frames are not of the type, shape or size above.

    Example:
        >>> frame = fit("cat", height=64, width=128, mode="pad")
        >>> restore(np.zeros((14, 64, 128, 3), dtype=np.uint8), frame).shape
        (14, 64, 96, 3)
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (frame.height, frame.width, 3):
        raise ImageError(
            f"frames of shape {frames.shape} ({frames.dtype}) do not belong to this frame: allowed is uint8 of "
            f"(frames, {frame.height}, {frame.width}, 3). Give the frames of the clip made from it."
        )
    if frame.mode == "stretch":
        size = _inside((frame.photo_width, frame.photo_height), frame.image.size)
        squeezed = [np.asarray(_resize(Image.fromarray(one), size)) for one in frames]
        return np.array(squeezed, dtype=np.uint8).reshape(-1, *size[::-1], 3)
    left, top, right, bottom = frame.content_box
    return frames[:, top:bottom, left:right]


def _resize(image: Image.Image, size: tuple[int, int], *, box: _Box | None = None) -> Image.Image:
    """Resample a part of a picture; one that has the size already is copied bit by bit."""
    # With a gap of 3, Pillow first shrinks by whole numbers: much faster on large photos, and no difference to see.
    return image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def _crop_box(photo: tuple[int, int], frame: tuple[int, int], focus: tuple[float, float]) -> Any:
    """Find the largest part of the frame's aspect, centred on the focus as far as the photo goes; sizes are (x, y)."""
    size, aspect = np.array(photo), np.array(frame)
    kept = np.minimum(aspect * (size / aspect).min(), size)
    start = np.clip(focus * size - kept / 2, 0.0, size - kept) + 0.0
    return (*start.tolist(), *np.minimum(start + kept, size).tolist())


def _inside(photo: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """Find the largest width and height of the photo's aspect that fit in; 1 pixel at least."""
    scale = min(frame[0] / photo[0], frame[1] / photo[1])
    return max(1, round(photo[0] * scale)), max(1, round(photo[1] * scale))
