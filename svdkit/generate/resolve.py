"""Settings without None: filled from the photo, the model and chance, or from the stage before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svdkit.errors import SettingsError
from svdkit.generate.keys import model_identity, stage_key

if TYPE_CHECKING:
    from svdkit.generate.outputs import Denoised, Encoded, Resolved
    from svdkit.image import Frame
    from svdkit.settings import ClipSettings

# What LoadReport says when memory does not limit the chunk.
_USUAL_CHUNK = 5


def resolve(pipe: Any, settings: ClipSettings, frame: Frame, *, seed: int | None = None) -> Resolved:
    """Fill what is None in the settings: from the frame, the model, its memory plan, and chance.

    Args:
        pipe: The pipeline, for its own number of frames and the decode chunk that its memory plan counted with.
        settings: Of the clip.
        frame: The fitted photo.
        seed: Used when the settings have none; None draws one.

    Returns:
        Settings without None.

    Raises:
        SettingsError: when the settings ask for another size than the frame has.

    Example:
        >>> resolve(pipe, ClipSettings(), frame).num_frames  # doctest: +SKIP
        14
    """
    size = {"height": frame.height, "width": frame.width}
    limit = getattr(getattr(pipe, "svdkit", None), "decode_chunk_size", _USUAL_CHUNK)
    if settings.decode_chunk_size is None and limit < _USUAL_CHUNK:
        settings = settings.replace(decode_chunk_size=limit)
    settings = settings.resolve(**size, num_frames=pipe.unet.config.num_frames, seed=seed)
    if (settings.height, settings.width) != (frame.height, frame.width):
        message = (
            f"the settings ask for height={settings.height}, width={settings.width}, but the photo was fitted to "
            f"height={frame.height}, width={frame.width}; fit it to that size, or leave height and width out"
        )
        raise SettingsError(message)
    return settings


def resolve_like(pipe: Any, settings: ClipSettings | None, earlier: Encoded | Denoised) -> Resolved:
    """Fill what is None from the stage before, and refuse settings that stage was not made for.

    Args:
        pipe: The pipeline.
        settings: Of the clip; None for those of the stage before.
        earlier: What the stage before gave.

    Returns:
        Settings without None.

    Raises:
        SettingsError: when the stage before depends on something that is different now; it names the difference.

    Example:
        >>> resolve_like(pipe, ClipSettings(fps=9), encoded).seed == encoded.settings.seed  # doctest: +SKIP
        True
    """
    given = earlier.settings
    settings = settings or given
    if settings.num_frames is None:
        settings = settings.replace(num_frames=given.num_frames)
    settings = resolve(pipe, settings, earlier.frame, seed=given.seed)
    stage = earlier.key.stage
    wanted = stage_key(stage, settings, image_sha256=earlier.frame.sha256, model=model_identity(pipe))
    if differences := earlier.key.differences(wanted):
        message = (
            f"this {type(earlier).__name__} was made for other settings ({'; '.join(differences)} now); "
            f"call {stage} again with the settings of now, or go on with those it was made for"
        )
        raise SettingsError(message)
    return settings
