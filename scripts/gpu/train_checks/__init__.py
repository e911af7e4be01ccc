"""The rows of `check_train.py`: each module measures one thing about the trainer on one device.

virgo_ray need not be installed: the checkout that this file lies in is found.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3]))
