"""The kit lies in scripts/gpu, which is no package that could be installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "gpu"))
