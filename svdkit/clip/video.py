"""Frames to the bytes of a video file and back: mp4, webm and gif by ffmpeg, the rest by ``stills``.

ffmpeg is the one that imageio-ffmpeg brings, run as a child process under limits of time, pixels and bytes, for files
come from anywhere. mediapy is not used here: it knows no such limits and does not read metadata.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

from svdkit.clip.provenance import DIGITAL_SOURCE_TYPE
from svdkit.clip.stills import (
    MAX_BYTES,
    MAX_PIXELS,
    XMP,
    Decoded,
    Frames,
    Tags,
    decode_animation,
    decode_folder,
    encode_webp,
)
from svdkit.errors import ClipError

_ENCODE_SECONDS, _DECODE_SECONDS = 900.0, 120.0

# sRGB frames under BT.709's matrix and limited range. The transfer tag says sRGB, for that is what the values are.
_YUV = (
    *("-vf", "scale=flags=accurate_rnd+full_chroma_inp+bicubic:out_color_matrix=bt709:out_range=tv,format=yuv420p"),
    *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "iec61966-2-1", "-color_range", "tv"),
)
_CODECS = {
    ".mp4": (*_YUV, "-c:v", "libx264", "-crf", "16", "-movflags", "+faststart"),
    ".webm": (*_YUV, "-c:v", "libvpx-vp9", "-crf", "24", "-b:v", "0", "-row-mt", "1", "-cpu-used", "2"),
    # One palette for all frames: one a frame flickers. Pillow's dithering leaves bright specks on dark photos.
    ".gif": ("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=floyd_steinberg", "-loop", "0"),
}
_XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # XMP's uuid in ISO media files: XMP part 3, "MPEG-4"


def encode(frames: Frames, *, suffix: str, fps: float, tags: Tags | None = None, crf: int | None = None) -> bytes:
    """Encode frames as one file, complete with metadata.

    mp4 is H.264 and webm VP9, both yuv420p and BT.709; an odd height or width grows by one repeated row or column,
    for 4:2:0 needs even sizes. mp4 has its index in front, so that browsers start at once.

    Args:
        frames: uint8 (frames, height, width, 3).
        suffix: ".mp4", ".webm", ".gif" or ".webp".
        fps: Playback, 0.1 to 240 frames a second; 50 at most for gif, whose clock ticks in 1/100 s.
        tags: Metadata; none when left out.
        crf: Quality of mp4 and webm, lower is better; None is near transparent (16 and 24).

    Raises:
        ClipError: The encoder is missing or failed.

    Example:
        >>> encode(np.zeros((2, 8, 8, 3), np.uint8), suffix=".mp4", fps=7)[4:8]
        b'ftyp'
    """
    if suffix == ".webp":
        return encode_webp(frames, fps=fps, tags=tags)
    if suffix == ".gif" and fps > 50:
        raise ClipError(f"a gif shows at most 50 frames a second, not {fps:g}; save as .mp4 or .webp")
    if suffix != ".gif":
        frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    size, rate = f"{frames.shape[2]}x{frames.shape[1]}", str(Fraction(fps).limit_denominator(1001))
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-framerate", rate, "-i", "pipe:0")
    quality = () if crf is None else ("-crf", str(crf))
    data = _ffmpeg_file(*source, *_CODECS[suffix], *quality, *_metadata(tags), suffix=suffix, given=frames.tobytes())
    if suffix == ".gif" and tags:
        return _with_comment(data, tags.comment.encode())
    return data + _xmp_box() if suffix == ".mp4" and tags and tags.title else data


def _ffmpeg_file(*arguments: str, suffix: str, given: bytes) -> bytes:
    """Let ffmpeg write a file, for an index moved to the front cannot go through a pipe; return its bytes."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"clip{suffix}")
            _ffmpeg(*arguments, str(path), subject=f"a {suffix} file", given=given)
            return path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise ClipError(
            f"the folder for temporary files cannot be used ({reason}); free space or set TMPDIR"
        ) from error


def _with_comment(gif: bytes, comment: bytes) -> bytes:
    """Put a comment behind a gif's colour table, which ffmpeg cannot: GIF89a specification, section 24."""
    table = 3 * 2 ** ((gif[10] & 7) + 1) if gif[10] & 128 else 0
    parts = [comment[at : at + 255] for at in range(0, len(comment), 255)]
    blocks = b"".join(bytes([len(part)]) + part for part in parts)
    return gif[: 13 + table] + b"\x21\xfe" + blocks + b"\0" + gif[13 + table :]


def _metadata(tags: Tags | None) -> tuple[str, ...]:
    if tags is None:
        return ()
    pairs = {"comment": tags.comment}
    if tags.title:
        pairs |= {"title": tags.title, "software": "svdkit", "digital_source_type": DIGITAL_SOURCE_TYPE}
    return tuple(part for name, text in pairs.items() for part in ("-metadata", f"{name}={text}"))


