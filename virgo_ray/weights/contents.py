"""What lies in the directory of a version beside its tensors: descriptions, adapters, a record.

Names alone, and what others ask of them: which weights adapters belong on, and which weights a fit
started from. Knows nothing of who writes, publishes or drops any of it.
"""

from __future__ import annotations

import json
from pathlib import Path

# Descriptions: small files that a version takes over from the weights before, and keeps when its
# tensors are dropped.
DESCRIPTION_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".py", ".tiktoken", ".md")
ADAPTERS_NAME = "adapters"  # a directory
ADAPTER_TENSORS_NAME = "adapters.safetensors"  # in it
ABOUT_ADAPTERS_NAME = "about.json"  # in it; fields of `train.adapters.Origin`
OPTIMIZER_ROOT = "optimizer"  # of the run directory, beside the weights: `train/carrying.py`
FIT_NAME = "fit.json"  # how the version was trained (`train/fit_record.py`)


def read_start(directory: Path) -> int | None:
    """The version that the fit of `directory` started from; 0 is the base.

    None where it is not said, as in versions that an earlier version of this program trained.
    """
    try:
        return int(json.loads((directory / FIT_NAME).read_text("utf-8"))["start"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_version_below(directory: Path) -> int | None:
    """The version whose weights the adapters in `directory` belong on; 0 is the base.

    None where there are no adapters, or what they say of themselves cannot be read.
    """
    try:
        about = json.loads((directory / ADAPTERS_NAME / ABOUT_ADAPTERS_NAME).read_text("utf-8"))
        return int(about["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
