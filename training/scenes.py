"""Procedural worlds and the camera that films them: the only data the micro model ever sees.

A world is a painted plane (1/f noise, gradients, dead leaves, stripes) four times as wide as a frame. A clip is that
plane under a camera that zooms in or pans to one side. How far things move is what the model is told:
`motion_bucket_id` and `fps` fix the speed. Which way, the picture itself decides, since what is left to chance becomes
the average of all ways in a model as small as this one: the camera goes to the side that is lighter, and closer when
neither is.

References: dead leaves, Lee, Mumford & Huang (2001), "Occlusion models for natural images"; 1/f spectra, Field (1987).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Frames = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]

HEIGHT, WIDTH = 72, 128
FINE = 2  # views are taken at twice the frame's size, then averaged down: sharp without aliasing
PIXELS_A_FRAME = 1.6  # speed at motion_bucket_id 255 and 7 fps: 10 pixels in 13 frames at bucket 127
FPS = (5, 7, 10)
MOVES = ("zoom in", "pan left", "pan right")  # what the camera does
LEAN = 0.0347  # lightness right minus left, of 1, beyond which the camera pans: two of three among 3,000 training views
DOUBT = 0.033, 0.045  # views that lean by this much to either side are not trained on: `LEAN` is somewhere between


@dataclass(frozen=True)
class Clip:
    """One rendered clip and what the model is told about it.

    Attributes:
        frames: uint8, shape (frames, 72, 128, 3), sRGB.
        fps: frames a second of these frames.
        motion_bucket_id: 0 to 255.
        move: index into `MOVES`, which the first frame decides.
    """

    frames: Frames
    fps: float
    motion_bucket_id: int
    move: int


def palette(rng: np.random.Generator, count: int) -> Array:
    """Draw `count` colours that go together: one hue family, varied lightness. Shape (count, 3), range 0 to 1."""
    hue = (rng.uniform(0, 180) + rng.normal(0, rng.choice([8.0, 25.0, 60.0]), count)) % 180
    saturation = np.clip(rng.beta(1.3, 3.0) * 255 + rng.normal(0, 35, count), 0, 255)
    value = np.clip(rng.uniform(0, 255, count) * rng.uniform(0.6, 1) + rng.uniform(0, 60), 0, 255)
    hsv = np.stack([hue, saturation, value], axis=-1).astype(np.uint8)[None]
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0] / np.float32(255), dtype=np.float32)


def noise(rng: np.random.Generator, *, height: int, width: int, exponent: float) -> Array:
    """Gaussian noise with amplitude spectrum 1/f**exponent, shape (height, width), zero mean, unit deviation."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    radius = np.maximum(np.hypot(fy, fx), 1 / max(height, width))
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / radius**exponent
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=(height, width))
    return np.asarray(field / field.std(), dtype=np.float32)


def shade(rng: np.random.Generator, colours: Array, *, height: int, width: int, exponent: float, depth: float) -> Array:
    """A coloured surface: a gradient between two colours plus 1/f texture of strength `depth`. (height, width, 3)."""
    first, second = colours[rng.integers(len(colours), size=2)]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.add.outer(np.sin(angle) * np.linspace(-1, 1, height), np.cos(angle) * np.linspace(-1, 1, width))
    blend = np.clip(0.5 + 0.5 * ramp, 0, 1).astype(np.float32)[..., None]
    surface = first * blend + second * (1 - blend)
    texture = noise(rng, height=height, width=width, exponent=exponent)[..., None]
    tint = rng.uniform(0.5, 1, 3).astype(np.float32)
    return np.asarray(surface + depth * texture * tint, dtype=np.float32)


