"""What a clip's provenance is made of: the pipe's load, the photo, the settings, this machine."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from svdkit.clip import Provenance
from svdkit.environment import summary

if TYPE_CHECKING:
    from svdkit.image import Frame
    from svdkit.settings import ClipSettings

OWN_PIPELINE = "own pipeline"


def describe_model(pipe: Any) -> dict[str, Any]:
    """Name the model of a pipeline.

    Args:
        pipe: A ``StableVideoDiffusionPipeline``.

    Returns:
        ``name``, ``revision`` and ``weights`` ("trained", "random"); all unknown for a pipeline that svdkit did
        not load.

    Example:
        >>> describe_model(svdkit.load("micro"))["name"]  # doctest: +SKIP
        'micro'
    """
    report = getattr(pipe, "svdkit", None)
    if report is None:
        return {"name": OWN_PIPELINE, "revision": None, "weights": "unknown"}
    return {"name": report.model.name, "revision": report.revision, "weights": report.weights}


def origin(
    pipe: Any, frame: Frame, settings: ClipSettings, *, stage_seconds: dict[str, float], notes: tuple[str, ...]
) -> Provenance:
    """Write down everything that made a clip.

    Args:
        pipe: The pipeline as it was when the clip was made.
        frame: The fitted photo.
        settings: Resolved.
        stage_seconds: Seconds of each stage.
        notes: What happened on the way.

    Returns:
        The provenance.

    Example:
        >>> origin(pipe, frame, settings, stage_seconds={}, notes=()).kind  # doctest: +SKIP
        'micro'
    """
    report = getattr(pipe, "svdkit", None)
    model = describe_model(pipe)
    return Provenance(
        kind="micro" if model["name"] == "micro" else "svd",
        settings=settings.to_dict(),
        load={} if report is None else report.settings.to_dict(),
        conditioning=settings.conditioning.to_dict(),
        model=model,
        image=frame.to_dict(),
        stage_seconds=stage_seconds,
        notes=notes,
        environment=machine(),
    )


@lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    """Describe this machine and the versions in use; asked once, since it does not change while Python runs.

    Returns:
        What ``environment.summary`` gives.

    Example:
        >>> "torch" in machine()  # doctest: +SKIP
        True
    """
    return summary()
