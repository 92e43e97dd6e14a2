"""svdkit.image, reading: every format, colour space, number type and mistake that people bring."""

import gzip
import importlib.util
import io
import os
import struct
import subprocess
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin

import svdkit
from svdkit.errors import ImageError, SvdkitWarning
from svdkit.image import decode, read, read_image, sample_photo, sample_photos
from svdkit.image.decode import parse_colour

SAMPLES = Path(svdkit.__file__).parent / "samples"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {kind}")
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quarters() -> Image.Image:
    """A photo of 60 × 40 whose corners tell which way is up: red and green above, blue and white below."""
    image = Image.new("RGB", (60, 40), "white")
    for box, colour in (((0, 0, 30, 20), "red"), ((30, 0, 60, 20), "lime"), ((0, 20, 30, 40), "blue")):
        image.paste(colour, box)
    return image


def corner_names(image: Image.Image) -> str:
    """Name the four corners, clockwise from the top left, by their colour."""
    right, bottom = image.width - 4, image.height - 4
    spots = ((3, 3), (right, 3), (right, bottom), (3, bottom))
    known = {(255, 0, 0): "R", (0, 255, 0): "G", (0, 0, 255): "B", (255, 255, 255): "W"}
    nearest = [tuple(255 * (np.asarray(image.getpixel(spot)) > 127)) for spot in spots]
    return "".join(known.get(colour, "?") for colour in nearest)


def same_pixels(one: Image.Image, two: Image.Image) -> bool:
    """Compare as `==` would, but for the ``info`` that Pillow compares too."""
    return (one.mode, one.size, one.tobytes()) == (two.mode, two.size, two.tobytes())


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, bits: int, colour_type: int, pixel: bytes, extra: bytes = b"") -> bytes:
    """Write a PNG of one colour by hand, for the kinds that Pillow can read but not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    rows = zlib.compress((b"\0" + pixel * min(width, 100)) * min(height, 100))
    chunks = (png_chunk(b"IHDR", header), extra, png_chunk(b"IDAT", rows), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def icc(kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Write an ICC profile of version 2 by hand: Pillow can make only sRGB, XYZ and Lab."""
    table, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        padded = data + b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += padded
    size = offset + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, kind, space, pcs) + b"\0" * 12 + b"acsp"
    illuminant = struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(68, b"\0") + illuminant.ljust(60, b"\0") + table + body


def linear_grey_profile() -> bytes:
    return icc(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": b"curv" + struct.pack(">III", 0, 0, 0)[:8]})


def grey_ink_profile() -> bytes:
    """A CMYK profile in which cyan, magenta and yellow ink are all middle grey, so that its use shows."""
    ramp = bytes(range(256))
    lightness = [255, *[0 if corner % 2 else 128 for corner in range(1, 16)]]  # black ink is the last bit
    grid = b"".join(bytes((value, 128, 128)) for value in lightness)
    matrix = struct.pack(">9i", *(65536 * (row == column) for row in range(3) for column in range(3)))
    lut = b"mft1" + b"\0" * 4 + bytes((4, 3, 2, 0)) + matrix + ramp * 4 + grid + ramp * 3
    return icc(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut})


def adobe_rgb() -> bytes:
    """The profile of the rocket photograph, whose colours are wider than sRGB's."""
    with Image.open(SAMPLES / "rocket.jpg") as image:
        profile = image.info["icc_profile"]
    assert isinstance(profile, bytes)
    return profile


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_the_samples_have_their_licence_beside_them():
    assert sample_photos() == ("rocket", "coffee", "cat")
    licences = (SAMPLES / "LICENSES.md").read_text(encoding="utf-8")
    for name in sample_photos():
        assert f"`{name}.jpg`" in licences
        assert (SAMPLES / f"{name}.jpg").stat().st_size <= 250_000
        assert min(sample_photo(name).size) >= 300
        assert read_image(name) == sample_photo(name)
    with pytest.raises(ImageError, match=r"'dog' is not a sample photo. The samples are: rocket, coffee, cat\."):
        sample_photo("dog")


