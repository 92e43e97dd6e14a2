"""Video files: what players need, true colours and timing, metadata where other programs look, limits that hold."""

import io
import os
import re
import subprocess
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from svdkit.clip import Clip, formats
from svdkit.clip.formats import check_size, decode_file, encode_file
from svdkit.errors import ClipError, SvdkitWarning
from tests.clips import micro_clip, moving

IPTC = b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def ffmpeg(*arguments: str, given: bytes = b"") -> None:
    """Make a file as another program would."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *arguments]
    subprocess.run(command, input=given, check=True, capture_output=True)


def ffmpeg_says(path: Path) -> str:
    """Return what ffmpeg prints about a file."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, check=False).stderr.decode()


def boxes(data: bytes) -> list[str]:
    """List the top-level boxes of an mp4 file, and check that they fill it."""
    found, at = [], 0
    while at < len(data):
        found.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at : at + 4], "big")
    assert at == len(data)
    return found


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


class TestPlayability:
    @pytest.mark.parametrize(("height", "width"), [(72, 128), (71, 127), (2, 2), (1, 1)])
    def test_mp4_is_what_browsers_play(self, height, width, tmp_path):
        """H.264, 4:2:0, even sizes, colours and rate declared, its index in front."""
        path = write(tmp_path / "a.mp4", encode_file(moving(14, height=height, width=width), suffix=".mp4", fps=7))
        assert boxes(path.read_bytes()) == ["ftyp", "moov", "free", "mdat"]
        said = ffmpeg_says(path)
        size = f"{width + width % 2}x{height + height % 2}"
        assert re.search(rf"Video: h264 .*yuv420p\(tv, bt709/bt709/iec61966-2-1, progressive\), {size}\b", said)
        assert re.search(r" 7 fps,", said)
        assert "Duration: 00:00:02.00" in said

    def test_webm_is_vp9(self, tmp_path):
        said = ffmpeg_says(write(tmp_path / "a.webm", encode_file(moving(14), suffix=".webm", fps=7)))
        assert re.search(r"Video: vp9 .*yuv420p\(tv, bt709/bt709/iec61966-2-1, progressive\), 48x32", said)
        assert "Duration: 00:00:02.00" in said

    @pytest.mark.parametrize("suffix", [".gif", ".webp"])
    def test_animations_loop_forever_and_last_as_long_as_the_clip(self, suffix):
        """A gif counts in 1/100 s and 7 fps is 14.29 of them: delays alternate instead of drifting."""
        with Image.open(io.BytesIO(encode_file(moving(14), suffix=suffix, fps=7))) as image:
            assert image.info["loop"] == 0
            delays = [still.convert("RGB").info["duration"] for still in ImageSequence.Iterator(image)]
        assert sum(delays) == 2000
        assert max(delays) - min(delays) <= 10

    @pytest.mark.parametrize("fps", [0.1, 6.5, 29.97, 240])
    def test_unusual_rates(self, fps, tmp_path):
        for suffix in (".mp4", ".webm", ".webp"):
            path = write(tmp_path / f"a{suffix}", encode_file(moving(), suffix=suffix, fps=fps))
            assert decode_file(path).fps == pytest.approx(fps, rel=0.05)

    def test_a_gif_that_browsers_would_slow_down_is_refused(self):
        with pytest.raises(ClipError, match=r"a gif shows at most 50 frames a second, not 60; save as .mp4 or .webp"):
            encode_file(moving(), suffix=".gif", fps=60)

    def test_the_display_quality_is_smaller(self):
        frames = moving(14, height=144, width=256)
        assert len(encode_file(frames, suffix=".mp4", fps=7, crf=30)) < len(encode_file(frames, suffix=".mp4", fps=7))


