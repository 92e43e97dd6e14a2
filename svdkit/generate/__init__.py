"""From a pipeline and a photo to a clip, in three stages that can be kept and reused.

The files import each other in one direction: ``progress`` (what is shown while it runs), ``keys`` (what a stage
depends on) and ``outputs`` (what it hands on) → ``resolve`` (settings without None), ``loop`` (diffusers' call, taken
apart) and ``origin`` (what goes into the provenance) → ``stages`` (encode, denoise, decode) → ``ladder`` (out of
memory) → ``run`` (one clip, many clips) → ``remake`` (a saved clip again).
"""

from __future__ import annotations

from svdkit.generate.keys import StageKey, model_identity, stage_key
from svdkit.generate.ladder import is_out_of_memory
from svdkit.generate.outputs import Denoised, Encoded
from svdkit.generate.progress import Meter, Progress, reporter
from svdkit.generate.remake import replay
from svdkit.generate.run import generate, generate_batch
from svdkit.generate.stages import decode, denoise, encode

__all__ = [
    "Progress",
    "Meter",
    "reporter",
    "StageKey",
    "stage_key",
    "model_identity",
    "Encoded",
    "Denoised",
    "encode",
    "denoise",
    "decode",
    "is_out_of_memory",
    "generate",
    "generate_batch",
    "replay",
]
