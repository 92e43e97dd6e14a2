"""svdkit.image under fire: whatever comes in, a photo or an ImageError comes out, and nothing else.

Random bytes, damaged files of every format, odd arrays, odd texts, odd settings.
"""

import io
from collections.abc import Callable, Iterator
from typing import Any
from urllib.error import URLError
from urllib.request import OpenerDirector

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageCms, ImageFile

from svdkit.errors import ImageError, shown
from svdkit.image import Frame, fit, preview_fit, read_image, restore, sample_photo, size_advice
from tests.fuzz import JSON, VALUES, Hostile, answer, cases, nested, odd

MAX_PIXELS = 250_000  # a damaged header may well declare a large picture; keep each example quick
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def valid_files() -> dict[str, bytes]:
    """One small file of every format and of the modes that have their own code in Pillow's plug-ins."""
    photo = Image.effect_noise((24, 16), 64)
    exif = Image.Exif()
    exif[0x0112] = 6
    dressed: dict[str, Any] = {"exif": exif, "icc_profile": SRGB}
    kinds: dict[str, tuple[str, str, dict[str, Any]]] = {
        "jpeg": ("RGB", "JPEG", dressed),
        "jpeg cmyk": ("CMYK", "JPEG", {}),
        "jpeg progressive": ("RGB", "JPEG", {"progressive": True}),
        "mpo": ("RGB", "MPO", {"save_all": True, "append_images": [photo.convert("RGB")]}),
        "png": ("RGBA", "PNG", dressed),
        "png palette": ("P", "PNG", {"transparency": b"\x80"}),
        "png 16": ("I;16", "PNG", {}),
        "apng": ("RGB", "PNG", {"save_all": True, "append_images": [photo.convert("RGB")]}),
        "webp": ("RGB", "WEBP", dressed),
        "webp lossless": ("RGBA", "WEBP", {"lossless": True}),
        "tiff": ("RGB", "TIFF", {"icc_profile": SRGB}),
        "tiff lzw": ("CMYK", "TIFF", {"compression": "tiff_lzw"}),
        "tiff float": ("F", "TIFF", {}),
        "gif": ("P", "GIF", {"save_all": True, "append_images": [photo.convert("P")]}),
        "bmp": ("RGB", "BMP", {}),
        "jpeg 2000": ("RGB", "JPEG2000", {}),
        "ppm": ("RGB", "PPM", {}),
        "avif": ("RGB", "AVIF", dressed),
    }
    files = {}
    for name, (mode, kind, options) in kinds.items():
        buffer = io.BytesIO()
        try:
            (photo.convert("I") if mode == "I;16" else photo).convert(mode).save(buffer, kind, **options)
        except KeyError:  # this Pillow was built without it
            continue
        files[name] = buffer.getvalue()
    return files


