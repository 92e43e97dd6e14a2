"""From a pipeline and a photo to a clip, in three stages that can be kept and reused.

``loop`` (diffusers' call, taken apart) and ``progress`` (what is shown while it runs) → ``stages`` (encode, denoise,
decode, and what each depends on) → ``run`` (one clip, many clips, with less when memory runs out, a saved clip again).
"""

from __future__ import annotations

from svdkit.generate.progress import Progress
from svdkit.generate.run import generate, generate_batch, replay
from svdkit.generate.stages import decode, denoise, encode

__all__ = ["Progress", "encode", "denoise", "decode", "generate", "generate_batch", "replay"]
