"""The only Ray code besides run.py.

Nobody connects to Ray unasked: a thread that still waits for an actor when the run has left its
cluster would otherwise start another one, which nobody would ever end.
"""

import os

os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # read when ray is imported