def test_the_same_photo_from_every_kind_of_source(tmp_path, monkeypatch):
    class Pipe(io.RawIOBase):
        def read(self, size=-1):
            return data

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    data, path = encoded(quarters(), "PNG"), tmp_path / "really_a_png.jpg"
    path.write_bytes(data)
    names = [str(path), path, f"~/{path.name}"]
    if os.name != "nt":  # Windows allows no colon in a file name
        (tmp_path / "take:2.png").write_bytes(data)
        names.append("take:2.png")
    opened = io.BytesIO(data)
    opened.seek(len(data))  # read to its end by somebody before
    others = (data, bytearray(data), memoryview(data), opened, Pipe(), quarters(), np.asarray(quarters()))
    for source in (*names, *others):
        assert same_pixels(read_image(source), quarters()), source
    assert not opened.closed


def test_only_the_name_of_the_file_is_kept(tmp_path):
    """A folder can hold a person's name; it must not travel with the clip."""
    path = tmp_path / "holiday.png"
    quarters().save(path, icc_profile=SRGB, dpi=(72, 72))
    with path.open("rb") as opened, Image.open(path) as image:
        for source in (str(path), path, opened, image, read_image(path)):
            assert read_image(source).info == {"svdkit_source": "holiday.png"}
    assert read_image(path.read_bytes()).info == read_image(np.asarray(quarters())).info == {}


def test_the_callers_picture_is_left_as_it_was():
    given = quarters()
    given.info["note"] = "mine"
    read_image(given).paste("black", (0, 0, 60, 40))
    assert same_pixels(given, quarters())
    assert given.info == {"note": "mine"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "PPM", "AVIF", "MPO"])
def test_photo_formats_and_the_first_frame_of_several(kind):
    several = {"save_all": True, "append_images": [Image.new("RGB", (60, 40), "black")]}
    for options in ({}, several) if kind in {"GIF", "PNG", "WEBP", "TIFF"} else ({},):
        photo = read_image(encoded(quarters(), kind, **options))
        assert (photo.size, corner_names(photo)) == ((60, 40), "RGWB")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_are_scaled_not_clipped(kind):
    values = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(8, axis=0)
    photo = np.asarray(read_image(encoded(Image.fromarray(values), kind)))
    assert (photo[0, :, 0] == np.arange(256)).all()


def tiff(*pages: tuple[Image.Image, dict[int, int]]) -> bytes:
    """Write pictures into one TIFF, each with its own tags."""
    buffer = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(buffer) as writer:
        for image, tags in pages:
            image.save(writer, "TIFF", tiffinfo=tags)
            writer.newFrame()
    return buffer.getvalue()


def mpo(first: Image.Image, second: Image.Image, *, kind: int) -> bytes:
    """Write two pictures into one MPO, the first of a kind of the standard (CIPA DC-007, MP type)."""
    data = bytearray(encoded(first, "MPO", save_all=True, append_images=[second]))
    entries = data.index(b"\x02\xb0")  # the tag; behind it type, count and where the entries are, from the header
    start = data.index(b"MPF\0") + 4
    at = start + int.from_bytes(data[entries + 8 : entries + 12], "little")
    data[at : at + 4] = kind.to_bytes(4, "little")
    return bytes(data)


