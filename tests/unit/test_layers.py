"""Imports go downwards, and the heavy packages stay where design says they live."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "virgo_ray"

LAYERS = {
    "records": 0, "ports": 0, "config": 0, "errors": 0, "metrics": 0,
    "command": 0, "durable": 0,
    "data": 1, "verify": 1, "selection": 1, "pack": 1, "tally": 1, "tiny": 1,
    "gates": 1, "diversity": 1, "likeness": 1,
    "chat_endpoint": 1, "teacher": 1,
    "rollout": 2, "train": 2, "weights": 2, "buffer": 2, "ledger": 2,
    "store": 2, "ledger_file": 2,
    "actors": 3,
    "loop": 4, "evaluate": 4, "gatekeeper": 4, "report": 4, "watch": 4, "console": 4,
    "traces": 4,
    "run": 5,
}  # fmt: skip

HEAVY = {
    "vllm": ("rollout/",),
    "deepspeed": ("train/",),
    "torch": ("train/", "rollout/", "weights/"),
    "peft": ("train/",),
    "ray": ("actors/", "run.py"),
    "lance": ("buffer.py", "store/"),
    "wandb": ("report/", "run.py"),
}

FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path, top_level_only=False):
    """Dotted names imported by a file; optionally only those executed when it is imported."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def layer_of(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return LAYERS.get(part)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    own = layer_of(path)
    if path.name == "__init__.py" and path.parent == PACKAGE:
        return
    assert own is not None, f"{path} has no layer: add it to LAYERS"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "virgo_ray" and len(parts) > 1:
            assert LAYERS[parts[1]] <= own, f"{path} (L{own}) imports {name} (L{LAYERS[parts[1]]})"


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
    assert len(branches) <= 3


def test_nothing_evaluates_or_unpickles_what_it_did_not_make():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), f"{path}:{node.lineno}"
        assert "pickle" not in set(imports(path)), f"{path} imports pickle"
