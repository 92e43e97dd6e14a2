"""What a clip shows, in numbers, from its pixels alone: motion, smoothness, likeness.

``measure_quality`` gives all numbers of a clip under names that carry their units, ``QUALITY`` says what they mean;
the functions before it give single ones in pixels and decibels.
"""

from svdkit.bench.quality.estimate import camera, direction, flow, last_frame_psnr, motion, psnr, warp_error
from svdkit.bench.quality.measure import QUALITY, measure_quality

__all__ = ["psnr", "flow", "motion", "direction", "camera", "last_frame_psnr", "warp_error"]
__all__ += ["QUALITY", "measure_quality"]