SMALL, LARGE = Image.new("RGB", (16, 12), "red"), Image.new("RGB", (640, 480), "blue")
BLACK, GREY = Image.new("L", (640, 480)), Image.new("RGB", (640, 480), "grey")


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (tiff((SMALL, {254: 1}), (LARGE, {}), (GREY, {})), (0, 0, 255)),
        (tiff((GREY, {254: 1}), (LARGE, {254: 0})), (0, 0, 255)),
        (tiff((GREY, {255: 2}), (LARGE, {255: 1})), (0, 0, 255)),
        (tiff((BLACK, {254: 4}), (LARGE, {})), (0, 0, 255)),
        (tiff((SMALL, {}), (LARGE, {})), (0, 0, 255)),
        (tiff((LARGE, {}), (SMALL, {254: 1}), (GREY, {})), (0, 0, 255)),
        (tiff((LARGE, {254: 2}), (GREY, {254: 2})), (0, 0, 255)),
        (tiff((SMALL, {254: 1})), (255, 0, 0)),
        (tiff((SMALL, {}), (SMALL, {})), (255, 0, 0)),
        (mpo(GREY, LARGE, kind=0x010001), (0, 0, 255)),
        (mpo(SMALL, LARGE, kind=0x030000), (0, 0, 255)),
        (mpo(LARGE, GREY, kind=0x030000), (0, 0, 255)),
        (encoded(GREY, "PNG", save_all=True, append_images=[LARGE, GREY], default_image=True), (0, 0, 255)),
        (encoded(LARGE, "PNG", save_all=True, append_images=[GREY]), (0, 0, 255)),
    ],
    ids=lambda value: f"{value[:4]!r}" if isinstance(value, bytes) else None,
)
def test_the_photo_is_taken_wherever_a_file_keeps_its_preview(data, colour):
    photo = read_image(data)
    assert photo.getpixel((5, 5)) == pytest.approx(colour, abs=2)
    assert photo.size == ((640, 480) if colour == (0, 0, 255) else (16, 12))


def test_a_raw_file_is_not_taken_for_its_preview():
    said = r"a camera's raw file, of which only the preview \(16 × 12 pixels\) can be read. Develop it .* JPEG or PNG"
    with pytest.raises(ImageError, match=said):
        read_image(tiff((SMALL, {254: 1, 330: 8})))


@pytest.mark.parametrize("place", [b"IDAT", b"IEND"])
@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"raw\0\0" + zlib.compress(b"x" * 2_000_000)),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000)),
        png_chunk(b"tEXt", b"a\0" + b"x" * 1_000_000) * 68,
    ],
    ids=["zTXt", "iTXt", "tEXt"],
)
def test_png_texts_beyond_the_1_mib_that_pillow_allows(chunk, place):
    data = encoded(quarters(), "PNG", exif=orientation(6))
    at = data.index(place) - 4
    assert corner_names(read_image(data[:at] + chunk + data[at:])) == "BRGW"


def test_a_png_profile_beyond_it_is_used_and_one_beyond_all_measure_is_not():
    large, small = (
        read_image(encoded(Image.new("RGB", (4, 4), (200, 100, 100)), "PNG", icc_profile=profile))
        for profile in (adobe_rgb() + bytes(2_000_000), adobe_rgb())
    )
    assert large.getpixel((0, 0)) == small.getpixel((0, 0)) != (200, 100, 100)
    with pytest.warns(SvdkitWarning, match="the colour profile cannot be used"):
        assert same_pixels(read_image(encoded(quarters(), "PNG", icc_profile=bytes(2**24 + 1))), quarters())


class TestHeic:
    HEAD = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + b"\0" * 40

    @pytest.fixture
    def absent(self, monkeypatch):
        monkeypatch.setattr(Image, "OPEN", {key: value for key, value in Image.OPEN.items() if key != "HEIF"})
        monkeypatch.setitem(sys.modules, "pillow_heif", None)

    @pytest.mark.usefixtures("absent")
    def test_without_its_package_the_error_names_it(self):
        with pytest.raises(ImageError, match=r"is an HEIC photo, .*: pip install pillow-heif; .* or save it as JPEG"):
            read_image(self.HEAD)

    @pytest.mark.usefixtures("absent")
    def test_with_its_package_it_is_read(self, monkeypatch):
        """A stand-in registers itself as pillow-heif does; with the real package the next test runs too."""

        class Plugin(ImageFile.ImageFile):
            format = "HEIF"

            def _open(self) -> None:
                self._mode, self._size = "RGB", (3, 2)

            def load(self) -> None:
                self.im = Image.new("RGB", (3, 2), "red").im

        stand_in = types.ModuleType("pillow_heif")
        stand_in.register_heif_opener = lambda: Image.register_open("HEIF", Plugin, lambda head: head[4:8] == b"ftyp")  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pillow_heif", stand_in)
        monkeypatch.setattr(Image, "ID", list(Image.ID))
        assert read_image(self.HEAD).getpixel((0, 0)) == (255, 0, 0)

    @pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="pillow-heif is not installed")
    def test_with_the_real_package(self):
        importlib.import_module("pillow_heif").register_heif_opener()
        data = encoded(quarters(), "HEIF", quality=90, exif=orientation(6).tobytes())
        assert corner_names(read_image(data)) == "BRGW"
        with pytest.raises(ImageError, match="or damaged"):
            read_image(data[:300])
        for primary in (0, 1):  # it names its photo
            data = encoded(SMALL, "HEIF", save_all=True, append_images=[LARGE], primary_index=primary)
            assert read_image(data).size == (SMALL, LARGE)[primary].size


