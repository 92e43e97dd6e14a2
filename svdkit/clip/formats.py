"""Frames to the bytes of a file and back: mp4, webm and gif by ffmpeg; webp, PNG frames and reading gif by Pillow.

ffmpeg is the one that imageio-ffmpeg brings, under limits of time, pixels and bytes, for files come from anywhere;
mediapy knows no such limits and does not read metadata.
"""

from __future__ import annotations

import errno
import io
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageSequence
from PIL.PngImagePlugin import PngInfo

from svdkit.clip.provenance import XMP
from svdkit.environment import ENCODERS
from svdkit.errors import ClipError
from svdkit.image.decode import decoding
from svdkit.image.read import read_image
from svdkit.units import format_bytes

Frames = npt.NDArray[np.uint8]  # RGB, shape (frames, height, width, 3), values 0 to 255

MAX_BYTES = 2**30  # of raw frames that are read: 606 frames at 576x1024. More is a film or a decompression bomb.
MAX_FRAME_PIXELS = 7680 * 4320  # of one frame: 8K

_FFMPEG = "imageio-ffmpeg==0.6.0"
_EXIF_DESCRIPTION, _EXIF_SOFTWARE = 0x010E, 0x0131  # Exif 2.32, table 4
# sRGB frames under BT.709's matrix and limited range. The transfer tag says sRGB, for that is what the values are.
_YUV = (
    *("-vf", "scale=flags=accurate_rnd+full_chroma_inp+bicubic:out_color_matrix=bt709:out_range=tv,format=yuv420p"),
    *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "iec61966-2-1", "-color_range", "tv"),
)
_CODECS = {
    ".mp4": (*_YUV, "-c:v", ENCODERS[".mp4"], "-crf", "16", "-movflags", "+faststart"),
    ".webm": (*_YUV, "-c:v", ENCODERS[".webm"], "-crf", "24", "-b:v", "0", "-row-mt", "1", "-cpu-used", "2"),
    # One palette for all frames: one a frame flickers. Pillow's dithering leaves bright specks on dark photos.
    ".gif": ("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=floyd_steinberg", "-loop", "0"),
}
_XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # XMP's uuid in ISO media files: XMP part 3, "MPEG-4"


_NO_TAGS: Mapping[str, str] = {}
_CUT_SHORT = "it may be cut short: save or download it again"


class Decoded(NamedTuple):
    """What a file holds: equal frames may be one with a long delay (ms); no delays mean that all are equal."""

    frames: Frames
    fps: float | None
    delays: Sequence[float] = ()
    comment: Any = None  # a text, if the file is ours


