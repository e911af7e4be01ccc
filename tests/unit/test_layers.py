"""Imports go downwards, rooms have no circles, and the heavy packages stay where they live."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "virgo_ray"

LAYERS = {
    "records": 0, "ports": 0, "config": 0, "errors": 0, "files": 0, "command": 0, "interrupts": 0,
    "closing": 0,
    "endpoint": 1, "model": 1, "data": 1, "verify": 1, "selection": 1, "stats": 1, "tiny": 1,
    "hub": 1, "node": 1,
    "rollout": 2, "train": 2, "weights": 2, "store": 2, "ledger": 2, "teacher": 2,
    "actors": 3,
    "loop": 4, "evaluate": 4, "monitor": 4, "traces": 4, "publish": 4,
    "doctor": 4, "plan": 4, "report": 4,
    "run": 5, "cli": 5, "api": 5,
}  # fmt: skip

# Imports between rooms of one layer that are meant, from layer 2 on; all others go downwards.
SIDEWAYS = {
    ("train", "weights"),  # publishes what it trained, with its probe
    ("rollout", "weights"),  # checks what it loads against its manifest and probe
    ("ledger", "weights"),  # says which published weights are whole
    ("doctor", "plan"),  # asks for the room that a round is planned to take
    ("doctor", "monitor"),  # asks as it does whether W&B has a key
    ("evaluate", "monitor"),  # shows its progress on the same console
    ("report", "traces"),  # finds a run by its name as they do
    ("monitor", "traces"),  # prints names as they print texts
    ("cli", "run"),  # one of its commands
    ("cli", "api"),  # `virgo-ray init`
    ("api", "run"),  # what it iterates
}

HEAVY = {
    "vllm": ("rollout/",),
    "deepspeed": ("train/",),
    # The hook runs where torchvision is imported, and is no part of what we import.
    "torch": ("train/", "rollout/", "weights/", "node/_torchvision_cpu_ops.py"),
    "peft": ("train/",),
    "ray": ("actors/", "run.py"),
    "lance": ("store/",),
    "wandb": ("monitor/", "run.py"),
    "openai": ("endpoint/",),
    "httpx2": ("endpoint/",),
}

MAX_FILES_AT_ROOT = 10

FILES = sorted(PACKAGE.rglob("*.py"))


@cache
def imports(path):
    """Dotted names imported by a file, wherever they stand: in functions, under TYPE_CHECKING."""
    return tuple(_imports(path))


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path):
    """The first part below the package; the package's own `__init__` has none."""
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return None if part == "__init__" else part


def rooms_of(path):
    """The other rooms that a file imports from."""
    found = {n.split(".")[1] for n in imports(path) if n.startswith("virgo_ray.")}
    return found - {room_of(path)}


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circle_in(arrows):
    """Some circle of a graph {node: its successors}, as a list of nodes; empty if there is none."""
    done, path = set(), []

    def visit(node):
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        path.append(node)
        for successor in sorted(arrows.get(node, ())):
            if found := visit(successor):
                return found
        done.add(path.pop())
        return []

    return next((found for node in sorted(arrows) if (found := visit(node))), [])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    room = room_of(path)
    if room is None:
        return
    assert room in LAYERS, f"{path} has no layer: add {room} to LAYERS"
    for other in rooms_of(path):
        own, below = LAYERS[room], LAYERS[other]
        assert below <= own, f"{path} (L{own}) imports {other} (L{below})"
        if own >= 2 and below == own:
            assert (room, other) in SIDEWAYS, f"{path} imports {other}, its neighbour in L{own}"


def test_rooms_have_no_circles():
    arrows = {}
    for path in FILES:
        if (room := room_of(path)) is not None:
            arrows.setdefault(room, set()).update(rooms_of(path))
    assert circle_in(arrows) == []


def test_files_have_no_circles():
    known = {module_of(path) for path in FILES}
    arrows = {
        module_of(path): {n for n in imports(path) if n in known and n != module_of(path)}
        for path in FILES
        if path.name != "__init__.py"  # a package lists what its own files offer
    }
    assert circle_in(arrows) == []


def test_a_circle_is_found():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}}) == []


def test_every_sideways_import_that_is_listed_exists():
    found = {(room_of(path), other) for path in FILES for other in rooms_of(path)}
    assert found >= SIDEWAYS


def test_the_root_is_small():
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_FILES_AT_ROOT


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_stay_in_their_place(path):
    relative = str(path.relative_to(PACKAGE))
    for name in imports(path):
        allowed = HEAVY.get(name.split(".")[0])
        if allowed is not None:
            assert relative.startswith(allowed), f"{relative} imports {name}; only {allowed} may"


def test_the_round_is_one_screen():
    tree = ast.parse((PACKAGE / "loop.py").read_text())
    main = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "run_rounds")
    branches = [n for n in ast.walk(main) if isinstance(n, ast.If | ast.For | ast.While | ast.Try)]
    assert main.end_lineno - main.lineno + 1 <= 40
    assert len(branches) <= 5


def test_nothing_evaluates_or_unpickles_what_it_did_not_make():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), f"{path}:{node.lineno}"
        assert "pickle" not in set(imports(path)), f"{path} imports pickle"


def test_the_loop_loads_nothing_heavy():
    heavy = ("lance", "pandas", "pyarrow", "torch", "ray", "vllm", "deepspeed", "transformers")
    code = f"import sys, virgo_ray.loop; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_loop_writes_no_file():
    names = set(imports(PACKAGE / "loop.py"))
    assert not names & {"pathlib", "os", "virgo_ray.files", "virgo_ray.model.blank", "shutil"}


