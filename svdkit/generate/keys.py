"""Stage keys: what the output of a stage depends on, so that it is reused when none of it changed.

::

    encode   model, photo, height, width, noise_aug_strength, seed
    denoise  + num_frames, num_inference_steps, guidance, fps, motion_bucket_id
    decode   + decode_chunk_size

Playback speed is in none of them: it only goes into the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from svdkit.errors import SettingsError

if TYPE_CHECKING:
    from svdkit.settings import ClipSettings

_ADDED_BY_STAGE = {
    "encode": ("height", "width", "noise_aug_strength", "seed"),
    "denoise": (
        "num_frames",
        "num_inference_steps",
        "min_guidance_scale",
        "max_guidance_scale",
        "fps",
        "motion_bucket_id",
    ),
    "decode": ("decode_chunk_size",),
}
STAGES = tuple(_ADDED_BY_STAGE)


@dataclass(frozen=True, kw_only=True)
class StageKey:
    """Everything that the output of one stage depends on: equal keys, equal outputs.

    Attributes:
        stage: ``"encode"``, ``"denoise"`` or ``"decode"``.
        model: Which weights, as ``model_identity`` says it.
        image_sha256: Hash of the fitted photo, hex.
        settings: Names and values of the clip settings that matter up to this stage.

    Example:
        >>> key = stage_key("encode", settings, image_sha256=frame.sha256, model="micro")  # doctest: +SKIP
        >>> {key: "work done once"}  # doctest: +SKIP
    """

    stage: str
    model: str
    image_sha256: str
    settings: tuple[tuple[str, Any], ...]

    def differences(self, other: StageKey) -> list[str]:
        """List how another key of the same stage differs, in words.

        Args:
            other: The key to compare with.

        Returns:
            For example ``["seed: 1 and 2"]``, this key's value first; empty when the keys are equal.
        """
        pairs: dict[str, tuple[Any, Any]] = {
            "model": (self.model, other.model),
            "photo": (self.image_sha256[:12], other.image_sha256[:12]),
        }
        theirs = dict(other.settings)
        pairs |= {name: (value, theirs.get(name)) for name, value in self.settings}
        return [f"{name}: {mine!r} and {their!r}" for name, (mine, their) in pairs.items() if mine != their]


def stage_key(stage: str, settings: ClipSettings, *, image_sha256: str, model: str) -> StageKey:
    """Say what a stage's output depends on; needs neither torch nor a model.

    Args:
        stage: ``"encode"``, ``"denoise"`` or ``"decode"``.
        settings: Resolved settings: nothing that matters up to this stage may be None.
        image_sha256: ``Frame.sha256`` of the fitted photo.
        model: Which weights, as ``model_identity`` says it; any text of your own will do for planning.

    Returns:
        A hashable key; group jobs by it to run each stage once.

    Raises:
        SettingsError: for an unknown stage, or a setting that is still None.

    Example:
        >>> settings = ClipSettings(seed=1).resolve(height=72, width=128, num_frames=14)  # doctest: +SKIP
        >>> stage_key("denoise", settings, image_sha256=frame.sha256, model="micro").stage  # doctest: +SKIP
        'denoise'
    """
    if stage not in STAGES:
        raise SettingsError(f"stage={stage!r} is not known; give one of {', '.join(STAGES)}")
    names = [name for known in STAGES[: STAGES.index(stage) + 1] for name in _ADDED_BY_STAGE[known]]
    values = tuple((name, getattr(settings, name)) for name in names)
    unset = [name for name, value in values if value is None]
    if unset:
        message = f"a {stage} key needs {', '.join(unset)}, still None here; call ClipSettings.resolve() first"
        raise SettingsError(message)
    return StageKey(stage=stage, model=model, image_sha256=image_sha256, settings=values)


def model_identity(pipe: Any) -> str:
    """Name the weights of a pipeline, so that stage outputs of different models are never mixed.

    Args:
        pipe: A ``StableVideoDiffusionPipeline``.

    Returns:
        Model, revision, kind of weights and dtype when ``svdkit.load`` made the pipeline; otherwise a name that
        holds in this process only: pipelines built from the same networks share it.

    Example:
        >>> model_identity(svdkit.load("micro"))  # doctest: +SKIP
        'micro, revision builtin, trained weights, fp32'
    """
    report = getattr(pipe, "svdkit", None)
    if report is None:
        return f"own pipeline {id(pipe.vae):x}"
    weights = f"random weights {report.settings.random_seed}" if report.weights == "random" else "trained weights"
    return f"{report.model.name}, revision {report.revision}, {weights}, {report.settings.dtype}"