class TestColour:
    @pytest.mark.parametrize("suffix", [".mp4", ".webm", ".webp"])
    @pytest.mark.parametrize(
        "colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255), (90, 140, 60)]
    )
    def test_flat_colours_come_back(self, suffix, colour, tmp_path):
        """A wrong matrix or range shifts them by 10 levels and more."""
        frames = np.full((3, 64, 64, 3), colour, np.uint8)
        frames[:, :8] = 128  # a picture of one colour would hide a codec that only keeps the mean
        read = decode_file(write(tmp_path / f"a{suffix}", encode_file(frames, suffix=suffix, fps=7))).frames
        assert np.abs(read[0, 20:-4, 4:-4].astype(int) - colour).max() <= 4

    def test_a_gif_has_one_palette(self):
        data = encode_file(moving(6), suffix=".gif", fps=7)
        with Image.open(io.BytesIO(data)) as image:
            palettes = {bytes(still.palette.getdata()[1]) for still in ImageSequence.Iterator(image) if still.palette}
        assert len(palettes) <= 1


class TestMetadata:
    def test_mp4_carries_tags_and_the_iptc_mark(self, tmp_path):
        path = micro_clip().save(tmp_path / "a.mp4")
        assert re.search(r"title +: AI-generated video \(micro, svdkit [\d.]+\)", ffmpeg_says(path))
        assert re.search(r'comment +: {"svdkit_clip": 1, "digital_source_type": "http://cv.iptc', ffmpeg_says(path))
        assert boxes(path.read_bytes()) == ["ftyp", "moov", "free", "mdat", "uuid"]
        assert b'Iptc4xmpExt:DigitalSourceType="' + IPTC in path.read_bytes()

    def test_webm_carries_them(self, tmp_path):
        said = ffmpeg_says(micro_clip().save(tmp_path / "a.webm"))
        assert re.search(rf"DIGITAL_SOURCE_TYPE *: {IPTC.decode()}", said)
        assert re.search(r"SOFTWARE +: svdkit", said)

    def test_webp_and_png_carry_the_xmp_mark(self, tmp_path):
        for path in (micro_clip().save(tmp_path / "a.webp"), micro_clip().save(tmp_path / "a.png") / "0003.png"):
            with Image.open(path) as image:
                xmp = image.getxmp()["xmpmeta"]["RDF"]["Description"]
            assert (xmp["CreatorTool"], xmp["DigitalSourceType"].encode()) == ("svdkit", IPTC)

    @pytest.mark.parametrize("length", [0, 1, 254, 255, 256, 510, 24_000])
    def test_a_gif_comment_of_any_length(self, length, tmp_path):
        """It is stored in blocks of 255 bytes."""
        comment = "0123456789" * 2400
        data = encode_file(moving(), suffix=".gif", fps=7, tags={"comment": comment[:length]})
        read = decode_file(write(tmp_path / "a.gif", data))
        assert ((read.comment or b"").decode(), len(read.frames)) == (comment[:length], 4)

    @pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp"])
    def test_signs_that_need_escaping(self, suffix, tmp_path):
        comment = '{"a": "x=1; #2 \\\\ \\n \\u00e9 \'q\' \\"Q\\" % $HOME"}'
        data = encode_file(moving(), suffix=suffix, fps=7, tags={"comment": comment})
        read = decode_file(write(tmp_path / f"a{suffix}", data)).comment
        assert (read.decode() if isinstance(read, bytes) else read) == comment


