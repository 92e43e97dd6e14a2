"""A fitted photo, and the rules for making one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from svdkit.errors import ImageError
from svdkit.errors import shown as as_text
from svdkit.image.decode import parse_colour

if TYPE_CHECKING:
    from PIL import Image

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
        check_fit(height=self.height, width=self.width, mode=self.mode, focus=self.focus, border=self.border)
        if self.image.mode != "RGB" or self.image.size != (self.width, self.height):
            raise ImageError(
                f"a frame of {self.height} × {self.width} (height × width) needs an RGB image of that size, not "
                f"{self.image.mode} of {self.image.height} × {self.image.width}. Make frames with svdkit.fit."
            )
        if not isinstance(self.source, str | None):
            raise ImageError(f"source={as_text(self.source)} is not a name. Give that of a file or sample, or None.")
        photo, frame = (self.photo_width, self.photo_height), (self.width, self.height)
        for (left, top, right, bottom), size in ((self.box, photo), (self.content_box, frame)):
            if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
                raise ImageError(
                    f"{(left, top, right, bottom)} is not left, top, right and bottom inside a picture of {size[1]} × "
                    f"{size[0]} (height × width). Make frames with svdkit.fit."
                )
        content = f"{self.height}x{self.width}x3:".encode() + self.image.tobytes()  # 2 × 8 is not 4 × 4
        object.__setattr__(self, "sha256", hashlib.sha256(content).hexdigest())

    def to_dict(self) -> dict[str, Any]:
        """Describe the frame in plain JSON, without its pixels."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "image"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, image: Image.Image) -> Frame:
        """Put a frame together again from `to_dict` and its picture, such as the PNG kept beside a clip.

        Raises:
            ImageError: The description is incomplete, or the picture is another one.
        """
        try:
            values = {name: data[name] for name in cls.__dataclass_fields__ if name not in {"image", "sha256"}}
            values |= {name: tuple(values[name]) for name in ("focus", "box", "content_box")}
            frame = cls(image=image, **values)
            expected = str(data["sha256"])
        except ImageError:
            raise
        except Exception as error:  # a damaged file beside a clip, or an object of the caller's
            raise ImageError(
                f"this does not describe a frame ({as_text(error)}). Give what Frame.to_dict() returned."
            ) from error
        if frame.sha256 != expected:
            raise ImageError(
                f"the picture is not the one described: its SHA-256 begins with {frame.sha256[:12]}, not "
                f"{expected[:12]}. Give the picture that was saved with the description, unchanged."
            )
        return frame


def check_fit(*, height: Any, width: Any, mode: Any, focus: Any, border: Any) -> None:
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
