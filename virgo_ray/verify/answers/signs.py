# ruff: noqa: RUF001, RUF002 (signs that look like letters are what this file is about)
"""Mathematical signs of Unicode as LaTeX, so that `α+β` is `\\alpha+\\beta`.

Left out on purpose: letters and digits of other scripts that only look like Latin ones.
"""

from __future__ import annotations

import re

_GREEK = (
    "α alpha β beta γ gamma δ delta ε epsilon ϵ epsilon ζ zeta η eta ϑ theta ι iota κ kappa "
    "λ lambda μ mu µ mu ν nu ξ xi ρ rho ϱ rho "
    "σ sigma ς sigma τ tau υ upsilon φ phi ϕ phi χ chi ψ psi "
    "ω omega Γ Gamma Δ Delta ∆ Delta Θ Theta Λ Lambda "
    "Ξ Xi Π Pi Σ Sigma Υ Upsilon Φ Phi Ψ Psi Ω Omega "
    "Ω Omega"
)
_COMMANDS = (
    "∠ angle ∡ angle ∥ parallel ∦ nparallel ⊥ perp △ triangle ▵ triangle ≅ cong ≡ equiv ∼ sim "
    "∽ sim ∝ propto ∉ notin ⊂ subset ⊆ subseteq "
    "∩ cap ∅ emptyset ⌀ emptyset ∖ setminus ∨ lor ∧ land "
    "∑ sum ∏ prod ∫ int ∂ partial ∇ nabla → to ⟶ to ∘ circ ⊙ odot ∓ mp ⌊ lfloor ⌋ rfloor ⌈ lceil "
    "⌉ rceil ⟨ langle ⟩ rangle 〈 langle 〉 rangle ∣ mid … ldots ⋯ cdots ℓ ell"
)
_OTHERS = {
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "∗": "*", "∙": r" \cdot ", "•": r" \cdot ", "″": "''", "ⅈ": "i", "ⅇ": "e",
    "＝": "=", "＋": "+", "＜": "<", "＞": ">", "［": "[", "］": "]", "｛": r"\{", "｝": r"\}",
    "；": ";", "⁄": "/",
}  # fmt: skip
_FRACTIONS = {
    "½": (1, 2), "¼": (1, 4), "¾": (3, 4), "⅓": (1, 3), "⅔": (2, 3),
    "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5), "⅘": (4, 5), "⅙": (1, 6),
    "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8), "⅑": (1, 9),
    "⅒": (1, 10),
}  # fmt: skip


def _pairs(text: str) -> dict[str, str]:
    signs = text.split()
    return {sign: f"\\{name} " for sign, name in zip(signs[::2], signs[1::2], strict=True)}


MATHEMATICAL = (
    _pairs(_GREEK)
    | _pairs(_COMMANDS)
    | _OTHERS
    | {sign: rf"\frac{{{n}}}{{{d}}}" for sign, (n, d) in _FRACTIONS.items()}
)

_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₐₑₓᵢⱼₙₘₖ", "0123456789+-aexijnmk", strict=True))
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_LOWERED_RUN = re.compile(f"[{''.join(_LOWERED)}]+")


def with_scripts(text: str) -> str:
    """Raised and lowered signs as `^` and `_`.

    >>> with_scripts("10⁻³ x² a₁₂")
    '10^{-3} x^2 a_{12}'
    """
    if text.isascii():
        return text
    text = _RAISED_RUN.sub(lambda m: _script("^", m.group(), _RAISED), text)
    return _LOWERED_RUN.sub(lambda m: _script("_", m.group(), _LOWERED), text)


def _script(mark: str, run: str, table: dict[str, str]) -> str:
    inner = "".join(table[sign] for sign in run)
    return mark + (inner if len(inner) == 1 else f"{{{inner}}}")