# What a viewer shows of a file whose pixels are R G over B W, for each value of EXIF tag 0x0112.
SHOWN = {1: "RGWB", 2: "GRBW", 3: "WBRG", 4: "BWGR", 5: "RBWG", 6: "BRGW", 7: "WGRB", 8: "GWBR"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", SHOWN)
def test_the_photo_is_upright(kind, value):
    photo = read_image(encoded(quarters(), kind, exif=orientation(value)))
    assert corner_names(photo) == SHOWN[value]
    assert photo.size == ((60, 40) if value < 5 else (40, 60))
    assert read_image(photo) == photo  # and is not turned twice


def test_sixteen_bits_are_turned_too():
    photo = read_image(encoded(Image.new("I;16", (60, 40), 65535), "TIFF", exif=orientation(6)))
    assert (photo.size, photo.getpixel((0, 0))) == ((40, 60), (255, 255, 255))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01", None]
)
def test_broken_exif_leaves_the_photo_as_stored(exif, monkeypatch):
    def fail(self):
        raise SyntaxError("not a TIFF file")

    data = encoded(quarters(), "JPEG", exif=exif or b"")
    if exif is None:
        real = Image.Image.getexif
        monkeypatch.setattr(Image.Image, "getexif", lambda self: fail(self) if "jfif" in self.info else real(self))
    assert corner_names(read_image(data)) == "RGWB"


def test_a_transparent_grey_leaves_a_grey_profile_in_use():
    data = encoded(Image.new("L", (4, 4), 128), "PNG", transparency=9, icc_profile=linear_grey_profile())
    assert read_image(data).getpixel((1, 1)) == (188, 188, 188)


def test_want_of_memory_is_not_called_damage():
    """numpy raises a kind of MemoryError of its own."""
    with pytest.raises(ImageError, match="does not fit into this machine's memory"), decode.decoding("photo.tif"):
        np.empty(2**60, np.uint8)


def test_a_file_that_is_no_png_is_not_walked_through_as_one(monkeypatch):
    """That took seconds for large files that are no pictures at all."""
    monkeypatch.setattr(decode, "_slim_png", lambda _: pytest.fail("walked through"))
    with pytest.raises(ImageError):
        read_image(bytes(1000))


def test_a_name_is_kept_as_it_is(tmp_path):
    path = tmp_path / "my  'photo'.png"
    quarters().save(path)
    assert read_image(path).info == {"svdkit_source": path.name}
    with pytest.raises(ImageError, match=r"^an empty text names no photo\. Give the path of a file"):
        read_image("")


@pytest.mark.parametrize(
    ("mode", "kind", "value", "profile", "expected"),
    [
        ("RGB", "PNG", (200, 100, 100), adobe_rgb(), (227, 100, 100)),  # wider than sRGB: a stronger red there
        ("RGB", "PNG", (128, 128, 128), adobe_rgb(), (128, 128, 128)),
        ("L", "PNG", 128, linear_grey_profile(), (188, 188, 188)),  # half of the light, by IEC 61966-2-1
        ("LA", "PNG", (128, 255), linear_grey_profile(), (188, 188, 188)),
        ("L", "PNG", 77, SRGB, (77, 77, 77)),
        ("CMYK", "JPEG", (0, 255, 255, 0), None, (255, 0, 0)),
        ("CMYK", "TIFF", (0, 255, 255, 0), None, (255, 0, 0)),
        ("CMYK", "JPEG", (255, 0, 0, 0), grey_ink_profile(), (119, 119, 119)),  # knows better than a formula
        ("CMYK", "TIFF", (255, 0, 0, 0), grey_ink_profile(), (119, 119, 119)),
    ],
)
def test_a_profile_is_converted(mode, kind, value, profile, expected):
    data = encoded(Image.new(mode, (30, 20), value), kind, **{"icc_profile": profile} if profile else {})
    assert read_image(data).getpixel((5, 5)) == pytest.approx(expected, abs=4)


