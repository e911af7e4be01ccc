"""Where files cannot grow any more, a run stops with a clear error and goes on once they can.

The operating system's own limit on file sizes stands for a full disk: every write beyond it fails
in the middle of a file, in Python and in Lance alike.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from flow_fakes import Process, end_state, stored

from virgo_ray.config import load_config

HERE = Path(__file__).parent
SMALL = (
    "rounds=2", "explore.num_problems=4", "explore.num_samples=2", "train.batch_size=4",
    "train.num_epochs=1", "evaluate.k=2", "evaluate.blank_image=false", "gates=null",
)  # fmt: skip

LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from flow_fakes import Process
from virgo_ray.config import load_config
from virgo_ray.errors import VirgoError
cfg = load_config("configs/tiny.yaml", sys.argv[3:])
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    Process(cfg).run()
except VirgoError as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(7)
"""


@pytest.fixture
def folder():
    """In memory where that is possible."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


# Bytes that a file may have: less than the config, an append, the ledger.
@pytest.mark.parametrize(
    ("limit", "what"),
    [(500, "config.yaml"), (5600, "buffer.lance"), (6500, "")],
)
def test_a_run_that_cannot_write_stops_clearly_and_goes_on_later(folder, limit, what):
    overrides = [*SMALL, f"run_dir={folder}/run"]
    command = [sys.executable, "-c", LIMITED, str(HERE), str(limit), *overrides]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=HERE.parents[1], timeout=300, check=False
    )
    assert done.returncode == 7, (done.stdout, done.stderr[-3000:])
    assert what in done.stdout and "space" in done.stdout and "Error: " in done.stdout
    cfg = load_config("configs/tiny.yaml", overrides)
    begun = (folder / "run/buffer.lance/_versions").exists()
    before = stored(cfg) if begun else {}  # whole: no key twice, every row readable
    Process(cfg).run()
    assert before.items() <= stored(cfg).items()
    undisturbed = load_config("configs/tiny.yaml", [*SMALL, f"run_dir={folder}/undisturbed"])
    Process(undisturbed).run()
    assert end_state(cfg) == end_state(undisturbed)
