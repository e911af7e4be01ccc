"""Names for Prometheus, and the dashboard: every query asks for what is exported."""

import importlib.util
import json
import re
from collections import defaultdict
from pathlib import Path

from virgo_ray.monitor.catalog import KINDS, TEXT
from virgo_ray.monitor.prometheus import names, samples, shape_of

ROOT = Path(__file__).parents[2]
FUNCTIONS = {"sum", "max", "by", "rate", "increase", "histogram_quantile", "label_values"}
WORDS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LABELS = re.compile(r"\{[^}]*\}|\bby \([^)]*\)|\[[^]]*\]")


def queries():
    board = json.loads((ROOT / "cluster/grafana.json").read_text())
    shown = [t["expr"] for panel in board["panels"] for t in panel.get("targets", [])]
    return [*shown, *(v["definition"] for v in board["templating"]["list"] if "definition" in v)]


def of_vllm():
    """The names that vLLM's Ray logger gives to its metrics, read in its source without loading
    it; Ray ends counters in `_total`."""
    source = Path(importlib.util.find_spec("vllm").origin).parent / "v1/metrics/loggers.py"
    found = re.findall(r'_(gauge|counter|histogram)_cls\(\s+name="vllm:(\w+)"', source.read_text())
    ending = {"gauge": "", "counter": "_total", "histogram": "_bucket"}
    return {f"ray_vllm_{name}{ending[kind]}" for kind, name in found}


def test_every_query_of_the_dashboard_asks_for_what_is_exported():
    exported = {f"ray_{name}" for name in names()} | of_vllm()
    asked = queries()
    assert len(asked) > 25
    for query in asked:
        words = set(WORDS.findall(LABELS.sub(" ", query))) - FUNCTIONS - {"run"}
        assert words and words <= exported, f"{query}: {words - exported}"


def test_labels_of_a_query_are_labels_of_its_metric():
    shapes = {
        f"ray_{s.name}": s for kind in KINDS for m in kind.metrics for s in [shape_of(kind, m)]
    }
    board = json.loads((ROOT / "cluster/grafana.json").read_text())
    for target in (t for panel in board["panels"] for t in panel.get("targets", [])):
        for name in set(WORDS.findall(target["expr"])) & shapes.keys():
            used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert used <= {"run", *shapes[name].labels}, target


def test_names_follow_the_conventions_and_no_two_metrics_share_one():
    by_name = defaultdict(list)
    for kind in KINDS:
        for metric in kind.metrics:
            if metric.unit != TEXT:
                by_name[shape_of(kind, metric).name].append(f"{kind.name}: {metric.name}")
                shape = shape_of(kind, metric)
                assert re.fullmatch(r"virgo_ray(_[a-z0-9]+)+", shape.name), shape
                assert not re.search(r"_(mib|gb|ms|share|s)(_|$)", shape.name), shape
                assert shape.name.endswith("_total") == bool(metric.counts), shape
                if metric.unit in ("s", "ms", "MiB", "GB", "share"):
                    assert re.search(r"_(seconds|bytes|ratio)(_total)?$", shape.name), shape
    assert [both for both in by_name.values() if len(both) > 1] == []


def test_a_record_becomes_samples_in_base_units_with_labels():
    record = {
        "time": 1.0, "kind": "pools", "round": None, "verifier_ms_p95": 20.0,
        "trainer_restarts": 2, "unknown": 3.0,
    }  # fmt: skip
    found = {s.name: s for s in samples(record)}
    assert found["virgo_ray_round"].value == -1  # the base is not round 0
    judged = found["virgo_ray_pools_verifier_seconds"]
    assert (judged.value, judged.labels) == (0.02, {"quantile": "0.95"})
    assert found["virgo_ray_pools_trainer_restarts_total"].counts == "so far"
    assert len(found) == 3
    (memory,) = samples({"kind": "memory", "rss_trainer_rank_3_mib": 2.0})
    assert (memory.value, memory.labels) == (2 * 2**20, {"rank": "3"})
    status = list(samples({"kind": "sampling", "phase": "sample", "status_no_answer": 7}))
    assert status[0].labels == {"phase": "sample", "status": "no_answer"}