def outline(rng: np.random.Generator, *, size: float) -> npt.NDArray[np.float64]:
    """A leaf's outline: an ellipse, a box or a bumpy blob of about `size` pixels. Shape (points, 2)."""
    kind = rng.choice(["ellipse", "box", "blob"])
    angles = np.linspace(0, 2 * np.pi, 5 if kind == "box" else 40)[:-1] + (np.pi / 4 if kind == "box" else 0)
    radius = np.ones_like(angles)
    if kind == "blob":
        for wave in range(2, 6):
            radius += rng.normal(0, 0.35 / wave) * np.cos(wave * angles + rng.uniform(0, 2 * np.pi))
    points = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * radius[:, None] * size
    points *= np.array([1, rng.uniform(0.25, 1)])
    turn = 0.0 if kind == "box" and rng.random() < 0.5 else rng.uniform(0, np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.asarray(points @ rotation.T)


def mask_of(points: npt.NDArray[np.float64], *, height: int, width: int) -> Array:
    """An antialiased filled polygon, shape (height, width, 1), range 0 to 1."""
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return np.asarray(canvas[..., None] / np.float32(255), dtype=np.float32)


def paint_world(rng: np.random.Generator, *, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Paint one world, uint8 (height, width, 3). Half are smooth like sky and walls, half busy like foliage."""
    colours = palette(rng, 8)
    calm = rng.random() < 0.5
    exponent, depth = rng.uniform(1.1, 2.0), rng.uniform(0.01, 0.08 if calm else 0.18)
    world = shade(rng, colours, height=height, width=width, exponent=exponent, depth=depth)
    largest = rng.uniform(60, 160)
    texture = noise(rng, height=height, width=width, exponent=rng.uniform(0.8, 1.8))[..., None]
    for _ in range(int(rng.integers(4, 25)) if calm else int(rng.integers(40, 160))):
        # Sizes follow a power law cut off at both ends, as in natural images (Lee, Mumford & Huang 2001).
        size = float(np.clip(5 * rng.uniform(1e-3, 1) ** -0.6, 4, largest))
        size = float(rng.uniform(20, largest)) if calm else size
        _paint_leaf(rng, world, texture, colours, size=size)
    if rng.random() < 0.25:
        _paint_stripes(rng, world, colours)
    if rng.random() < 0.35:
        world = cv2.GaussianBlur(world, (0, 0), rng.uniform(0.8, 4.0))
    gain = rng.uniform(0.7, 1.25)
    return np.asarray(np.clip((world - 0.5) * gain + 0.5, 0, 1) * 255, dtype=np.uint8)


def _paint_leaf(rng: np.random.Generator, world: Array, texture: Array, colours: Array, *, size: float) -> None:
    height, width = world.shape[:2]
    centre = np.array([rng.uniform(0, width), rng.uniform(0, height)])
    points = outline(rng, size=size)
    low = np.maximum(np.floor(points.min(0) + centre).astype(int) - 2, 0)
    high = np.minimum(np.ceil(points.max(0) + centre).astype(int) + 2, [width, height])
    if np.any(high - low < 2):
        return
    box = np.s_[low[1] : high[1], low[0] : high[0]]
    mask = mask_of(points + centre - low, height=int(high[1] - low[1]), width=int(high[0] - low[0]))
    colour = colours[rng.integers(len(colours))] * rng.uniform(0.7, 1.2)
    light = np.linspace(rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15), mask.shape[0], dtype=np.float32)
    fill = colour + light[:, None, None] + rng.uniform(0, 0.12) * texture[box]
    world[box] += mask * (fill - world[box])


def _paint_stripes(rng: np.random.Generator, world: Array, colours: Array) -> None:
    height, width = world.shape[:2]
    angle, period = rng.uniform(0, np.pi), rng.uniform(8, 40)
    phase = np.add.outer(np.sin(angle) * np.arange(height), np.cos(angle) * np.arange(width)) * 2 * np.pi / period
    centre = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
    mask = mask_of(outline(rng, size=rng.uniform(40, 160)) + centre, height=height, width=width)
    mask = mask * np.clip(2 * np.sin(phase) + 0.5, 0, 1).astype(np.float32)[..., None]
    world += mask * (colours[rng.integers(len(colours))] - world)


def lean(frame: Frames) -> float:
    """How much lighter the right half of a picture (height, width, 3) is than its left half, -1 to 1."""
    grey = frame.mean(axis=(0, 2)) / 255
    return float(grey[len(grey) // 2 :].mean() - grey[: len(grey) // 2].mean())


def doubtful(frame: Frames) -> bool:
    """Whether a picture leans so nearly as far as a pan takes that no clip of it is trained on."""
    return DOUBT[0] <= abs(lean(frame)) <= DOUBT[1]


def move_for(frame: Frames) -> int:
    """Which of `MOVES` a picture asks for: to its lighter side, or closer."""
    side = lean(frame)
    return 0 if abs(side) < LEAN else 1 if side < 0 else 2


def camera(move: int, distance: float) -> Matrix:
    """The homography from the first frame's pixels to those of a camera that has gone `distance` pixels on its way."""
    middle = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    scale = math.exp(distance / (0.3 * WIDTH)) if move == 0 else 1.0  # the mean distance to the middle is 0.3 widths
    shift = middle - scale * middle + (0 if move == 0 else distance if move == 1 else -distance) * np.array([1.0, 0.0])
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])