class TestLimits:
    def test_sizes(self):
        check_size(height=576, width=1024, num_frames=606)
        with pytest.raises(ClipError, match=r"607 frames of 1024x576: 606 fit into 1.0 GiB; cut the clip"):
            check_size(height=576, width=1024, num_frames=607)
        with pytest.raises(ClipError, match=r"frames of 7681x4320 pixels are larger than 8K \(33,177,600\)"):
            check_size(height=4320, width=7681, num_frames=1)

    @pytest.mark.parametrize("suffix", [".mp4", ".webm"])
    def test_films_and_huge_pictures_are_not_decoded_to_their_end(self, suffix, tmp_path, monkeypatch):
        path = write(tmp_path / f"film{suffix}", encode_file(moving(30), suffix=suffix, fps=7))
        monkeypatch.setattr(formats, "MAX_BYTES", 20_000)
        said = rf"film{suffix} is longer than svdkit reads \(20,000 bytes of raw frames\)"
        with pytest.raises(ClipError, match=said):
            decode_file(path)
        monkeypatch.setattr(formats, "MAX_FRAME_PIXELS", 100)
        with pytest.raises(ClipError, match=rf"film{suffix}"):
            decode_file(path)

    @pytest.mark.parametrize("suffix", [".gif", ".webp"])
    def test_animations_stop_at_the_limit(self, suffix, tmp_path, monkeypatch):
        path = write(tmp_path / f"a{suffix}", encode_file(moving(5), suffix=suffix, fps=7))
        monkeypatch.setattr(formats, "MAX_BYTES", 4 * 32 * 48 * 3)
        with pytest.raises(ClipError, match="5 frames of 48x32: 4 fit"):
            decode_file(path)

    def test_a_gif_that_declares_a_huge_canvas(self, tmp_path):
        data = bytearray(encode_file(moving(), suffix=".gif", fps=7))
        data[6:10] = b"\xff\xff\xff\xff"
        with pytest.raises(ClipError, match=r"65535|exceeds limit"):
            Clip.read(write(tmp_path / "bomb.gif", bytes(data)))

    def test_delays_that_would_fill_the_memory(self, tmp_path):
        stills = [Image.new("L", (500, 500), grey) for grey in (50, 200)]
        stills[0].save(tmp_path / "slow.gif", save_all=True, append_images=stills[1:], duration=[10, 655_350])
        with pytest.raises(ClipError, match="65536 frames of 500x500: 1431 fit"):
            Clip.read(tmp_path / "slow.gif")

    def test_ffmpeg_is_stopped_when_it_takes_too_long(self, tmp_path, monkeypatch):
        def hang(*_: Any, timeout: float, **__: Any) -> None:
            raise subprocess.TimeoutExpired("ffmpeg", timeout)

        path = write(tmp_path / "slow.mp4", encode_file(moving(), suffix=".mp4", fps=7))
        monkeypatch.setattr(subprocess, "run", hang)
        with pytest.raises(ClipError, match=r"slow.mp4: ffmpeg was stopped after 120 s; try a smaller clip"):
            decode_file(path)


class TestFailures:
    def test_ffmpeg_is_missing(self, monkeypatch):
        def missing():
            raise RuntimeError("No ffmpeg exe could be found.")

        for find in (missing, lambda: "/nowhere/ffmpeg"):
            monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", find)
            with pytest.raises(ClipError, match=r"ffmpeg cannot be started \(.*No .*run: pip install imageio-ffmpeg"):
                encode_file(moving(), suffix=".mp4", fps=7)

    def test_no_folder_for_temporary_files(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
        with pytest.raises(ClipError, match=r"temporary files cannot be used \(No such .*free space or set TMPDIR"):
            encode_file(moving(), suffix=".mp4", fps=7)

    def test_a_full_disk_under_ffmpeg(self, monkeypatch):
        full = subprocess.CompletedProcess("ffmpeg", 228, b"", b"write_frame(): No space left on device\n")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: full)
        with pytest.raises(ClipError, match=r"a .mp4 file: ffmpeg failed \(.*No space.*the disk is full") as caught:
            encode_file(moving(), suffix=".mp4", fps=7)
        assert isinstance(caught.value.__cause__, OSError)

    @pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp"])
    @pytest.mark.parametrize("kept", [0, 4, 13, 100, 300])
    def test_files_that_were_cut_short(self, suffix, kept, tmp_path):
        data = encode_file(moving(6), suffix=suffix, fps=7)[:kept]
        with pytest.raises(ClipError, match=r"part(\.| ).*(is not an mp4|ffmpeg failed|cannot be read|holds no video)"):
            Clip.read(write(tmp_path / f"part{suffix}", data))

    def test_an_mp4_of_sound_alone(self, tmp_path):
        path = tmp_path / "song.mp4"
        ffmpeg("-f", "lavfi", "-i", "sine=duration=0.1", "-c:a", "aac", str(path))
        with pytest.raises(ClipError, match=r"song.mp4: ffmpeg failed \(.+\); it may be cut short: save or download"):
            decode_file(path)

    def test_a_video_turned_by_its_metadata_is_read_upright(self, tmp_path):
        """As phones record them."""
        path = write(tmp_path / "a.mp4", encode_file(moving(), suffix=".mp4", fps=7))
        turned = tmp_path / "turned.mp4"
        ffmpeg("-display_rotation", "90", "-i", str(path), "-c", "copy", str(turned))
        assert Clip.read(turned).frames.shape == (4, 48, 32, 3)

    def test_the_picture_on_the_cover_is_not_the_clip(self, tmp_path):
        path, cover = write(tmp_path / "a.mp4", encode_file(moving(), suffix=".mp4", fps=7)), tmp_path / "cover.png"
        Image.new("RGB", (12, 16), "red").save(cover)
        order = ["-map", "1", "-map", "0", "-c", "copy", "-disposition:v:0", "attached_pic"]
        ffmpeg("-i", str(path), "-i", str(cover), *order, str(tmp_path / "b.mp4"))
        clip = Clip.read(tmp_path / "b.mp4")
        assert (clip.frames.shape, clip.fps) == ((4, 32, 48, 3), 7)


