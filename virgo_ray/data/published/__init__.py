"""Published data sets: a table of small adapters from their layouts to canonical fields.

Fields are `id, question, images, answer, options, answer_type, source, context`; checks come later.
"""

from collections.abc import Callable, Iterator

from virgo_ray.data.published import benchmarks as b
from virgo_ray.data.published import training as t
from virgo_ray.data.published.layout import Fields
from virgo_ray.data.rows import Row

ADAPTERS: dict[str, Callable[[Row], Iterator[Fields]]] = {
    "geometry3k": t.geometry3k, "geoqa": t.geoqa, "unigeo": t.unigeo, "tabmwp": t.tabmwp,
    "chartqa": t.chartqa, "figureqa": t.figureqa, "clevr": t.clevr, "iconqa": t.iconqa,
    "scienceqa": t.scienceqa, "mathvista": b.mathvista, "mathverse": b.mathverse,
    "mathvision": b.mathvision, "olympiadbench": b.olympiadbench, "mmmu": b.mmmu,
}  # fmt: skip
