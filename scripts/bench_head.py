"""Memory and time of the output head by chunks, against all logits at once: `bench_head.py`.

    python scripts/bench_head.py [--targets 32768] [--few 1024] [--words 151936] [--hidden 64]

A case is one forward and backward pass of the head alone in a process of its own, on a CPU, after a
small one that warms libraries up. Memory is the peak of the process over what it held before, less
the two gradients that any head returns. Prints a table; exits 1 where the chunks need 1 GB.
The head of all logits, the reference of the GPU checks, runs where it fits: at `--few` targets.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent / "gpu"))

from train_checks.head import chunked, whole

Head = Callable[[Tensor, Tensor, Tensor], Tensor]
HEADS: dict[str, Head] = {"all logits": whole, "chunks": chunked}
LIMIT_MB = 1000.0
NUM_WARM_UP = 8  # targets


def main() -> int:
    args = parse_args()
    if args.measure:
        print(json.dumps(measure(args)))
        return 0
    print("| weights | head | targets | peak, MB | seconds | seconds to all logits |")
    print("|---|---|---|---|---|---|")
    largest = 0.0
    for dtype in ("float32", "bfloat16"):
        plain = 0.0
        cases = (("all logits", args.few), ("chunks", args.few), ("chunks", args.targets))
        for head, num in cases:
            peak, seconds = run_case(args, head, dtype, num)
            plain = plain or seconds
            ratio = f"{seconds / plain:.2f}" if num == args.few else "-"
            print(f"| {dtype} | {head} | {num:,} | {peak:,.0f} | {seconds:.1f} | {ratio} |")
            sys.stdout.flush()
            if head == "chunks":
                largest = max(largest, peak)
    return int(largest >= LIMIT_MB)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--targets", type=int, default=32768, help="of the head by chunks")
    parser.add_argument("--few", type=int, default=1024, help="of both heads")
    parser.add_argument("--words", type=int, default=151936, help="of the vocabulary")
    parser.add_argument("--hidden", type=int, default=64, help="width of a hidden state")
    parser.add_argument("--measure", nargs=3, metavar="", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_case(args: argparse.Namespace, head: str, dtype: str, num: int) -> tuple[float, float]:
    """(MB of the peak, seconds) of a case, measured in a new process."""
    sizes = ["--words", str(args.words), "--hidden", str(args.hidden)]
    command = [sys.executable, __file__, *sizes, "--measure", head, dtype, str(num)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    peak, seconds = json.loads(done.stdout.splitlines()[-1])
    return peak, seconds


def measure(args: argparse.Namespace) -> tuple[float, float]:
    name, dtype, num = args.measure
    head, size = HEADS[name], {"dtype": getattr(torch, dtype)}
    torch.manual_seed(0)
    weight = (0.02 * torch.randn(args.words, args.hidden)).to(**size).requires_grad_()
    hidden = torch.randn(int(num), args.hidden).to(**size).requires_grad_()
    targets = torch.randint(args.words, (int(num),))
    run(head, hidden[:NUM_WARM_UP], weight, targets[:NUM_WARM_UP])
    hidden.grad = weight.grad = None
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    began = time.perf_counter()
    run(head, hidden, weight, targets)
    seconds = time.perf_counter() - began
    returned = weight.nbytes + hidden.nbytes
    return (resident("VmHWM") - before - returned) / 1e6, seconds


def run(head: Head, hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    logprobs = head(hidden, weight, targets)
    logprobs.backward(torch.rand(len(targets)) / len(targets))


def resident(field: str) -> int:
    """Bytes of this process, from the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


if __name__ == "__main__":
    sys.exit(main())
