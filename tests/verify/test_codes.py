"""Ranges, ratios, clocks, dates, versions: equal as codes, never as arithmetic."""

from __future__ import annotations

import pytest

from virgo_ray.records import Status
from virgo_ray.verify.item import Item
from virgo_ray.verify.verdict import judge_item

SAME = (
    ("30-45", "30 to 45"),
    ("3-1", "3\u20131"),
    ("3-1", "3 - 1"),
    ("1914-1918", "from 1914 to 1918"),
    ("2:1", r"2 \text{ to } 1"),
    ("2:1", "4:2"),
    ("2:1", r"\frac{2}{1}"),
    ("2 : 3", "2:3"),
    ("8:15 am", "8:15 a.m."),
    ("8:15 am", "08:15"),
    ("20:15", "8:15 PM"),
    ("12:30 AM", "0:30"),
    ("12:30 PM", "12:30"),
    ("2:05:00", "2 hours 5 minutes"),
    ("2:05:00", "125 minutes"),
    ("March 15, 2021", "2021-03-15"),
    ("March 15, 2021", "15 March 2021"),
    ("March 15, 2021", "Mar 15, 2021"),
    ("Sept", "September"),
    (r"\frac{3}{4}", "3:4"),
    ("May 5", "5 May"),
    ("May", "may"),
    ("1:5", "2:10"),
)
OTHER = (
    ("30-45", "31-46"),
    ("30-45", "-15"),
    ("3-1", "4-2"),
    ("1914-1918", "1918-1914"),
    ("1914-1918", "1939-1943"),
    ("867-5309", "868-5310"),
    ("2:1", "1:2"),
    ("5:2:1", "5:1:2"),
    ("8:15", "16:30"),
    ("8:15 am", "8:15 pm"),
    ("midnight", "noon"),
    ("2:05:00", "2 hours 6 minutes"),
    ("March 15, 2021", "March 16, 2021"),
    ("March 15, 2021", "May 15, 2021"),
    ("March 15, 2021", "15, 2021"),
    ("Mar", "May"),
    ("2021-03-15", "2021-15-03"),
    ("2021-03-15", "2003"),
    ("1.2.3", "1.2.30"),
    ("10.0.0.1", "10.0.0.2"),
    ("0042", "42"),
    ("5", "10-5"),
    ("12", "12:00"),
    ("7", "7 pm"),
    ("15 m", "15:00"),
    ("5 m", "5 min"),
    (r"\frac{1}{5}", "6:30"),
    ("2020", "2020-01-02"),
    ("-4", "11-15"),
    ("(1,2)", "1-2"),
    ("1.5-2.5", "-1"),
    ("2:3", "2-3"),
    ("March", "3"),
    ("12/25/2020", "25/12/2020"),
    ("1:05", "1:50"),
    ("1:5", "1:50"),
    ("10:1", "1:10"),
    ("1984", "1983-1984"),
)


def status(gold: str, answer: str) -> Status:
    return judge_item(Item(gold, f"\\boxed{{{answer}}}")).status


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_what_means_the_same_is_correct(gold: str, answer: str) -> None:
    assert status(gold, answer) is Status.CORRECT


@pytest.mark.parametrize(("gold", "answer"), OTHER)
def test_what_means_another_is_wrong(gold: str, answer: str) -> None:
    assert status(gold, answer) is Status.WRONG
