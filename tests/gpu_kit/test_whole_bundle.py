"""The bundle of the whole system: what is blanked, what is put together again, what is pinned."""

from __future__ import annotations

import re
import struct
import subprocess
import tomllib
from pathlib import Path

import bundle_whole
import pytest

TOP = Path(__file__).parents[2]
CHECK = TOP / "scripts" / "gpu" / "check_whole.sh"
PTX, BINARY = 1, 2


def entry(kind: int, card: int, code: bytes) -> bytes:
    head = struct.pack("<HHIQIIHHI", kind, 0, 64, len(code), 0, 0, 0, 0, card)
    return head.ljust(64, b"h") + code


def container(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", bundle_whole.CONTAINER, 1, 16, len(body)) + body


def library(section: bytes) -> bytearray:
    """An ELF file with that section of machine code, after a section of another name."""
    names = b"\0.text\0.nv_fatbin\0.shstrtab\0"
    parts = [(1, b"text of the program"), (7, section), (18, names)]
    offset, blob, table = 64, b"", bytes(64)
    for name, data in parts:
        table += struct.pack("<IIQQQQ", name, 1, 0, 0, offset + len(blob), len(data)).ljust(
            64, b"\0"
        )
        blob += data
    head = bytearray(64)
    struct.pack_into("<Q", head, 0x28, offset + len(blob))
    struct.pack_into("<HHH", head, 0x3A, 64, len(parts) + 1, len(parts))
    return head + blob + table


def test_code_for_other_cards_is_blanked_and_nothing_else():
    def made(ptx: bytes, old: bytes, new: bytes) -> bytearray:
        first = container(
            entry(PTX, 90, ptx), entry(BINARY, 80, old), entry(BINARY, 90, b"kept!!!!")
        )
        return library(first + bytes(24) + container(entry(BINARY, 120, new)))

    data = made(b"to be compiled  ", b"older card", b"newer card....")
    for begin, end in bundle_whole.machine_code(data):
        bundle_whole.blank_others(data, begin, end, 90)
    assert data == made(bytes(16), bytes(10), bytes(14))


def test_pieces_are_put_together_on_the_node(tmp_path, monkeypatch):
    site = tmp_path / "site"
    for name in ("vllm/a.py", "ray/core/raylet", "lance/lance.so", "pint/b.py", "six.py"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(name.encode() * 1000)
    (site / "ray/core/raylet").chmod(0o755)
    bundle_whole.pack(site, tmp_path / "pieces", piece_mib=1)
    monkeypatch.setenv("WHOLE_WORK", str(tmp_path / "node"))
    subprocess.run([CHECK, "unpack", tmp_path / "pieces"], check=True)
    there = tmp_path / "node" / "site"
    assert {p.relative_to(there) for p in there.rglob("*")} == {
        p.relative_to(site) for p in site.rglob("*")
    }
    assert all((there / n).read_bytes() == (site / n).read_bytes() for n in ("six.py", "vllm/a.py"))
    assert (there / "ray/core/raylet").stat().st_mode & 0o111


def test_a_changed_vllm_is_named(tmp_path):
    file = tmp_path / "exceptions.py"
    file.write_text("nothing that is known\n")
    with pytest.raises(SystemExit, match=r"exceptions\.py has 0 times"):
        bundle_whole.put(file, "class VLLMNotFoundError", "x")


def test_what_pyproject_pins_is_the_same_but_for_vllm():
    pins = dict(
        re.findall(r"^([\w.-]+)==(\S+)$", (CHECK.parent / "wheels-whole.txt").read_text(), re.M)
    )
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["dependencies"]
    asked = dict(
        re.match(r"([\w.-]+)(?:\[\w+\])?==(\S+)", d).groups() for d in project if "==" in d
    )
    shared = {re.sub("_", "-", n): v for n, v in asked.items()}.items() & pins.items()
    assert {name for name, _ in shared} >= {"ray", "pylance", "datasets", "openai", "math-verify"}
    assert not {n for n, v in asked.items() if pins.get(n.replace("_", "-"), v) != v}


@pytest.mark.parametrize("words", [[], ["run", "name"], ["unpack"], ["remove", "all"]])
def test_a_wrong_command_says_the_usage(words):
    said = subprocess.run([CHECK, *words], capture_output=True, text=True)
    assert said.returncode == 2 and "check_whole.sh unpack PIECES" in said.stderr
