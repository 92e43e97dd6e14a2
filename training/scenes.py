"""Procedural worlds and the camera that films them: the only data the micro model ever sees.

A world is a painted plane (1/f noise, gradients, dead leaves, stripes) twice as fine as the frames. A clip is that
plane seen through a moving camera (a pan or a zoom), with up to two objects that move on their own.
How far things move is what the model is told: `motion_bucket_id` and `fps` fix the mean displacement a frame.

References: dead leaves, Lee, Mumford & Huang (2001), "Occlusion models for natural images"; 1/f spectra, Field (1987).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
OVERSAMPLE = 2  # worlds are painted at twice the frame's resolution, then averaged down: sharp without aliasing
PIXELS_PER_SECOND = 5.0  # mean image speed at motion_bucket_id 255, for a frame 128 pixels wide


@dataclass(frozen=True)
class Clip:
    """One rendered clip and what the model is told about it.

    Attributes:
        frames: uint8, shape (frames, height, width, 3), sRGB.
        fps: frames a second, 3 to 24.
        motion_bucket_id: 0 to 255; the mean displacement is `PIXELS_PER_SECOND * motion_bucket_id / 255 / fps` pixels
            a frame at 128 pixels' width.
    """

    frames: npt.NDArray[np.uint8]
    fps: int
    motion_bucket_id: int


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


@dataclass(frozen=True)
class Move:
    """A camera's whole move: the view at time t (0 to 1) is the first view zoomed about its centre and shifted by t.

    Attributes:
        pan: pixels that the picture moves to the right and down.
        zoom: natural logarithm of the final magnification.
    """

    pan: tuple[float, float]
    zoom: float

    def matrix(self, time: float, *, height: int, width: int) -> npt.NDArray[np.float64]:
        """The 3x3 homography from the first frame's pixels to the pixels at `time`."""
        scale = np.exp(self.zoom * time)
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        shift = middle - scale * middle + np.array(self.pan) * time
        return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])

    def displacement(self, *, height: int, width: int) -> float:
        """Mean distance in pixels that the frame's points travel from time 0 to time 1."""
        grid = np.stack(np.meshgrid(np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 7)), -1).reshape(-1, 1, 2)
        moved = cv2.perspectiveTransform(grid, self.matrix(1.0, height=height, width=width))
        return float(np.linalg.norm(moved - grid, axis=-1).mean())

    def scaled(self, factor: float) -> Move:
        """The same move, `factor` times as far."""
        return Move((self.pan[0] * factor, self.pan[1] * factor), self.zoom * factor)


def draw_move(rng: np.random.Generator, *, distance: float, height: int, width: int) -> Move:
    """Draw a camera move whose mean displacement from first to last frame is `distance` pixels.

    Three in four are a pan: left, right, up or down, give or take a few degrees; the rest zoom in or out.
    """
    angle = rng.integers(4) * np.pi / 2 + rng.normal(0, 0.05)
    if rng.random() < 0.75:
        move = Move(pan=(float(np.cos(angle)), float(np.sin(angle))), zoom=0.0)
    else:
        move = Move(pan=(0.0, 0.0), zoom=float(rng.choice([-1, 1])) / (0.3 * width))
    for _ in range(3):  # displacement is nearly linear in the factor: three fixed-point steps reach under 0.1 %
        move = move.scaled(distance / max(move.displacement(height=height, width=width), 1e-9))
    return move


def render(rng: np.random.Generator, world: npt.NDArray[np.uint8], *, num_frames: int, height: int, width: int) -> Clip:
    """Film `world` for `num_frames` frames with a random camera, fps, amount of motion and objects."""
    fps = int(rng.choice([3, 4, 5, 6, 7, 8, 10, 12, 15, 24], p=[0.2, 0.15, 0.1, 0.1, 0.2, 0.1, 0.05, 0.04, 0.03, 0.03]))
    bucket = int(rng.integers(0, 256))
    speed = PIXELS_PER_SECOND * width / 128 * bucket / 255 / fps
    move = draw_move(rng, distance=speed * (num_frames - 1), height=height, width=width)
    first = _first_view(rng, world, height=height, width=width)
    objects = [_Object.draw(rng, world, speed * (num_frames - 1), height=height, width=width)
               for _ in range(int(rng.choice([0, 1, 2], p=[0.85, 0.12, 0.03])))]  # fmt: skip
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for index in range(num_frames):
        time = index / max(num_frames - 1, 1)
        frames[index] = _film(world, first, move, objects, time, height=height, width=width)
    return Clip(frames, fps, bucket)