def _xmp_box() -> bytes:
    packet = _XMP_BOX + XMP.encode()
    return (8 + len(packet)).to_bytes(4, "big") + b"uuid" + packet


def decode(path: Path) -> Decoded:
    """Read a video file, whatever its suffix says, or a folder of PNG frames in the order of their numbers.

    Args:
        path: An mp4, mov, webm, mkv, gif or webp file, or a folder of equally large .png files.

    Raises:
        ClipError: It is none of these, broken, or larger than ``MAX_PIXELS`` and ``MAX_BYTES`` allow.

    Example:
        >>> decode(Path("walk.mp4")).fps  # doctest: +SKIP
        7.0
    """
    if path.is_dir():
        return decode_folder(path)
    with path.open("rb") as file:
        start = file.read(12)
    if start[:4] == b"GIF8" or (start[:4] == b"RIFF" and start[8:] == b"WEBP"):
        return decode_animation(path)
    if start[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}:
        return _decode(path, demuxer="mov")
    if start[:4] == b"\x1a\x45\xdf\xa3":
        return _decode(path, demuxer="matroska")
    raise ClipError(f"{path.name} is not an mp4, webm, gif or webp video; convert it first, for example with ffmpeg")


def _decode(path: Path, *, demuxer: str) -> Decoded:
    """Decode with a fixed demuxer and local files only, so that no playlist can lead ffmpeg elsewhere."""
    address = f"file:{path.absolute()}"  # a bare name may start with "-" or look like a URL
    source = ("-protocol_whitelist", "file", "-max_pixels", str(MAX_PIXELS), "-f", demuxer, "-i", address)
    tags, log = _ffmpeg(*source, "-f", "ffmetadata", "pipe:1", subject=path.name)  # its log tells the rate
    frames_as_ppm = ("-c:v", "ppm", "-f", "image2pipe", "-fs", str(MAX_BYTES), "pipe:1")
    quality = ("-sws_flags", "accurate_rnd+full_chroma_int+bicubic")
    data, _ = _ffmpeg(*source, "-map", "0:v:0", "-fps_mode", "passthrough", *quality, *frames_as_ppm, subject=path.name)
    rate = re.search(rb"Video: .*?([\d.]+) fps", log)
    comment = re.search(rb"(?im)^comment=(.*)$", tags)
    return Decoded(
        frames=_parse_ppm(data, name=path.name),
        fps=float(rate[1]) if rate else None,
        comment=re.sub(r"\\(.)", r"\1", comment[1].decode("utf-8", "replace")) if comment else None,
    )


def _parse_ppm(data: bytes, *, name: str) -> Frames:
    """Split a stream of equally large PPM pictures; each begins with its own size."""
    header = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", data)
    if header is None:
        raise ClipError(f"{name} holds no video frames; it may be cut short: save or download it again")
    if len(data) >= MAX_BYTES:
        raise ClipError(f"{name} is longer than svdkit reads ({MAX_BYTES:,} bytes of raw frames); cut it first")
    width, height = int(header[1]), int(header[2])
    stride = header.end() + height * width * 3
    if len(data) % stride or any(data[at : at + header.end()] != header[0] for at in range(0, len(data), stride)):
        raise ClipError(f"{name} changes its frame size on the way; all frames of a clip are equally large")
    rows = np.frombuffer(data, np.uint8).reshape(-1, stride)
    return rows[:, header.end() :].reshape(-1, height, width, 3)


def _ffmpeg(*arguments: str, subject: str, given: bytes = b"") -> tuple[bytes, bytes]:
    """Run ffmpeg to its end; return its output and its log."""
    import imageio_ffmpeg

    seconds = _ENCODE_SECONDS if given else _DECODE_SECONDS
    try:
        command = (imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-y", *arguments)
        done = subprocess.run(command, input=given, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise ClipError(f"{subject}: ffmpeg was stopped after {seconds:g} s; try a smaller clip") from error
    except (OSError, RuntimeError) as error:
        raise ClipError(f"{subject}: ffmpeg cannot be started ({error}); run: pip install imageio-ffmpeg") from error
    if done.returncode == 0:
        return done.stdout, done.stderr
    log = done.stderr.decode("utf-8", "replace")
    complaint = re.search(r"(?im)^(?:\[[^\n\]]*\] )*([^\n]*(?:error|invalid|fail|no space)[^\n]*)$", log)
    reason = complaint[1].strip() if complaint else f"it stopped with code {done.returncode}"
    advice = "try another format, such as .png" if given else "it may be cut short: save or download it again"
    advice = "the disk is full; free some space" if "No space left" in log else advice
    raise ClipError(f"{subject}: ffmpeg failed ({reason}); {advice}")