def test_srgb_stays_as_it_is():
    photo = np.asarray(read_image(encoded(sample_photo("cat"), "PNG", icc_profile=SRGB))).astype(int)
    assert np.abs(photo - np.asarray(sample_photo("cat"))).max() <= 1


@pytest.mark.parametrize(
    ("mode", "profile", "reason"),
    [
        ("RGB", b"nonsense", "cannot open profile"),
        ("RGB", SRGB[:200], "cannot open profile"),
        ("CMYK", SRGB, "cannot build transform"),
        ("RGB", grey_ink_profile(), "cannot build transform"),
        ("RGB", "text", "bytes-like object"),
        ("RGB", SRGB, "_imagingcms C module is not installed"),  # a Pillow without colour management
    ],
)
def test_a_profile_that_cannot_be_used_is_ignored_with_a_warning(mode, profile, reason, monkeypatch):
    def absent(*_):
        raise ImportError("The _imagingcms C module is not installed")

    given = Image.new(mode, (4, 4))
    given.info["icc_profile"] = profile
    if "installed" in reason:
        monkeypatch.setattr(ImageCms, "ImageCmsProfile", absent)
    with pytest.warns(SvdkitWarning, match=rf"colour profile cannot be used \(.*{reason}.*colours are taken as"):
        assert same_pixels(read_image(given), given.convert("RGB"))


def test_colours_by_name_and_number():
    assert parse_colour("black") == parse_colour("#000") == parse_colour("#000000") == (0, 0, 0)
    for colour in ("", "whiter", "#12", None, 7):
        with pytest.raises(ImageError, match=r"is not a colour.*#rrggbb"):
            parse_colour(colour)


class Tensor:
    def __array__(self, dtype=None, copy=None):
        return np.full((2, 3), 7, np.uint8)


class CudaTensor:
    def __array__(self):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def palette(*opacities):
    image = Image.new("P", (3, 2))
    image.putpalette([255, 0, 0, 0, 255, 0])
    return encoded(image, "PNG", transparency=bytes(opacities))


def deep(colour_type, *values):
    """Write a PNG of 16 bits."""
    return png(3, 2, bits=16, colour_type=colour_type, pixel=struct.pack(f">{len(values)}H", *values))