def _film(
    world: npt.NDArray[np.uint8], first: npt.NDArray[np.float64], move: Move, objects: list[_Object], time: float,
    *, height: int, width: int,
) -> npt.NDArray[np.uint8]:  # fmt: skip
    fine = np.diag([OVERSAMPLE, OVERSAMPLE, 1.0])
    camera = fine @ move.matrix(time, height=height, width=width) @ np.linalg.inv(fine)
    size = (width * OVERSAMPLE, height * OVERSAMPLE)
    view = cv2.warpPerspective(world, camera @ first, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    for item in objects:
        item.draw_on(view, camera, time)
    return np.asarray(cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA))


def _first_view(
    rng: np.random.Generator, world: npt.NDArray[np.uint8], *, height: int, width: int
) -> npt.NDArray[np.float64]:
    """World to first fine frame: a random place, angle, flip and magnification (0.8 to 1.4)."""
    scale, angle = np.exp(rng.uniform(-0.2, 0.35)), rng.uniform(-0.4, 0.4)
    flip = rng.choice([-1, 1])
    at = [rng.uniform(0.25, 0.75) * world.shape[1], rng.uniform(0.25, 0.75) * world.shape[0]]
    linear = scale * np.array([[np.cos(angle) * flip, -np.sin(angle)], [np.sin(angle) * flip, np.cos(angle)]])
    shift = np.array([width, height]) * OVERSAMPLE / 2 - linear @ at
    return np.vstack([np.column_stack([linear, shift]), [0, 0, 1]])


@dataclass(frozen=True)
class _Object:
    """A textured cut-out on its own straight path, in the fine pixels of the first frame."""

    points: npt.NDArray[np.float64]
    texture: npt.NDArray[np.uint8]
    travel: npt.NDArray[np.float64]

    @classmethod
    def draw(
        cls, rng: np.random.Generator, world: npt.NDArray[np.uint8], distance: float, *, height: int, width: int
    ) -> _Object:
        """Draw an object that travels up to 1.5 times as far as the camera moves the scene."""
        fine_height, fine_width = height * OVERSAMPLE, width * OVERSAMPLE
        centre = np.array([rng.uniform(0, fine_width), rng.uniform(0, fine_height)])
        points = outline(rng, size=rng.uniform(0.1, 0.3) * fine_height) + centre
        top, left = (int(rng.integers(0, extent - fine)) for extent, fine in
                     zip(world.shape[:2], (fine_height, fine_width), strict=True))  # fmt: skip
        texture = world[top : top + fine_height, left : left + fine_width][::-1, ::-1]
        tint = rng.uniform(0.4, 1.2, 3) * texture + rng.uniform(-40, 60, 3)
        angle = rng.uniform(0, 2 * np.pi)
        travel = np.array([np.cos(angle), np.sin(angle)]) * distance * OVERSAMPLE * rng.uniform(0.3, 1.5)
        return cls(points, np.clip(tint, 0, 255).astype(np.uint8), travel)

    def draw_on(self, view: npt.NDArray[np.uint8], camera: npt.NDArray[np.float64], time: float) -> None:
        """Draw the object on `view` (in place) as the camera sees it at `time`."""
        height, width = view.shape[:2]
        shift = np.eye(3)
        shift[:2, 2] = self.travel * time
        placed = cv2.perspectiveTransform(self.points[:, None], camera @ shift)[:, 0]
        mask = mask_of(placed, height=height, width=width)
        texture = cv2.warpPerspective(self.texture, camera @ shift, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        view += (mask * (texture.astype(np.float32) - view)).astype(np.int16).astype(np.uint8)


def sample_clip(seed: int, *, num_frames: int, height: int, width: int, world_pool: int = 1000) -> Clip:
    """Render clip number `seed` of the endless training set; the same seed gives the same clip.

    Worlds repeat (clip `seed` uses world `seed % world_pool`), views, cameras and objects do not. Training draws
    seeds from 0 up; evaluation uses worlds above 10**6.
    """
    world = _world(seed % world_pool if seed < 10**6 else seed, height, width)
    return render(np.random.default_rng([seed, 1]), world, num_frames=num_frames, height=height, width=width)


_WORLDS: dict[tuple[int, int, int], npt.NDArray[np.uint8]] = {}


def _world(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    key = (seed, height, width)
    if key not in _WORLDS:
        rng = np.random.default_rng([seed, 0])
        _WORLDS[key] = paint_world(rng, height=height * 4, width=width * 4)
    return _WORLDS[key]
