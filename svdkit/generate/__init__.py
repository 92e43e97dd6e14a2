"""From a pipeline and a photo to a clip, in three stages that can be kept and reused.

``loop`` (diffusers' call, taken apart) and ``progress`` (what is shown while it runs) → ``stages`` (encode, denoise,
decode, and what each depends on) → ``run`` (one clip, many clips, with less when memory runs out) → ``remake`` (a saved
clip again).
"""

from __future__ import annotations

from svdkit.generate.progress import Progress
from svdkit.generate.remake import replay
from svdkit.generate.run import generate, generate_batch
from svdkit.generate.stages import Denoised, Encoded, StageKey, decode, denoise, encode, model_identity, stage_key

__all__ = ["Progress", "StageKey", "stage_key", "model_identity", "Encoded", "Denoised"]
__all__ += ["encode", "denoise", "decode", "generate", "generate_batch", "replay"]