WHITE, MIXED = (255, 255, 255), (255, 127, 127)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (np.full((2, 3), 7, np.uint8), (7, 7, 7)),
        (np.full((2, 3, 1), 7, np.uint8), (7, 7, 7)),
        (np.full((2, 3, 3), [1, 2, 3], np.uint8), (1, 2, 3)),
        (np.full((2, 3, 4), [255, 0, 0, 0], np.uint8), (255, 255, 255)),
        (np.full((2, 3), 65535, np.uint16), (255, 255, 255)),
        (np.full((2, 3), 128 * 257, ">u2"), (128, 128, 128)),
        (np.full((2, 3, 3), 0.5, np.float32), (128, 128, 128)),
        (np.full((2, 3), 1.0005, np.float64), (255, 255, 255)),
        (np.full((2, 3), 0.25, np.float16), (64, 64, 64)),
        (Tensor(), (7, 7, 7)),
        (deep(2, 65535, 32896, 0), (255, 128, 0)),
        (deep(6, 65535, 0, 0, 32896), MIXED),
        (deep(4, 0, 32896), (127, 127, 127)),
        (Image.new("1", (3, 2), 1), (255, 255, 255)),
        (Image.new("L", (3, 2), 70), (70, 70, 70)),
        (Image.new("I", (3, 2), 200), (200, 200, 200)),
        (Image.new("I", (3, 2), 65535), (255, 255, 255)),
        (Image.new("I;16", (3, 2), 257), (1, 1, 1)),
        (Image.new("I;16B", (3, 2), 65535), (255, 255, 255)),
        (Image.new("F", (3, 2), 0.5), (128, 128, 128)),
        (Image.new("HSV", (3, 2), (85, 255, 255)), (0, 255, 0)),
        (Image.new("YCbCr", (3, 2), (128, 128, 128)), (128, 128, 128)),
        (Image.new("LAB", (3, 2), (255, 128, 128)), (255, 255, 255)),
        (Image.new("RGBX", (3, 2), (1, 2, 3, 4)), (1, 2, 3)),
        (Image.new("RGBa", (3, 2), (0, 0, 0, 0)), (255, 255, 255)),
        (encoded(Image.new("RGBA", (3, 2), (255, 0, 0, 0)), "PNG"), WHITE),
        (encoded(Image.new("LA", (3, 2), (0, 0)), "PNG"), WHITE),
        (palette(0, 255), WHITE),
        (palette(128, 255), MIXED),
        (encoded(Image.new("P", (3, 2)), "GIF", transparency=0), WHITE),
        (encoded(Image.new("L", (3, 2), 9), "PNG", transparency=9), WHITE),
        (encoded(Image.new("RGB", (3, 2), (1, 2, 3)), "PNG", transparency=(1, 2, 3)), WHITE),
        (encoded(Image.new("RGBA", (3, 2), (255, 0, 0, 0)), "WEBP", lossless=True, exact=True), WHITE),
        (encoded(Image.new("RGBA", (3, 2), (200, 100, 100, 0)), "PNG", icc_profile=adobe_rgb()), WHITE),
        (Image.new("RGBA", (3, 2), (255, 0, 0, 128)), MIXED),
    ],
)
def test_every_mode_number_type_and_transparency(source, expected):
    photo = read_image(source)
    assert photo.size == (3, 2)
    assert photo.getpixel((0, 0)) == pytest.approx(expected, abs=2)


def test_a_view_with_steps():
    values = np.asarray(sample_photo("cat"))
    assert (np.asarray(read_image(values[::-2, ::3, ::-1])) == values[::-2, ::3, ::-1]).all()


OTHER = (
    r"is {}, not a photo\. Allowed are JPEG, PNG, WebP, TIFF, GIF, HEIC, AVIF, BMP, JPEG 2000 and PPM\. Copy or "
    r"download it again, give the picture itself, or save it as JPEG or PNG from what can open it\.$"
)


WEB_PAGE = r"a web page \(perhaps around the picture, or to sign in\)"


