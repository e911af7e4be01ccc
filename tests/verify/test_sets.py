"""Sets of numbers in every notation, families with an integer, plus-minus."""

from __future__ import annotations

import pytest

from virgo_ray.records import Status
from virgo_ray.verify.item import Item
from virgo_ray.verify.verdict import judge_item

SAME = (
    (r"\left(\frac{1}{2}\right)^{70}", "2^{-70}"),
    (r"1\pm 2i", "1+2i, 1-2i"),
    (r"\{2i,-2i\}", r"\pm 2i"),
    (r"x<-1 \text{ or } x>4", r"(-\infty,-1)\cup(4,\infty)"),
    ("[2,5]", r"2 \le t \le 5"),
    (r"\mathbb{R}", r"\text{all reals}"),
    (r"\mathbb{R}", "\u211d"),
    (r"\mathbb{R}", r"x\in\mathbb{R}"),
    ("all real numbers", r"(-\infty, \infty)"),
    ("no solution", r"\emptyset"),
    ("no solution", r"\text{No solutions}"),
    (r"\varnothing", r"\text{no real solutions}"),
    (r"x = \frac{\pi}{4}+k\pi", r"\frac{\pi}{4}+n\pi"),
    (r"x = \frac{\pi}{4}+k\pi", r"x=\frac{\pi}{4}+n\pi, n\in\mathbb{Z}"),
    (r"x = \frac{\pi}{4}+k\pi, k \in \mathbb{Z}", r"\frac{5\pi}{4}+m\pi"),
    (r"\pm\frac{\pi}{3}+2k\pi", r"\pm\frac{\pi}{3}+2\pi n"),
    (r"\pm 3", "+/-3"),
    (r"\pm 3", "3, -3"),
    (r"\pm 3", r"3 \text{ and } -3"),
    ("3, -3", r"\pm 3"),
    (r"x=\pm 3", r"x=3 \text{ or } x=-3"),
    (r"2\pm\sqrt{3}", r"2+\sqrt3, 2-\sqrt3"),
    ("a>b>c", "c<b<a"),
    (r"a \ge b > c", r"c<b\le a"),
    (r"x \in [1,3]", "x\u2208[1,3]"),
    (r"x\neq 2", "x\u22602"),
    (r"\infty", r"+\infty"),
)
OTHER = (
    (r"\left(\frac{1}{2}\right)^{70}", r"\left(\frac{1}{2}\right)^{71}"),
    (r"\{2^{-60}, 1\}", r"\{2^{-61}, 1\}"),
    ("[2^{-60}, 1]", "[2^{-61}, 1]"),
    (r"x<-1 \text{ or } x>4", r"(-\infty,-1]\cup(4,\infty)"),
    (r"x<-1 \text{ or } x>4", "-1<x<4"),
    (r"\varnothing", "0"),
    (r"\varnothing", r"\{0\}"),
    (r"x = \frac{\pi}{4}+k\pi", r"x=\frac{\pi}{4}+2n\pi"),
    (r"\pm\frac{\pi}{3}+2k\pi", r"\frac{\pi}{3}+2\pi n"),
    (r"\frac{k\pi}{2}", r"k\pi"),
    (r"\pm 3", "3"),
    (r"2\pm\sqrt{3}", r"2+\sqrt3"),
    ("a>b>c", "a>c>b"),
    (r"x \equiv 3 \pmod 5", r"x \equiv 3 \pmod 7"),
    (r"A \cup B", r"A \cap B"),
    (r"\neg p", "p"),
    ("x>2", r"x\ge 2"),
    ("x>2", "x<2"),
    ("x>2", "2"),
    ("x>2", "x=2"),
    (r"x \ne 2", "x=2"),
    (r"x \ne 2", "2"),
    (r"x \le 2", r"\{2\}"),
    ("[1,2]", "(1,2)"),
    ("[1,2]", r"\{1,2\}"),
    (r"\{1,2,3\}", "[1,3]"),
    (r"\mathbb{R}", r"\mathbb{Q}"),
    (r"\mathbb{Z}", r"\mathbb{N}"),
    (r"\mathbb{R}^2", r"\mathbb{R}^3"),
    (r"k\pi", r"\pi"),
    (r"2k\pi", r"k\pi"),
    (r"\frac{\pi}{6}+2k\pi", r"\frac{\pi}{6}"),
    (r"\frac{\pi}{6}+2k\pi", r"-\frac{\pi}{6}+2k\pi"),
    (r"\infty", r"-\infty"),
    (r"\infty", "0"),
)


def status(gold: str, answer: str) -> Status:
    return judge_item(Item(gold, f"\\boxed{{{answer}}}")).status


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_what_means_the_same_is_correct(gold: str, answer: str) -> None:
    assert status(gold, answer) is Status.CORRECT


@pytest.mark.parametrize(("gold", "answer"), OTHER)
def test_what_means_another_is_wrong(gold: str, answer: str) -> None:
    assert status(gold, answer) is Status.WRONG