def film(world: Frames, first: Matrix, *, move: int, step: float, num_frames: int) -> Frames:
    """Film `world` from the view `first`, `step` pixels further at every frame."""
    fine = np.diag([FINE, FINE, 1.0])
    frames = np.empty((num_frames, HEIGHT, WIDTH, 3), np.uint8)
    for index in range(num_frames):
        seen = fine @ camera(move, step * index) @ np.linalg.inv(fine) @ first
        view = cv2.warpPerspective(world, seen, (WIDTH * FINE, HEIGHT * FINE), borderMode=cv2.BORDER_REFLECT_101)
        frames[index] = cv2.resize(view, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return frames


def look(rng: np.random.Generator, world: Frames) -> Matrix:
    """World to first view: a random place, angle, flip and magnification (0.8 to 1.4)."""
    scale, angle, flip = np.exp(rng.uniform(-0.2, 0.35)), rng.uniform(-0.4, 0.4), rng.choice([-1, 1])
    at = np.array(world.shape[1::-1]) * rng.uniform(0.3, 0.7, 2)
    linear = scale * np.array([[np.cos(angle) * flip, -np.sin(angle)], [np.sin(angle) * flip, np.cos(angle)]])
    return np.vstack([np.column_stack([linear, np.array([WIDTH, HEIGHT]) * FINE / 2 - linear @ at]), [0, 0, 1]])


def sample_clip(rng: np.random.Generator, *, num_frames: int, stride: int = 1, worlds: int = 600) -> Clip:
    """Film one of the first `worlds` worlds; every `stride`-th frame is kept, and told as the lower rate."""
    while True:
        world = world_of(int(rng.integers(worlds)))
        first = look(rng, world)
        shown = film(world, first, move=0, step=0.0, num_frames=1)[0]
        if not doubtful(shown):
            break
    bucket, fps, move = int(rng.integers(0, 256)), int(rng.choice(FPS)), move_for(shown)
    step = PIXELS_A_FRAME * bucket / 255 * 7 / fps * stride
    return Clip(film(world, first, move=move, step=step, num_frames=num_frames), fps / stride, bucket, move)


def picture(seed: int) -> Frames:
    """One view of world `seed`, uint8 (72, 128, 3). Training has worlds from 0 up, evaluation above 10**6."""
    world = world_of(seed)
    (view,) = film(world, look(np.random.default_rng([seed, 1]), world), move=0, step=0.0, num_frames=1)
    return np.asarray(view)


_WORLDS: dict[int, Frames] = {}


def world_of(seed: int) -> Frames:
    """World number `seed`, painted at its first use."""
    if seed not in _WORLDS:
        _WORLDS[seed] = paint_world(np.random.default_rng([seed, 0]), height=HEIGHT * 4, width=WIDTH * 4)
    return _WORLDS[seed]