NO_SOURCE = r"no attribute 'read'.*\. Give the path of a file .*, an http.* rocket, coffee, cat"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "an empty text names no photo. Give the path of a file"),
        ("no_such_photo_here.jpg", r"no_such_photo_here\.jpg does not exist\. Check the path"),
        ("rockte", r"rockte does not exist\. .* or use a sample: rocket, coffee, cat"),
        ("a\0b.jpg", r"a\\x00b\.jpg cannot be read"),
        ("x" * 5000, r"x{100}.*… cannot be read"),
        ("\ud800.jpg", r"\\ud800\.jpg"),
        ("~nobody_has_this_name/x.jpg", "~nobody_has_this_name/x.jpg"),
        (
            "file:///home/me/a.jpg",
            r"is an address, but only those with http: and https: are allowed\. Save .* plain path",
        ),
        ("data:image/png;base64,AAAA", r"^data:… is an address.* or give its bytes"),
        ("FTP://me:secret@example.org/a.jpg", r"^FTP://example\.org/a\.jpg is an address.* Save"),
        ("s3://bucket/a.jpg?token=1", "^s3://bucket/a.jpg is an address"),
        ("C:\\photos\\a.jpg", "does not exist|cannot be read"),
        *((source, NO_SOURCE) for source in (None, 3, object(), [[1, 2]], {"a": 1}, Image)),
        (Image.new("RGB", (0, 5)), "the PIL image is empty: 0 × 5 pixels"),
        (
            encoded(Image.new("F", (3, 2), 200.0), "TIFF"),
            r"the data .*\(2 × 3, float32\) runs from 200 to 200\..*array / 255",
        ),
        (np.zeros(3), r"the array \(3, float64\) is not a photo\. .*height × width"),
        (np.zeros(()), "no dimensions"),
        (np.zeros((2, 3, 2)), "2 × 3 × 2"),
        (np.zeros((3, 8, 9)), r"array\.transpose\(1, 2, 0\) puts channels last"),
        (np.zeros((5, 8, 9, 3)), r"array\[0\] takes the first of several"),
        (np.zeros((0, 3)), "is empty"),
        (np.full((2, 2), np.nan), r"runs from nan to nan.*np\.nan_to_num"),
        (np.full((2, 2), np.inf), "runs from inf to inf"),
        (np.full((2, 2), 255.0), r"runs from 255 to 255\. .* array / 255"),
        (np.full((2, 2), -1.0), r"runs from -1 to -1\. .*\(array \+ 1\) / 2"),
        (np.zeros((2, 2), np.int64), r"int64\) is ambiguous: .*array\.astype\(np\.uint8\)"),
        (np.zeros((2, 2), bool), r"bool\) is ambiguous"),
        (np.zeros((2, 2), complex), r"complex128\) is ambiguous"),
        (np.array([["a"]]), "ambiguous"),
        (np.array([[None]]), r"object\) is ambiguous"),
        (np.broadcast_to(np.uint8(0), (10**6, 10**6)), "1,000,000 × 1,000,000 .* at most 108,000,000 pixels"),
        (CudaTensor(), r"CudaTensor cannot be read .*\.cpu\(\)\.numpy\(\)"),
        (b"", r"is empty\. .* Copy or download it again"),
        (b"hello", r"is not a photo, or damaged\. Allowed are JPEG, PNG, .* save it as JPEG or PNG"),
        (b" <!DOCTYPE html>", OTHER.format(WEB_PAGE)),
        (b"\xef\xbb\xbf\n<html><body>Please sign in</body></html>", OTHER.format(WEB_PAGE)),
        (b'<?xml version="1.0"?><!-- by hand -->\n<svg/>', OTHER.format("an SVG drawing")),
        (b'{"error": "not found"}', OTHER.format("a JSON text")),
        (gzip.compress(b"\x89PNG\r\n\x1a\n", mtime=0), OTHER.format("a gzip archive")),
        (b"PK\x03\x04", OTHER.format("a zip archive")),
        (b"%PDF-1.7", OTHER.format("a PDF document")),
        (b"8BPS", "is not a photo, or damaged"),
        (b"RIFF\n\0\0\0AVI LIST", OTHER.format("a video")),
        (b"\0\0\0\x18ftypmp42", OTHER.format("a video")),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a photo"),
        (b"RIFF\0\0\0\0WEBP", "is not a photo, or damaged"),
        (b"\x89PNG\r\n\x1a\n", "is not a photo, or damaged"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(source, message):
    with pytest.raises(ImageError, match=message):
        read_image(source)


def test_what_is_no_file(tmp_path, monkeypatch):
    """A pipe is not waited for."""
    (tmp_path / "a.txt").write_text("x")
    paths = [tmp_path]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        paths.append(tmp_path / "pipe")
    for path in paths:
        with pytest.raises(ImageError, match=r"is a folder or a device, not a file\. Give the path of one picture"):
            read_image(path)
    with pytest.raises(ImageError, match="does not exist"):
        read_image(tmp_path / "a.txt" / "b.jpg")

    def refuse(path, mode):  # root may read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match=r"a\.txt cannot be read \(Permission denied\)\. Give .* that you may read"):
        read_image(tmp_path / "a.txt")


def test_files_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_FILE_BYTES", 10)
    quarters().save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", io.BytesIO(encoded(quarters(), "PNG"))):
        with pytest.raises(ImageError, match=r"(a\.png|the open file) is too large for a photo: more than 10 bytes"):
            read_image(source)


def test_files_opened_as_text_or_closed(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    said = r"cannot be read \({}.*open\(path, 'rb'\)"
    with (tmp_path / "a.txt").open() as opened, pytest.raises(ImageError, match=said.format("TypeError.*string")):
        read_image(opened)
    with pytest.raises(ImageError, match=said.format(".*closed file")):
        read_image(opened)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF"])
@pytest.mark.parametrize("way", ["with", "close", "load and close", "the file's with"])
def test_a_closed_picture(kind, way, tmp_path):
    quarters().save(tmp_path / "a", kind)
    with (tmp_path / "a").open("rb") as opened:
        image = Image.open(opened if way == "the file's with" else tmp_path / "a")
        if way == "with":
            with image:
                pass
        elif way != "the file's with":
            _ = image.load() if "load" in way else None
            image.close()
    said = (
        r"decoded \(.*\)\. If it was closed, use it inside the with block .* image\.load\(\) there, or give the path of"
    )
    with pytest.raises(ImageError, match=f"^the PIL image cannot be {said}"):
        read_image(image)


def test_a_picture_closed_by_with_after_it_was_loaded(tmp_path):
    quarters().save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        image.load()
    assert same_pixels(read_image(image), quarters())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM"])
def test_a_photo_cut_short(kind):
    data = encoded(sample_photo("coffee").resize((200, 150)), kind)
    with pytest.raises(ImageError, match=r"or damaged.* Copy or download it again"):
        read_image(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "does not fit into this machine's memory"),
        (Image.DecompressionBombError("Image size (4 pixels) exceeds"), r"\(Image size \(4 .* too large for PIL"),
        (Image.DecompressionBombWarning("odd"), r"\(odd\)"),
    ],
)
def test_what_shows_itself_only_when_it_is_decoded(error, message, monkeypatch):
    """Too little memory, a bomb."""

    def fail(self):
        raise error

    photo = quarters()
    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(ImageError, match=message):
        read_image(photo)


