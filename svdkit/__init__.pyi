# The public names, in the order of the data: image, settings, pipeline, clip, record, sweep.
from .image import (
    sample_photos as sample_photos,
    sample_photo as sample_photo,
    read_image as read_image,
    preview_fit as preview_fit,
    fit as fit,
    restore as restore,
    size_advice as size_advice,
    Frame as Frame,
)
from .settings import (
    LoadSettings as LoadSettings,
    ClipSettings as ClipSettings,
    Conditioning as Conditioning,
    clip_preset as clip_preset,
    presets as presets,
)
from .models import catalogue as catalogue, find_model as find_model, ModelInfo as ModelInfo
from .pipeline import (
    load as load,
    LoadReport as LoadReport,
    apply_technique as apply_technique,
    undo_technique as undo_technique,
)
from .generate import (
    encode as encode,
    denoise as denoise,
    decode as decode,
    generate as generate,
    generate_batch as generate_batch,
    replay as replay,
)
from .clip import Clip as Clip, Provenance as Provenance
from .forecast import forecast as forecast, Forecast as Forecast, calibrate as calibrate
from .bench.measure import measure as measure
from .bench.profile import profile as profile
from .bench.quality import measure_quality as measure_quality
from .bench.record import Record as Record, read_records as read_records, write_record as write_record
from .bench.table import table as table
from .bench.compare import compare as compare
from .sweep import sweep as sweep
from .sweep.report import write_report as write_report
from .sweep.player import sync_player as sync_player
from .ui.panel import panel as panel
from .environment import doctor as doctor
from .errors import SvdkitError as SvdkitError, SvdkitWarning as SvdkitWarning

__version__: str
__all__: list[str]  # noqa: PYI035 - made of the names above