def check_size(*, height: int, width: int, num_frames: int) -> None:
    """Refuse sizes that no clip has, before memory is asked for them."""
    if height * width > MAX_FRAME_PIXELS:
        raise ClipError(f"frames of {width}x{height} pixels are larger than 8K ({MAX_FRAME_PIXELS:,}); scale them down")
    if num_frames > (most := MAX_BYTES // (height * width * 3)):
        given, limit = f"{num_frames} frames of {width}x{height}", format_bytes(MAX_BYTES)
        raise ClipError(f"{given}: {most} fit into {limit}; cut the clip")


def check_rate(suffix: str, fps: float) -> None:
    """Refuse a rate that a format cannot have: a gif counts in hundredths of a second."""
    if suffix == ".gif" and fps > 50:
        raise ClipError(f"a gif shows at most 50 frames a second, not {fps:g}; save as .mp4 or .webp")


def check_encoder(suffix: str) -> None:
    """Encode two small frames, to find out before a clip is made that it could not be saved; a ClipError."""
    if suffix != ".png":
        encode_file(np.zeros((2, 16, 16, 3), np.uint8), suffix=suffix, fps=7)


def encode_file(
    frames: Frames, *, suffix: str, fps: float, tags: Mapping[str, str] = _NO_TAGS, crf: int | None = None
) -> bytes:
    """Encode frames as .mp4 (H.264, index in front), .webm (VP9), .gif or .webp, complete with metadata.

    4:2:0 needs even sizes: in mp4 and webm an odd one grows by a repeated row or column. A crf of None is near
    transparent (16 and 24). Tags are ``Document.tags``; only a file with a title is marked as AI-generated.
    """
    if suffix == ".webp":
        return _encode_webp(frames, fps, tags)
    check_rate(suffix, fps)
    if suffix != ".gif":
        frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    size, rate = f"{frames.shape[2]}x{frames.shape[1]}", str(Fraction(fps).limit_denominator(1001))
    options = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-framerate", rate, "-i", "pipe:0", *_CODECS[suffix]]
    options += [] if crf is None else ["-crf", str(crf)]
    for name, text in tags.items():
        options += ["-metadata", f"{name}={text}"]
    try:
        with tempfile.TemporaryDirectory() as folder:  # an index moved to the front cannot go through a pipe
            path = Path(folder, f"clip{suffix}")
            _ffmpeg(*options, str(path), subject=f"a {suffix} file", given=frames.tobytes())
            data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise ClipError(f"temporary files cannot be used ({reason}); free space or set TMPDIR") from error
    if suffix == ".gif":
        return _with_comment(data, tags.get("comment", "").encode())
    if suffix == ".mp4" and "title" in tags:
        packet = b"uuid" + _XMP_BOX + XMP.encode()
        return data + (4 + len(packet)).to_bytes(4, "big") + packet
    return data


def _with_comment(gif: bytes, comment: bytes) -> bytes:
    """Put a comment behind a gif's colour table, which ffmpeg cannot: GIF89a specification, section 24."""
    end = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    blocks = re.sub(rb"(?s).{1,255}", lambda block: bytes([len(block[0])]) + block[0], comment)
    return gif[:end] + b"\x21\xfe" + blocks + b"\0" + gif[end:]


def encode_png(frame: npt.NDArray[np.uint8], *, tags: Mapping[str, str] = _NO_TAGS) -> bytes:
    """Encode one frame, uint8 (height, width, 3), as PNG with its metadata."""
    info = PngInfo()
    for name, text in tags.items():
        info.add_text(name.title(), text)
    if "title" in tags:
        info.add_itxt("XML:com.adobe.xmp", XMP)
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def _encode_webp(frames: Frames, fps: float, tags: Mapping[str, str]) -> bytes:
    """Encode as animated webp, lossy of high quality."""
    exif = Image.Exif()
    exif[_EXIF_DESCRIPTION], exif[_EXIF_SOFTWARE] = tags.get("comment", ""), "svdkit"
    edges = np.rint(np.arange(len(frames) + 1) * 1000 / fps)  # whole milliseconds that add up to the duration
    first, *others = [Image.fromarray(frame) for frame in frames]
    show = {"save_all": True, "append_images": others, "duration": np.diff(edges).astype(int).tolist(), "loop": 0}
    buffer = io.BytesIO()
    try:
        first.save(buffer, "WEBP", quality=90, exif=exif, xmp=XMP.encode() if "title" in tags else b"", **show)
    except Exception as error:  # a Pillow without webp, or a size that webp cannot have: many kinds
        raise ClipError(f"a .webp file: Pillow failed ({error}); try another format, such as .png") from error
    return buffer.getvalue()


def decode_file(path: Path) -> Decoded:
    """Read a video file, whatever its suffix says, or a folder of PNG frames in the order of their numbers."""
    if path.is_dir():
        return _decode_folder(path)
    with path.open("rb") as file:
        start = file.read(12)
    if re.match(rb"GIF8|(?s:RIFF.{4}WEBP)", start):
        return _decode_animation(path)
    if re.match(rb"(?s).{4}(ftyp|moov|mdat|wide|free|skip)", start):
        return _decode_video(path, "mov")
    if start.startswith(b"\x1a\x45\xdf\xa3"):
        return _decode_video(path, "matroska")
    raise ClipError(f"{path.name} is not an mp4, webm, gif or webp video; convert it first, for example with ffmpeg")


def _decode_animation(path: Path) -> Decoded:
    """Read a gif or webp file, animated or still."""
    stills: list[Frames] = []
    delays: list[float] = []
    with (
        decoding(path.name, f"If it is whole, convert it; {_CUT_SHORT}."),
        Image.open(path, formats=("GIF", "WEBP")) as image,
    ):
        comment = image.getexif().get(_EXIF_DESCRIPTION, image.info.get("comment"))
        for still in ImageSequence.Iterator(image):
            check_size(height=image.height, width=image.width, num_frames=len(stills) + 1)
            stills.append(np.asarray(still.convert("RGB")))
            delays.append(float(still.info.get("duration", 0)))
    if len(delays) > 1:
        delays = [delay if delay >= 4 else 100.0 for delay in delays]  # none is above 240 fps; 0 is shown as 100 ms
    shortest = min(delays)
    steady = sum(delays) / len(delays) if max(delays) < 2 * shortest else shortest  # the longer ones are merged frames
    return Decoded(np.stack(stills), 1000 / steady if steady else None, delays, comment)


def _decode_folder(folder: Path) -> Decoded:
    """Read the .png files of a folder in the order of the numbers in their names."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() == ".png" and path.is_file()]
    if not paths:
        raise ClipError(f"{folder} holds no .png frames; give a folder that Clip.save wrote, or a video file")
    paths.sort(key=lambda path: ([int(number) for number in re.findall("[0-9]+", path.name)], path.name))
    frames: list[Frames] = []
    for path in paths:
        frames.append(np.asarray(read_image(path, max_pixels=MAX_FRAME_PIXELS)))
        check_size(height=frames[0].shape[0], width=frames[0].shape[1], num_frames=len(paths))
        if frames[-1].shape != frames[0].shape:
            raise ClipError(f"{path.name} is not as large as {paths[0].name}; all frames of a clip have one size")
    with Image.open(paths[0]) as first:
        return Decoded(np.stack(frames), fps=None, comment=first.info.get("Comment"))


def _decode_video(path: Path, demuxer: str) -> Decoded:
    """Decode with a fixed demuxer and local files only, so that no playlist can lead ffmpeg elsewhere."""
    address = f"file:{path.absolute()}"  # a bare name may start with "-" or look like a URL
    source = ("-protocol_whitelist", "file", "-max_pixels", str(MAX_FRAME_PIXELS), "-f", demuxer, "-i", address)
    times = ("-map", "0:V:0", "-c", "copy", "-frames:v", "5000", "-f", "framecrc", "pipe:2", "-nostats")
    tags, log = _ffmpeg(*source, "-f", "ffmetadata", "pipe:1", *times, subject=path.name)
    comment = re.search(r"(?im)^comment=(.*)$", tags.decode("utf-8", "replace"))
    # rgb24, else frames of 10 bits become pictures of 16; 0:V, for 0:v may be the picture on the cover.
    frames_as_ppm = ("-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "-fs", str(MAX_BYTES), "pipe:1")
    quality = ("-sws_flags", "accurate_rnd+full_chroma_int+bicubic")
    data, _ = _ffmpeg(*source, "-map", "0:V:0", "-fps_mode", "passthrough", *quality, *frames_as_ppm, subject=path.name)
    header = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", data)
    if header is None:
        raise ClipError(f"{path.name} holds no video frames; {_CUT_SHORT}")
    if len(data) >= MAX_BYTES:
        raise ClipError(f"{path.name} is longer than svdkit reads ({MAX_BYTES:,} bytes of raw frames); cut it first")
    width, height = int(header[1]), int(header[2])  # of all: ffmpeg scales later frames to the size of the first
    rows = np.frombuffer(data, np.uint8).reshape(-1, header.end() + height * width * 3)
    return Decoded(
        rows[:, header.end() :].reshape(-1, height, width, 3),
        fps=_parse_rate(log),
        comment=re.sub(r"\\(.)", r"\1", comment[1]) if comment else None,
    )


def _parse_rate(log: bytes) -> float | None:
    """Read the rate that ffmpeg's log names, or where it is not the one by which frames follow, that of their times."""
    named = re.search(rb"Video: .*?([\d.]+)(k?) fps", log)  # 1000 is "1k"
    rate = float(named[1]) * (1000 if named[2] else 1) if named else 0.0
    base = re.search(rb"(?m)^#tb 0: (\d+)/(\d+)", log)
    times = {int(time) for time in re.findall(rb"(?m)^0, +-?\d+, +(-?\d+),", log)} - {-(2**63)}  # that is "unknown"
    if base and len(times) > 1:
        unit, steps = int(base[1]) / int(base[2]), len(times) - 1
        lasts = (max(times) - min(times)) * unit
        if not rate or abs(lasts - steps / rate) > 0.02 * lasts + unit:
            rate = steps / lasts
    return rate or None


def _ffmpeg(*arguments: str, subject: str, given: bytes = b"") -> tuple[bytes, bytes]:
    """Run ffmpeg to its end; return its output and its log."""
    import imageio_ffmpeg

    seconds = 900 if given else 120
    try:
        command = (imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-y", *arguments)
        done = subprocess.run(command, input=given, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise ClipError(f"{subject}: ffmpeg was stopped after {seconds} s; try a smaller clip") from error
    except (OSError, RuntimeError) as error:
        raise ClipError(f"{subject}: ffmpeg cannot be started ({error}); run: pip install {_FFMPEG}") from error
    if done.returncode == 0:
        return done.stdout, done.stderr
    log = done.stderr.decode("utf-8", "replace")
    told = re.search(r"(?im)^(?:\[[^\n\]]*\] )*([^\n]*(?:error|invalid|fail|no space|unknown encoder)[^\n]*)$", log)
    reason = told[1].strip() if told else f"it stopped with code {done.returncode}"
    advice = "try another format, such as .png" if given else _CUT_SHORT
    if "Unknown encoder" in log:
        advice += f", or run: pip install {_FFMPEG}, and unset IMAGEIO_FFMPEG_EXE"
    if not re.search("No space left|Disk quota exceeded", log):
        raise ClipError(f"{subject}: ffmpeg failed ({reason}); {advice}")
    full = OSError(errno.ENOSPC, "no space left")  # a sweep stops for it
    raise ClipError(f"{subject}: ffmpeg failed ({reason}); the disk is full; free some space") from full
