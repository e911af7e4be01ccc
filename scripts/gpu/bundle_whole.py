"""A bundle of the whole system for a node without network that has torch 2.11 and a Hopper card.

    python scripts/gpu/bundle_whole.py [--out .pieces] [--piece-mib 16]

vLLM's wheel alone has 300 MB, most of it machine code for other cards. What is left here, with Ray
and the store, is 135 MB, in pieces that can be carried one at a time; `check_whole.sh` puts them
together on the node. Only PyPI is asked; nothing of vLLM is changed but what `old_vllm` says.
"""

from __future__ import annotations

import argparse
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).parent
KEPT_CARD = 90  # compute capability 9.0: H100 and H200
LEFT_OUT = (
    "vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so",  # older cards' attention
    "vllm/vllm-rs", "vllm/_rust_tool_parser.abi3.so", "vllm/_qutlass_C.abi3.so",
    "vllm/_flashmla_C.abi3.so", "vllm/_flashmla_extension_C.abi3.so",
    "vllm/third_party/deep_gemm", "vllm/third_party/fmha_sm100", "vllm/third_party/tml_fa4",
    "vllm/benchmarks", "ray/jars", "ray/rllib", "pycountry/locales",
)  # fmt: skip
PRUNED = ("vllm/*.so", "vllm/vllm_flash_attn/*.so")
CONTAINER = 0xBA55ED50  # begins a container of machine code, one entry a card (`fatbinary.h`)
PTX = 1  # kind of an entry: to be compiled for the card that is there


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(".pieces"), help="where the pieces go")
    parser.add_argument("--piece-mib", type=int, default=16, help="most MiB of a piece")
    parser.add_argument("--python", default="3.12", help="the node's version")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as work:
        site = Path(work) / "site"
        unpack(args.python, Path(work) / "wheels", site)
        strip(site)
        old_vllm(site)
        pack(site, args.out, args.piece_mib)
    pieces = sorted(args.out.iterdir())
    total = sum(piece.stat().st_size for piece in pieces) / 2**20
    print(f"{len(pieces)} pieces, {total:.0f} MiB together, in {args.out}")


def unpack(python: str, wheels: Path, site: Path) -> None:
    """The wheels of wheels-whole.txt for x86-64 Linux, side by side as in a site directory."""
    platforms = [f"manylinux_2_{n}_x86_64" for n in (35, 34, 31, 28, 27, 26, 24, 17, 12, 5)]
    platforms += [f"manylinux{old}_x86_64" for old in (2014, 2010, 1)]
    abis = [f"cp{python.replace('.', '')}", "abi3", "none"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
               "--only-binary=:all:", "--implementation", "cp", "--python-version", python,
               "--requirement", str(HERE / "wheels-whole.txt"), "--dest", str(wheels)]  # fmt: skip
    command += [word for p in platforms for word in ("--platform", p)]
    command += [word for abi in abis for word in ("--abi", abi)]
    subprocess.run(command, check=True)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                path = Path(archive.extract(member, site))
                if (member.external_attr >> 16) & 0o111 and path.is_file():
                    path.chmod(0o755)


def strip(site: Path) -> None:
    """Leave out what an engine on this card never loads."""
    for name in LEFT_OUT:
        path = site / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for pattern in PRUNED:
        for library in site.glob(pattern):
            data = bytearray(library.read_bytes())
            for begin, end in machine_code(data):
                blank_others(data, begin, end, KEPT_CARD)
            library.write_bytes(data)


def machine_code(elf: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Where a library holds its cards' code: offsets of the sections."""
    (headers,) = struct.unpack_from("<Q", elf, 0x28)
    size, number, names_at = struct.unpack_from("<HHH", elf, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", elf, headers + i * size) for i in range(number)]
    names = sections[names_at][4]
    for name, _, _, _, offset, length in sections:
        text = elf[names + name : elf.index(0, names + name)]
        if text in (b".nv_fatbin", b"__nv_relfatbin"):
            yield offset, offset + length


def blank_others(data: bytearray, begin: int, end: int, card: int) -> None:
    """Overwrite with zeros the code for other cards: the driver reads an entry's head first."""
    at = begin
    while at + 16 <= end:
        mark, _, head, length = struct.unpack_from("<IHHQ", data, at)
        if mark != CONTAINER:
            at += 8  # containers are padded
            continue
        at, stop = at + head, at + head + length
        while at < stop:
            kind, _, head, length = struct.unpack_from("<HHIQ", data, at)
            (for_card,) = struct.unpack_from("<I", data, at + 28)
            if kind == PTX or for_card != card:
                data[at + head : at + head + length] = bytes(length)
            at += head + length


def old_vllm(site: Path) -> None:
    """Three names that vLLM 0.32 has and 0.26 lacks; the product itself knows 0.32 alone."""
    put(site / "vllm/exceptions.py", "class VLLMNotFoundError",
        "VLLMClientError = VLLMValidationError\n\n\nclass VLLMNotFoundError")  # fmt: skip
    put(site / "vllm/v1/engine/async_llm.py", "    async def get_supported_tasks",
        "    def get_num_unfinished_requests(self) -> int:\n"
        "        return self.output_processor.get_num_unfinished_requests()\n\n"
        "    async def get_supported_tasks")  # fmt: skip
    put(site / "vllm/model_executor/models/qwen2.py",
        "                self.lm_head = self.model.embed_tokens\n",
        "                self.lm_head = ParallelLMHead(\n"
        "                    config.vocab_size, config.hidden_size, quant_config=quant_config,\n"
        '                    prefix=maybe_prefix(prefix, "lm_head"),\n'
        "                ).tie_weights(self.model.embed_tokens)\n")  # fmt: skip


def put(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    if text.count(old) != 1:
        raise SystemExit(f"{path.name} has {text.count(old)} times {old!r}, expected once")
    path.write_text(text.replace(old, new))


def pack(site: Path, out: Path, piece_mib: int) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    parts = [["vllm"], ["ray"], ["lance"]]
    known = {name for part in parts for name in part}
    parts.append(sorted(path.name for path in site.iterdir() if path.name not in known))
    for number, names in enumerate(parts):
        archive = subprocess.Popen(["tar", "c", "-C", str(site), *names], stdout=subprocess.PIPE)
        squeezed = subprocess.Popen(
            ["xz", "-T0", "-6"], stdin=archive.stdout, stdout=subprocess.PIPE
        )
        size = f"{piece_mib}m"
        split = ["split", "-b", size, "-d", "-", str(out / f"part{number}.")]
        subprocess.run(split, stdin=squeezed.stdout, check=True)
        if archive.wait() or squeezed.wait():
            raise SystemExit(f"part {number} could not be packed")


if __name__ == "__main__":
    main(sys.argv[1:])