# -- broad excepts ---------------------------------------------------------------------------------

RAISED = "raised"  # nothing is swallowed: the handler itself raises
# (file, function) of every handler of all exceptions: why it is as broad, and what counts what it
# swallows: a record's key, or the field that holds it.
BROAD = {
    ("actors/head.py", "bare_errors"): ("Ray raises bare Exceptions; named ones pass", RAISED),
    ("actors/placement.py", "make_placement"): ("gives resources back", RAISED),
    ("actors/trainers/group.py", "_with_restarts"): ("ends the ranks", RAISED),
    ("actors/trainers/group.py", "try_settle"): ("ends the ranks", RAISED),
    ("actors/trainers/group.py", "_call"): ("looks at every rank, so that Ray is quiet", RAISED),
    ("actors/verifiers/pool.py", "_pull"): ("a thread's error is the caller's", "_Event(error)"),
    ("doctor/findings.py", "guard"): ("no check may end the others", "to_do"),
    ("endpoint/stream.py", "_serve"): ("a thread's error is the caller's", "_done(error)"),
    ("evaluate/directory.py", "open"): ("gives the lock back", RAISED),
    ("files.py", "_removal_on_error"): ("removes the draft", RAISED),
    ("files.py", "lock_directory"): ("gives the lock back", RAISED),
    ("model/images.py", "_open"): ("each decoder has errors of its own", RAISED),
    ("ledger/ledger.py", "open"): ("gives the lock back", RAISED),
    ("ledger/ledger.py", "reopen"): ("gives the lock back", RAISED),
    ("ledger/lock.py", "take"): ("gives the lock back", RAISED),
    ("weights/meeting.py", "run"): ("a thread's error is the caller's", "set_exception(error)"),
    ("model/template.py", "render"): ("a template is the model's program", RAISED),
    ("model/template.py", "_renders"): ("the same; its caller raises either way", "ConfigError"),
    ("monitor/wandb_sink.py", "_guarded"): ("W&B must not end a run", "num_unsent"),
    ("report/background.py", "_wait"): ("ends the process it waits for", RAISED),
    ("monitor/trackers.py", "_guarded"): ("a tracker must not end a run", "self._tracker = None"),
    ("traces/tables.py", "save_dataset"): ("the library wraps our own error", RAISED),
    ("verify/answers/mathcheck.py", "_parsed"): (
        "the grammar raises bare Exceptions; text that is no LaTeX is the usual case",
        "compared by the next rule, which the verdict names",
    ),
    ("config/importing.py", "blaming"): ("a foreign function raises what it likes", RAISED),
    ("config/importing.py", "_load"): ("so does a foreign module", RAISED),
    ("verify/opinions/consistency.py", "form_local_opinions"): (
        "no check may cost a verdict", "opinion_steps_unknown",
    ),
    ("verify/process/child.py", "judge_safely"): ("a process's boundary", "status_error"),
}  # fmt: skip
EVERYTHING = {"Exception", "BaseException"}


def broad_handlers(tree):
    """Yield (function, node, whether it raises) of all that catches every exception."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in own_nodes(function):
            if isinstance(node, ast.ExceptHandler) and is_broad(node.type):
                last_words = node.body + after(function, node)
                yield function.name, node, any(isinstance(x, ast.Raise) for x in last_words)
            elif is_suppress(node) and any(map(is_broad, node.args)):
                yield function.name, node, False


def is_suppress(node):
    return isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "suppress"


def own_nodes(function):
    """The nodes of a function without those of functions inside it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from own_nodes(child)


def after(function, handler):
    """What follows a handler at the end of its function, where it falls through to a raise."""
    last = function.body[-1]
    is_inside = any(node is handler for node in ast.walk(last))
    return [] if is_inside or isinstance(handler.body[-1], ast.Return) else [last]


def is_broad(kind):
    parts = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(part is None or getattr(part, "id", "") in EVERYTHING for part in parts)


def test_every_broad_except_is_listed_with_its_reason_and_its_counter():
    found = {}
    for path in FILES:
        name = str(path.relative_to(PACKAGE))
        for function, _, raises in broad_handlers(ast.parse(path.read_text())):
            found.setdefault((name, function), []).append(raises)
    unlisted = sorted(found.keys() - BROAD.keys())
    assert not unlisted, f"{unlisted}: name the exceptions, or list it with reason and counter"
    assert not BROAD.keys() - found.keys(), "listed, and not there any more"
    for place, (_, counter) in BROAD.items():
        if counter == RAISED:
            assert any(found[place]), f"{place} swallows what it catches: name what counts it"


@pytest.mark.parametrize(
    ("handler", "is_found", "raises"),
    [
        ("except Exception:\n  pass", True, False),
        ("except:\n  pass", True, False),
        ("except (ValueError, BaseException) as e:\n  raise A from e", True, True),
        ("except ValueError:\n  pass", False, False),
        ("except Exception:\n  said = 1\n raise B", True, True),
        ("except Exception:\n  return 1\n raise B", True, False),
    ],
)
def test_a_broad_except_is_seen(handler, is_found, raises):
    tree = ast.parse(f"def f():\n try:\n  pass\n {handler}")
    assert [r for _, _, r in broad_handlers(tree)] == ([raises] if is_found else [])
    suppressed = ast.parse("def f():\n with contextlib.suppress(Exception):\n  pass")
    assert [name for name, _, _ in broad_handlers(suppressed)] == ["f"]
