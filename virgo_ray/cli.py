"""`virgo-ray COMMAND ...`: one name for every command of the package.

Chooses a command and hands it the rest of the line; knows nothing of its options. A command is
imported only when it is chosen, so that `virgo-ray --help` loads none of the heavy packages. The
exit code is the command's own; an unknown command ends with 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

PROG = "virgo-ray"
Arguments = Sequence[str]


def run(arguments: Arguments) -> int:
    from virgo_ray.run import main

    return main(arguments, f"{PROG} run")


def setup(arguments: Arguments) -> int:
    from virgo_ray.node.setup import main

    return main(arguments, f"{PROG} setup")


def init(arguments: Arguments) -> int:
    from virgo_ray.api.init import main

    return main(arguments, f"{PROG} init")


def inspect(arguments: Arguments) -> int:
    from virgo_ray.data.__main__ import main

    return main(["inspect", *arguments], PROG)


def doctor(arguments: Arguments) -> int:
    from virgo_ray.doctor.__main__ import main

    return main(arguments, f"{PROG} doctor")


def plan(arguments: Arguments) -> int:
    from virgo_ray.plan.__main__ import main

    return main(arguments, f"{PROG} plan")


def verify(arguments: Arguments) -> int:
    from virgo_ray.verify.__main__ import main

    return main(arguments, f"{PROG} verify")


def evaluate(arguments: Arguments) -> int:
    from virgo_ray.evaluate.__main__ import main

    return main(arguments, f"{PROG} evaluate")


def traces(arguments: Arguments) -> int:
    from virgo_ray.traces.__main__ import main

    return main(arguments, f"{PROG} traces")


def runs(arguments: Arguments) -> int:
    from virgo_ray.monitor.runs import main

    return main(arguments, f"{PROG} runs")


def publish(arguments: Arguments) -> int:
    from virgo_ray.publish.__main__ import main

    return main(arguments, f"{PROG} publish")


def report(arguments: Arguments) -> int:
    from virgo_ray.report.__main__ import main

    return main(arguments, f"{PROG} report")


def sync(arguments: Arguments) -> int:
    from virgo_ray.monitor.sync import main

    return main(arguments, f"{PROG} sync")


COMMANDS: dict[str, tuple[Callable[[Arguments], int], str]] = {
    "run": (run, "teach a model as a config says; the same command resumes"),
    "init": (init, "write a commented config of your own, beginning with a shipped one"),
    "setup": (setup, "make the installed packages load together, once after pip install"),
    "inspect": (inspect, "show which data a config would read, and every bad row"),
    "doctor": (doctor, "say what is not fit for a run on this machine, and what to do"),
    "plan": (plan, "say what a run would need in GPUs, memory, disk and hours"),
    "verify": (verify, "judge a file of predictions against gold answers"),
    "evaluate": (evaluate, "measure a model on held-out problems and benchmarks"),
    "sync": (sync, "send to Weights & Biases what a run could not send"),
    "runs": (runs, "list runs, with their results and what their configs differ in"),
    "traces": (traces, "list, show, export or judge again what a run stored"),
    "report": (report, "write the pages that show every rollout of a run"),
    "publish": (publish, "put the weights of a run on the Hugging Face hub"),
}


LOADING = ("run", "inspect", "plan", "evaluate")  # what is loaded there must load together


def main(argv: Arguments | None = None) -> int:
    """Run the command line; returns the exit code of the chosen command."""
    words = sys.argv[1:] if argv is None else list(argv)
    chosen = parse_command(words[:1])
    is_help = not {"-h", "--help"}.isdisjoint(words)
    if chosen in LOADING and not is_help and (code := refuse_unready()):
        return code
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m`: verify.custom=grading:grade is found here
    return COMMANDS[chosen][0](words[1:])


def refuse_unready() -> int:
    """The exit code where the packages would not load, which is said; else 0."""
    from virgo_ray.command import exit_code
    from virgo_ray.node.repair import require_ready

    return exit_code(require_ready)


def parse_command(first_word: Arguments) -> str:
    """The command that the first word names; help and mistakes end here, as argparse does it."""
    meanings = "\n".join(f"  {name:10}{meaning}" for name, (_, meaning) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        PROG,
        usage=f"{PROG} [-h] COMMAND ...",
        description="Teach a vision-language model to think slowly about images, on Ray.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"commands:\n{meanings}\n\n`{PROG} COMMAND --help` shows the options of a command.",
    )
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those below")
    return str(parser.parse_args(first_word).command)


if __name__ == "__main__":
    sys.exit(main())