def test_the_declared_size_is_checked_before_decoding(monkeypatch):
    def fail(self):
        raise AssertionError("a picture that is too large must not be decoded")

    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    bomb = png(60_000, 60_000, bits=8, colour_type=2, pixel=b"\0\0\0")  # beyond Pillow's own limit
    with pytest.raises(ImageError, match=r"\(Image size \(3600000000 pixels\) exceeds limit of .*too large for PIL"):
        read_image(bomb, max_pixels=10**12)
    large = png(12_000, 9_000, bits=1, colour_type=0, pixel=b"\0")  # Pillow warns of it; its data ends early
    with pytest.raises(ImageError, match="cut short or damaged"):
        read_image(large)
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    huge = png(12_000, 12_000, bits=8, colour_type=2, pixel=b"\0\0\0")
    with pytest.raises(ImageError, match=r"too large \(12,000 × 12,000 = 144,000,000 pixels\); at most 1,000,000"):
        read_image(huge, max_pixels=1_000_000)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_the_limit_is_the_callers():
    assert same_pixels(read_image(quarters(), max_pixels=2400), quarters())
    with pytest.raises(ImageError, match=r"60 × 40 = 2,400 pixels\); at most 2,399 pixels are allowed"):
        read_image(quarters(), max_pixels=2399)
    for limit in (0, -1, 2.5, None, "many"):
        with pytest.raises(ImageError, match=r"max_pixels=.* is not a limit\. Give a whole number"):
            read_image(quarters(), max_pixels=limit)  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
@pytest.mark.parametrize("mode", ["RGBA", "I;16", "CMYK"])
def test_what_reading_costs(mode, tmp_path):
    """In a process of its own: a small file must not take gigabytes, whatever it declares."""
    (tmp_path / "a").write_bytes(encoded(Image.new(mode, (4000, 3000)), "JPEG" if mode == "CMYK" else "PNG"))
    code = (
        "import re\nfrom svdkit.image import read_image\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        f"read_image('cat')\nbefore = peak()\nread_image({str(tmp_path / 'a')!r})\nprint(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert 4 < int(done.stdout) * 1024 / (4000 * 3000) < 10