VALID = valid_files()


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A valid file with bytes changed, a piece cut out, doubled or moved, or its end missing."""
    data = bytearray(draw(st.sampled_from(sorted(VALID.values()))))
    places = st.integers(0, len(data) - 1) | st.integers(0, min(64, len(data) - 1))  # headers matter most
    for _ in range(draw(st.integers(1, 3))):
        start, length = draw(places), draw(st.integers(1, 12))
        piece = data[start : start + length]
        deed = draw(st.sampled_from(["change", "largest", "zero", "cut", "double", "end"]))
        if deed == "change":
            data[start : start + length] = draw(st.binary(min_size=length, max_size=length))
        elif deed in {"largest", "zero"}:
            data[start : start + 4] = (b"\xff" if deed == "largest" else b"\0") * 4
        elif deed == "double":
            data[start:start] = piece
        elif deed == "cut":
            del data[start : start + length]
        else:
            del data[max(start, 16) :]
    return bytes(data)


def numbers() -> st.SearchStrategy[Any]:
    """Arrays of every number type and of shapes that are nearly photos."""
    kinds = st.one_of(
        *(arrays.scalar_dtypes(), arrays.unicode_string_dtypes(), arrays.byte_string_dtypes()),
        st.sampled_from([np.dtype(name) for name in ("u1", "<u2", ">u2", "f2", "<f4", ">f8", "O")]),
    )
    shapes = st.one_of(
        arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5),
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from([1, 2, 3, 4, 5])),
        st.sampled_from([(10**5, 10**5), (1, 10**4), (2**20, 0, 3)]),
    )

    def build(kind: np.dtype[Any], shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
        if np.prod(shape, dtype=float) > 2000:  # no memory behind it: one value seen many times
            return st.just(np.broadcast_to(np.zeros((), kind), shape))
        if kind.kind == "O":
            return st.just(np.full(shape, None))
        return arrays.arrays(kind, shape)

    return st.tuples(kinds, shapes).flatmap(lambda pair: build(*pair))


def texts() -> st.SearchStrategy[str]:
    """Paths and addresses, with lone surrogates, control characters and any scheme."""
    anything = st.text(st.characters(exclude_categories=[]), max_size=60)
    schemes = (
        "http://",
        "https://",
        "HTTP:",
        "ftp://",
        "data:",
        "file://",
        "s3://",
        "javascript:",
        "C:\\",
        "~",
        "\\\\",
    )
    hosts = ("127.0.0.1/", "[::1]/", "[", "a:b@c/", "example.org:99999/", "é.org/", "%00/", "/")
    return st.one_of(
        anything,
        st.builds(str.__add__, st.sampled_from(schemes), anything),
        st.builds("{}{}{}".format, st.sampled_from(schemes), st.sampled_from(hosts), anything),
        st.text("./~\\:", max_size=20),
        st.just("a" * 10_000),
    )


def outcome(function: Callable[[], Any]) -> Any:
    """Return the result, or None after an ImageError whose text a person can read; anything else is raised."""
    found = answer(function, own=ImageError)
    if not isinstance(found, ImageError):
        return found
    assert 30 < len(str(found)) < 1500
    return None


def check_photo(photo: Image.Image | None) -> None:
    if photo is not None:
        assert photo.mode == "RGB"
        assert 1 <= photo.width * photo.height <= MAX_PIXELS
        assert not set(photo.info) - {"svdkit_source"}


@pytest.fixture(autouse=True, scope="module")
def _nothing_changed_and_no_network() -> Iterator[None]:
    """Addresses end at a stand-in, and Pillow's global settings are as before."""

    def offline(*args: object, **named: object) -> None:
        raise URLError("tests do not use the network")

    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenerDirector, "open", offline)
        yield
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_the_files_are_valid_before_they_are_damaged():
    assert len(VALID) >= 14
    for name, data in VALID.items():
        if name == "tiff float":
            continue  # its values are beyond 1, which is an error of its own
        assert read_image(data, max_pixels=MAX_PIXELS).width in {24, 16}, name


@cases("images", 10)
@given(
    st.binary(max_size=200)
    | st.builds(bytes.__add__, st.sampled_from([data[:24] for data in VALID.values()]), st.binary())
)
def test_random_bytes(data):
    check_photo(outcome(lambda: read_image(data, max_pixels=MAX_PIXELS)))


@cases("images", 26)
@given(damaged_files())
def test_damaged_files(data):
    check_photo(outcome(lambda: read_image(io.BytesIO(data), max_pixels=MAX_PIXELS)))


@cases("images", 7)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]), st.binary(max_size=80), st.integers(0, 200), st.binary(max_size=8)
)
def test_damaged_profiles_and_exif(kind, exif, place, patch):
    profile = bytearray(SRGB)
    profile[place : place + len(patch)] = patch
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(buffer, kind, icc_profile=bytes(profile))
    check_photo(outcome(lambda: read_image(buffer.getvalue(), max_pixels=MAX_PIXELS)))
    image = Image.new("RGB", (8, 6), "red")
    image.info |= {"exif": b"Exif\0\0" + exif, "icc_profile": bytes(profile)}
    check_photo(outcome(lambda: read_image(image)))


