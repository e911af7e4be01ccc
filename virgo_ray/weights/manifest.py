"""What a weights directory holds: the table that says whether it is whole.

`manifest.json` lists every tensor (name, shape, dtype, file) and every file (size, sha256), `DONE`
is written after it. `check_weights` guarantees that a directory that passes has exactly these
tensors and, unless told otherwise, exactly these bytes. It reads safetensors headers only; it does
not know torch, nor whether the numbers are any good (the probe does).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from virgo_ray.errors import DroppedWeightsError, WeightsError
from virgo_ray.model.dropped import is_dropped, say_dropped

MANIFEST_NAME = "manifest.json"
DONE_NAME = "DONE"
INDEX_NAME = "model.safetensors.index.json"  # which tensor is in which file
MAX_HASHERS = 8
TENSORS_END = ".safetensors"


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as its safetensors header describes it; dtype in safetensors' words, e.g. "F32"."""

    shape: tuple[int, ...]
    dtype: str
    file: str


@dataclass(frozen=True)
class FileInfo:
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    version: int
    tensors: dict[str, TensorInfo]
    files: dict[str, FileInfo]

    def save(self, directory: Path) -> None:
        """Write `manifest.json` into `directory`."""
        tensors = {
            name: {"shape": list(t.shape), "dtype": t.dtype, "file": t.file}
            for name, t in self.tensors.items()
        }
        files = {name: {"size": f.size, "sha256": f.sha256} for name, f in self.files.items()}
        table = {"version": self.version, "tensors": tensors, "files": files}
        (directory / MANIFEST_NAME).write_text(json.dumps(table, indent=1))


def build_manifest(
    directory: Path, version: int, known: Mapping[str, str] | None = None
) -> Manifest:
    """Describe everything in `directory`; files are hashed side by side.

    `known` are {name: sha256} of files whose content the writer still had: they are not read again.

    Raises:
        WeightsError: no tensors, a tensor twice, or a damaged safetensors file.
    """
    tensors = tensor_table(directory)
    if not tensors:
        raise WeightsError(
            f"{directory} holds no tensors in *.safetensors; expected the model saved there"
        )
    found = sorted(directory.rglob("*"))
    paths = {
        str(p.relative_to(directory)): p
        for p in found
        if p.is_file() and p.name not in (MANIFEST_NAME, DONE_NAME)
    }
    hashes = dict(known or {})
    unknown = [name for name in paths if name not in hashes]
    with ThreadPoolExecutor(num_hashers()) as threads:  # deadline: of whoever reads these files
        hashes.update(zip(unknown, threads.map(lambda n: _sha256(paths[n]), unknown), strict=True))
    files = {name: FileInfo(p.stat().st_size, hashes[name]) for name, p in paths.items()}
    return Manifest(version, tensors, files)


def num_hashers() -> int:
    """Threads that hash side by side."""
    return min(MAX_HASHERS, os.cpu_count() or 1)


def tensor_table(directory: Path) -> dict[str, TensorInfo]:
    """Name -> TensorInfo of every `*.safetensors` file directly in `directory`; reads headers only.

    Raises:
        WeightsError: a file is damaged, or two files hold the same name.
    """
    return tensors_of(sorted(directory.glob("*.safetensors")))


def tensors_of(files: Sequence[Path]) -> dict[str, TensorInfo]:
    """The same of these files."""
    table: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in _read_header(file).items():
            if name in table:
                raise WeightsError(
                    f"tensor {name!r} is in {table[name].file} and in {info.file} of "
                    f"{file.parent}; expected it once: remove the file of an earlier save"
                )
            table[name] = info
    return table


def loaded_files(directory: Path) -> list[Path]:
    """The safetensors files that loaders read: `model.safetensors`, else those of the index.

    A model of somebody else may have the same weights beside them in another format.
    """
    index = directory / INDEX_NAME
    if (whole := directory / "model.safetensors").is_file():
        return [whole]
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [directory / name for name in sorted(names)]
    return sorted(directory.glob("*.safetensors"))


def read_manifest(directory: Path, may_be_dropped: bool = False) -> Manifest:
    """Load `manifest.json`.

    Raises:
        DroppedWeightsError: the tensors were dropped by `weights.keep_last`, and may not be.
        WeightsError: the directory, its DONE marker or its manifest is missing or malformed.
    """
    if not may_be_dropped and (said := say_dropped(directory)):
        raise DroppedWeightsError(f"{said}{_beside(directory)}")
    for needed in (directory, directory / DONE_NAME, directory / MANIFEST_NAME):
        if not needed.exists():
            raise WeightsError(
                f"{needed} is missing: {directory} is not a finished weights directory. Nothing "
                f"was changed; {_others(directory)}"
            )
    try:
        table = json.loads((directory / MANIFEST_NAME).read_text())
        tensors = {
            name: TensorInfo(tuple(t["shape"]), t["dtype"], t["file"])
            for name, t in table["tensors"].items()
        }
        files = {name: FileInfo(f["size"], f["sha256"]) for name, f in table["files"].items()}
        return Manifest(int(table["version"]), tensors, files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{directory / MANIFEST_NAME} is malformed ({error!r}). Nothing was changed; the "
            f"tensor files beside it may be whole. {_others(directory)}"
        ) from error


def _others(directory: Path) -> str:
    """What the user can do: copies, and the finished versions beside a damaged one."""
    return (
        "restore it from a copy, or, if its round is not in the ledger yet, move it aside and run "
        f"the same command again{_beside(directory)}"
    )


def _beside(directory: Path) -> str:
    others = [p.parent for p in directory.parent.glob(f"v*/{DONE_NAME}") if p.parent != directory]
    done = sorted(other.name for other in others if not is_dropped(other))
    return f"; finished versions beside it: {', '.join(done)}" if done else ""


def check_weights(path: str | Path, checksums: bool = True) -> Manifest:
    """Return the manifest of a published directory after comparing it with what lies there.

    `checksums=False` leaves out the bytes of tensors, which costs milliseconds at any model size:
    whoever loads them hashes them.

    Raises:
        WeightsError: something is missing, differs, or was added as a tensor.
    """
    directory = Path(path)
    manifest = read_manifest(directory)
    for name, info in manifest.files.items():
        _check_file(directory / name, info, checksums or not name.endswith(TENSORS_END))
    found = tensor_table(directory)
    wrong = [n for n in manifest.tensors.keys() | found if manifest.tensors.get(n) != found.get(n)]
    if wrong:
        name = sorted(wrong)[0]
        raise WeightsError(
            f"{directory}: {len(wrong)} tensors differ from the manifest, the first is {name!r}: "
            f"found {found.get(name)}, expected {manifest.tensors.get(name)}"
        )
    return manifest


def _check_file(file: Path, info: FileInfo, checksums: bool) -> None:
    size = file.stat().st_size if file.is_file() else None
    if size != info.size:
        found = "is missing" if size is None else f"has {size} bytes"
        raise WeightsError(f"{file} {found}, expected {info.size} bytes; it was damaged after DONE")
    if checksums and (digest := _sha256(file)) != info.sha256:
        raise WeightsError(
            f"{file} has sha256 {digest[:12]}, expected {info.sha256[:12]}; "
            "it was changed after DONE"
        )


def _read_header(file: Path) -> dict[str, TensorInfo]:
    try:
        with safe_open(file, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {
                name: TensorInfo(tuple(s.get_shape()), s.get_dtype(), file.name)
                for name, s in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is not a readable safetensors file: {error}") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
