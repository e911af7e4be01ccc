"""Where files cannot grow any more, a run stops with a clear error and goes on once they can.

The operating system's own limit on file sizes stands for a full disk: every write beyond it fails
in the middle of a file, in Python and in Lance alike.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from flow_fakes import Process, end_state, small_config, stored

HERE = Path(__file__).parent

LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from flow_fakes import Process, small_config
from virgo_ray.errors import VirgoError
cfg = small_config(sys.argv[3], "gates=null")
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    Process(cfg).run()
except VirgoError as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(7)
"""


# Bytes that a file may have: less than the config, an append, the ledger.
@pytest.mark.parametrize(
    ("limit", "what"),
    [(500, "config.yaml"), (5600, "buffer.lance"), (6500, "")],
)
def test_a_run_that_cannot_write_stops_clearly_and_goes_on_later(folder, limit, what):
    command = [sys.executable, "-c", LIMITED, str(HERE), str(limit), str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=HERE.parents[1], timeout=300, check=False
    )
    assert done.returncode == 7, (done.stdout, done.stderr[-3000:])
    assert what in done.stdout and "space" in done.stdout and "Error: " in done.stdout
    cfg = small_config(folder, "gates=null")
    begun = (folder / "run/buffer.lance/_versions").exists()
    before = stored(cfg) if begun else {}  # whole: no key twice, every row readable
    Process(cfg).run()
    assert before.items() <= stored(cfg).items()
    undisturbed = small_config(folder / "undisturbed", "gates=null")
    Process(undisturbed).run()
    assert end_state(cfg) == end_state(undisturbed)
