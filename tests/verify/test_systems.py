"""Points, vectors, matrices, systems and functions by cases."""

from __future__ import annotations

import pytest

from virgo_ray.records import Status
from virgo_ray.verify.item import Item
from virgo_ray.verify.verdict import judge_item

SAME = (
    ("P(X=2)=0.25", r"P(X=2)=\frac14"),
    ("P(X=2)=0.25", "0.25"),
    (r"(-\infty,-1)\cup(4,\infty)", r"x<-1 \lor x>4"),
    (r"(-\infty,-1)\cup(4,\infty)", "x<-1, x>4"),
    (r"(-5,0)\cup(0,5)", r"-5<x<5, x\neq 0"),
    (r"(-5,0)\cup(0,5)", r"-5<x<5 \text{ and } x \ne 0"),
    (r"(2,\infty)", r"\{x: x>2\}"),
    (r"(2,\infty)", r"\{x|x>2\}"),
    (r"(2,\infty)", r"]2,\infty["),
    (r"(2,\infty)", "x>2"),
    (r"(2,\infty)", "2<x"),
    (r"(2k+1)\pi", r"(2n-1)\pi"),
    ("(3,1),(1,3)", r"x=3,y=1 \text{ or } x=1,y=3"),
    ("(3,1)", "x=3, y=1"),
    ("(3,1)", "y=1, x=3"),
    ("(3,1)", r"x=3 \text{ and } y=1"),
    ("x=3,y=1", "(3,1)"),
    ("x=3,y=1", "y=1,x=3"),
    (r"\begin{cases}x=3\\y=1\end{cases}", "x=3, y=1"),
    (r"\begin{cases}x=3\\y=1\end{cases}", "(3,1)"),
    (
        r"\begin{cases}x^2 & x<0\\ 2x & x\ge 0\end{cases}",
        r"\begin{cases}2x & x\geq 0\\ x^2 & x<0\end{cases}",
    ),
    (
        r"\begin{cases}x^2 & x<0\\ 2x & x\ge 0\end{cases}",
        r"\begin{cases}x^2, & \text{if } x<0\\ 2x, & \text{if } x\ge 0\end{cases}",
    ),
    (
        r"\begin{cases}x^2 & x<0\\ 2x & x\ge 0\end{cases}",
        r"f(x)=\begin{cases}x^2 & 0>x\\ 2x & x\ge 0\end{cases}",
    ),
    (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}", "[[1,0],[0,1]]"),
    (r"\begin{pmatrix}5\\7\end{pmatrix}", "(5,7)"),
    ("(5,7)", r"\begin{bmatrix}5\\7\end{bmatrix}"),
    ("(5,7)", r"\langle 5,7\rangle"),
    (r"\langle 5,7\rangle", "(5,7)"),
    ("(5,7)", "Q(5,7)"),
    ("Q(5,7)", "(5,7)"),
    ("(5,7)", "Q=(5,7)"),
    ("(x-1)(x+2)", "(x+2)(x-1)"),
)
OTHER = (
    ("(2^{-60}, 1)", "(2^{-61}, 1)"),
    (r"\begin{pmatrix}2^{-60}\\1\end{pmatrix}", r"\begin{pmatrix}2^{-61}\\1\end{pmatrix}"),
    ("P(X=2)=0.25", "P(X=3)=0.25"),
    ("P(A|B)=0.2", "P(B|A)=0.2"),
    (r"P(A \cap B)=0.2", r"P(A\cup B)=0.2"),
    ("(AB)^T", "AB"),
    ("(AB)^T", "B^TA^T"),
    (r"P(X \ge 2)=0.25", r"P(X\le 2)=0.25"),
    (r"(-\infty,-1)\cup(4,\infty)", "x<-1, x<4"),
    (r"(-5,0)\cup(0,5)", "-5<x<5"),
    (r"(2,\infty)", r"\{x \mid x\geq2\}"),
    ("(3,1),(1,3)", "x=3,y=1"),
    ("(3,1)", "x=1, y=3"),
    ("x=3,y=1", "(1,3)"),
    (r"\begin{cases}x=3\\y=1\end{cases}", r"\begin{cases}x=1\\y=3\end{cases}"),
    (
        r"\begin{cases}x^2 & x<0\\ 2x & x\ge 0\end{cases}",
        r"\begin{cases}2x & x<0\\ x^2 & x\ge 0\end{cases}",
    ),
    (r"\begin{pmatrix}1&2\\0&1\end{pmatrix}", "[[1,0],[2,1]]"),
    ("(5,7)", r"\begin{bmatrix}7\\5\end{bmatrix}"),
    ("Q(5,7)", "R(5,7)"),
    ("Q(5,7)", "Q(7,5)"),
    ("(-1)^n", "1"),
    (r"(-\infty,3]", r"(-\infty,3)"),
    (r"(0,\infty)", r"[0,\infty)"),
    ("x=1,y=2", "x=2,y=1"),
    ("(1,2),(3,4)", "(1,3),(2,4)"),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
    (
        r"\begin{cases}1 & x>0\\ 0 & x\le0\end{cases}",
        r"\begin{cases}1 & x\ge0\\ 0 & x<0\end{cases}",
    ),
    (r"\begin{cases}1 & x>0\\ 0 & x\le0\end{cases}", "1"),
    ("(x-1)^2+y^2=4", "(x+1)^2+y^2=4"),
)


def status(gold: str, answer: str) -> Status:
    return judge_item(Item(gold, f"\\boxed{{{answer}}}")).status


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_what_means_the_same_is_correct(gold: str, answer: str) -> None:
    assert status(gold, answer) is Status.CORRECT


@pytest.mark.parametrize(("gold", "answer"), OTHER)
def test_what_means_another_is_wrong(gold: str, answer: str) -> None:
    assert status(gold, answer) is Status.WRONG