@cases("images", 14)
@given(numbers())
def test_odd_arrays(array):
    check_photo(outcome(lambda: read_image(array, max_pixels=MAX_PIXELS)))


@cases("images", 12)
@given(texts())
def test_odd_texts(text):
    assert outcome(lambda: read_image(text)) is None


@cases("images", 5)
@given(odd(st.just("cat")), odd(st.integers(1, 10**6)))
def test_odd_sources_and_limits(source, limit):
    photo = outcome(lambda: read_image(source, max_pixels=limit))
    assert photo is None or photo.size == (451, 300)


WHOLE: dict[str, Any] = {"height": 8, "width": 16, "mode": "pad"}
TAKES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a source": (read_image, "{} cannot be read ("),
    "a sample": (sample_photo, "{} is not a sample photo. "),
    "a limit": (lambda value: read_image("cat", max_pixels=value), "max_pixels={} is not a limit. "),
    "height": (lambda value: fit("cat", **WHOLE | {"height": value}), "height={} is not a frame's size. "),
    "mode": (lambda value: fit("cat", **WHOLE | {"mode": value}), "mode={} is unknown. "),
    "focus": (lambda value: fit("cat", **WHOLE, focus=value), "focus={} is not a point in the photo. "),
    "border": (lambda value: fit("cat", **WHOLE, border=value), "{} is not a colour. "),
}


@pytest.mark.parametrize("what", TAKES)
def test_objects_that_raise_and_texts_without_end_are_refused_in_words(what):
    take, text = TAKES[what]
    for value in (Hostile(), nested(60, width=2)):
        found = answer(take, value, own=ImageError)
        assert str(found).startswith(text.format(shown(value))), found


@cases("images", 4)
@given(VALUES)
def test_what_is_no_photo(value):
    outcome(lambda: read_image(value))


@cases("images", 10)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.sampled_from([(1, 9000), (9000, 1), (1, 1)]),
    odd(st.integers(8, 96)),
    odd(st.integers(8, 96)),
    odd(st.sampled_from(["crop", "pad", "stretch"])),
    odd(st.tuples(st.floats(0, 1), st.floats(0, 1))),
    odd(st.sampled_from(["blur", "#000000", "white"])),
)
def test_odd_fits(size, height, width, mode, focus, border):
    asked = {"height": height, "width": width, "mode": mode, "focus": focus, "border": border}
    photo = Image.new("RGB", size, "red")
    frame = outcome(lambda: fit(photo, **asked))
    preview = outcome(lambda: preview_fit(photo, **asked))
    assert (frame is None) == (preview is None)
    if frame is not None:
        left, top, right, bottom = frame.box
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        back = restore(np.asarray(frame.image)[None], frame)
        assert back.dtype == np.uint8
        assert min(back.shape) >= 1


@cases("images", 7)
@given(st.data())
def test_odd_descriptions_of_a_frame(data):
    """They come from files beside clips, which anybody can have changed."""
    frame = fit("cat", height=8, width=16)
    description = frame.to_dict()
    for name in data.draw(st.lists(st.sampled_from(sorted(description)), min_size=1, max_size=3, unique=True)):
        description[name] = data.draw(JSON)
    again = outcome(lambda: Frame.from_dict(data.draw(st.one_of(st.just(description), JSON)), image=frame.image))
    assert again is None or (again.sha256 == frame.sha256 and isinstance(again.source, str | None))


@cases("images", 5)
@given(*[st.integers(8, 4096)] * 2, *[st.integers(8, 2048)] * 2)
def test_advice_for_any_size(height, width, trained_height, trained_width):
    advice = size_advice(height=height, width=width, trained_height=trained_height, trained_width=trained_width)
    assert advice is None or "The best size is" in advice
