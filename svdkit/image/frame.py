"""A fitted photo, with what is needed to go back, and the rules for making one."""

from __future__ import annotations

import hashlib
import operator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

from svdkit.errors import ImageError
from svdkit.image.colour import parse_colour

if TYPE_CHECKING:
    from PIL import Image

MODES: Final = ("crop", "pad", "stretch")
# SVD's VAE makes one latent cell of 8 × 8 pixels; above 8192 a single frame would already take 200 MB.
MIN_SIDE: Final = 8
MAX_SIDE: Final = 8192

Box = tuple[float, float, float, float]


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
    box: Box
    content_box: tuple[int, int, int, int]
    source: str | None = None
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        """Check that the parts belong together, and compute the hash."""
        check_fit(height=self.height, width=self.width, mode=self.mode, focus=self.focus, border=self.border)
        if self.image.mode != "RGB" or self.image.size != (self.width, self.height):
            raise ImageError(
                f"a frame of {self.height} × {self.width} (height × width) needs an RGB image of that size, not "
                f"{self.image.mode} of {self.image.height} × {self.image.width}. Make frames with svdkit.fit."
            )
        if not isinstance(self.source, str | None):
            raise ImageError(f"source={self.source!r} is not a name. Give the name of a file or sample, or None.")
        _check_box("box", self.box, self.photo_width, self.photo_height)
        _check_box("content_box", self.content_box, self.width, self.height)
        object.__setattr__(self, "sha256", _hash(self.image))

    def to_dict(self) -> dict[str, Any]:
        """Describe the frame in plain JSON, without its pixels.

        Returns:
            Every attribute but ``image``; tuples as lists.

        Example:
            >>> fit("cat", height=72, width=128).to_dict()["source"]
            'cat'
        """
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "image"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, image: Image.Image) -> Frame:
        """Put a frame together again from its description and its pixels.

        Args:
            data: What `to_dict` gave.
            image: The fitted picture, such as the PNG kept beside a clip.

        Returns:
            The frame.

        Raises:
            ImageError: The description is incomplete, or the picture is another one.

        Example:
            >>> frame = fit("cat", height=72, width=128)
            >>> Frame.from_dict(frame.to_dict(), image=frame.image) == frame
            True
        """
        try:
            values = {name: data[name] for name in cls.__dataclass_fields__ if name not in {"image", "sha256"}}
            values |= {name: tuple(values[name]) for name in ("focus", "box", "content_box")}
            frame = cls(image=image, **values)
            expected = data["sha256"]
        except (KeyError, TypeError, ValueError) as error:
            raise ImageError(
                f"this does not describe a frame ({error!r}). Give what Frame.to_dict() returned."
            ) from error
        if frame.sha256 != expected:
            raise ImageError(
                f"the picture is not the one described: its SHA-256 begins with {frame.sha256[:12]}, "
                f"not {str(expected)[:12]}. "
                "Give the picture that was saved with the description, unchanged."
            )
        return frame


def check_fit(*, height: object, width: object, mode: object, focus: object, border: object) -> tuple[int, int]:
    """Check the settings of a fit before the photo is touched; return height and width as plain ints."""
    sides = [_side(name, value) for name, value in (("height", height), ("width", width))]
    if mode not in MODES:
        raise ImageError(f"mode={mode!r} is unknown. The modes are: {', '.join(MODES)}.")
    if not _is_point(focus):
        raise ImageError(
            f"focus={focus!r} is not a point in the photo. Give (x, y), each from 0 to 1: (0, 0) is the top left, "
            "(1, 1) the bottom right."
        )
    if border != "blur":
        parse_colour(border)  # type: ignore[arg-type]  # it refuses what is no text
    return sides[0], sides[1]


def _side(name: str, value: object) -> int:
    """Check one side of the frame."""
    try:
        side = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        side = 0
    if not MIN_SIDE <= side <= MAX_SIDE:
        raise ImageError(
            f"{name}={value!r} is not a frame's size. Give a whole number of pixels from {MIN_SIDE} to {MAX_SIDE}, for "
            "SVD a multiple of 8."
        )
    return side


def _is_point(focus: object) -> bool:
    """Tell whether it is two numbers from 0 to 1; NaN is none."""
    try:
        x, y = (float(value) for value in focus)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        return False
    return 0 <= x <= 1 and 0 <= y <= 1


def _check_box(name: str, box: Box, width: int, height: int) -> None:
    """Check that a box is not empty and lies inside its picture."""
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ImageError(
            f"{name}={box!r} is not inside a picture of {height} × {width} (height × width). It is left, top, right, "
            "bottom. Make frames with svdkit.fit."
        )


def _hash(image: Image.Image) -> str:
    """Hash size and pixels; the size, because 2 × 8 and 4 × 4 can have the same bytes."""
    return hashlib.sha256(f"{image.height}x{image.width}x3:".encode() + image.tobytes()).hexdigest()