class TestOtherPrograms:
    """Files that svdkit would not write itself."""

    @pytest.mark.parametrize(
        ("codec", "pixels", "suffix"),
        [
            ("libx264", "yuv420p10le", ".mp4"),
            ("libx265", "yuv420p10le", ".mp4"),
            ("libvpx-vp9", "yuv420p10le", ".webm"),
            ("prores_ks", "yuv422p10le", ".mov"),
            ("prores_ks", "yuva444p10le", ".mov"),
        ],
    )
    def test_more_than_eight_bits(self, codec, pixels, suffix, tmp_path):
        frames, path = moving(4, height=64, width=96), tmp_path / f"a{suffix}"
        raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "96x64", "-framerate", "7", "-i", "pipe:0")
        ffmpeg(*raw, "-c:v", codec, "-pix_fmt", pixels, str(path), given=frames.tobytes())
        clip = Clip.read(path)
        assert (clip.frames.shape, clip.fps) == (frames.shape, 7)
        assert np.abs(clip.frames.astype(int) - frames).mean() < 4

    @pytest.mark.parametrize("suffix", [".mp4", ".webm"])
    def test_a_recording_whose_frames_come_irregularly(self, suffix, tmp_path):
        """As of a screen: its file names another rate, or 1000, than that at which frames come, 34 in 1.221 s."""
        path = tmp_path / f"a{suffix}"
        jitter = "setpts='(N*37+mod(N*7\\,5))/1000/TB'"
        source = (
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=64x48:rate=30",
            "-frames:v",
            "34",
            "-vf",
            f"settb=1/1000,{jitter}",
        )
        ffmpeg(*source, "-fps_mode", "vfr", "-enc_time_base", "1/1000", str(path))
        assert Clip.read(path).fps == pytest.approx(27.0, abs=0.6)

    @pytest.mark.parametrize(("rate", "shown"), [("240", None), ("999.5", "999.5"), ("1000", "1000"), ("1200", "1200")])
    def test_rates_above_what_a_clip_has(self, rate, shown, tmp_path):
        path = tmp_path / "fast.mp4"
        ffmpeg("-f", "lavfi", "-i", f"testsrc2=size=64x48:rate={rate}", "-frames:v", "6", str(path))
        said = f"fast.mp4 plays at {shown} frames a second; a clip has 0.1 to 240, so it is read at 240"
        with pytest.warns(SvdkitWarning, match=re.escape(said)) if shown else nullcontext():
            assert Clip.read(path).fps == 240

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes in folders")
    def test_a_pipe_among_the_frames(self, tmp_path):
        folder = micro_clip().save(tmp_path / "a.png")
        os.mkfifo(folder / "0005.png")
        assert Clip.read(folder).num_frames == 4
