"""What other tools really send when their users leave everything alone.

The same words mean different things in different tools: the fps shown to the user reaches the UNet as it is, less
one, or not at all. A preset gives the settings with which svdkit sends the same numbers.
"""

from __future__ import annotations

from typing import Any

from svdkit.errors import SettingsError
from svdkit.settings.check import nearest, shown
from svdkit.settings.clip import ClipSettings

# Name -> (one line, what differs from diffusers' defaults). Sources:
# diffusers: defaults of StableVideoDiffusionPipeline.__call__.
# comfyui: the image_to_video example workflow; SVD_img2vid_Conditioning sends fps − 1, as diffusers does.
# generative-models: scripts/sampling/simple_video_sample.py sends fps_id=6 itself and lets imageio play at 10;
#   guidance from configs/svd.yaml and svd_xt.yaml (LinearPredictionGuider).
# hf-space: its slider changes only the file; the pipeline is called without fps, so the UNet always gets 6.
_PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "diffusers": ("diffusers' defaults: 25 steps, guidance 1 to 3, the UNet gets fps 6", {}),
    "comfyui": (
        "ComfyUI's example workflow: 20 steps, guidance 1 to 2.5, no noise on the photo, the UNet gets fps 5",
        {"num_inference_steps": 20, "max_guidance_scale": 2.5, "fps": 6, "noise_aug_strength": 0.0},
    ),
    "generative-models": (
        "Stability's script with svd-xt: 30 steps, guidance 1.5 to 3, the UNet gets fps 6, plays at 10",
        {"num_inference_steps": 30, "min_guidance_scale": 1.5, "playback_fps": 10.0},
    ),
    "generative-models-svd": (
        "Stability's script with svd (14 frames): 25 steps, guidance 1 to 2.5, the UNet gets fps 6, plays at 10",
        {"max_guidance_scale": 2.5, "playback_fps": 10.0},
    ),
    "hf-space": (
        "the Hugging Face Space and its copies: 25 steps, guidance 1 to 3, noise 0.1, the UNet gets fps 6, plays at 6",
        {"noise_aug_strength": 0.1, "playback_fps": 6.0},
    ),
}


def presets() -> dict[str, str]:
    """List the presets.

    Returns:
        Name to one line of what it sends.

    Example:
        >>> list(presets())
        ['diffusers', 'comfyui', 'generative-models', 'generative-models-svd', 'hf-space']
    """
    return {name: line for name, (line, _) in _PRESETS.items()}


def clip_preset(name: str) -> ClipSettings:
    """Give the settings that make svdkit send what another tool sends.

    Size, frames, seed and decode chunk stay open: the model and svdkit choose them.

    Args:
        name: One of :func:`presets`.

    Returns:
        The settings; change some with ``.replace``.

    Raises:
        SettingsError: There is no such preset.

    Example:
        >>> clip_preset("comfyui").conditioning
        Conditioning(fps=5, motion_bucket_id=127, noise_aug_strength=0.0)
    """
    try:
        _, values = _PRESETS[name]
    except (KeyError, TypeError):
        guess = nearest(name, _PRESETS, also={})
        hint = f"did you mean {guess!r}?" if guess else f"choose one of {', '.join(_PRESETS)}"
        raise SettingsError(f"there is no preset {shown(name)}; {hint}") from None
    return ClipSettings(**values)
