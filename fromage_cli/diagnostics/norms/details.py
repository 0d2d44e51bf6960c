"""What the page adds under `-v`: errors of the growth, what theory predicts, and the test of scale invariance."""

import math
from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from fromage_cli.diagnostics.norms.result import LayerNorms, NormsResult
from fromage_cli.missing import known
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.tables import Column, house_table, not_known, prose

GROWTH = (
    "growth: change of ln ‖W‖ per step, ± its standard error. A norm grows steadily where that is more than 2 errors "
    "(with 3, 4, 5 and 6 checkpoints: 6.3, 2.9, 2.4 and 2.1)."
)
PREDICTED = "predicted: the growth of a scale-invariant layer under this optimizer."
RATE = "rate ×: what its norm alone made of the layer's effective learning rate; above 1 it rose."
TESTED = (
    "per channel: each output channel may be scaled on its own. D(2), D(½): how far the outputs move when the layer is "
    "doubled and halved. cos: between weights and gradient."
)
VERDICTS = "nearly: the outputs hardly change. but for ε: only the small number in a normalisation changes them."


def details(result: NormsResult, shown: Sequence[LayerNorms], style: PageStyle) -> list[RenderableType]:
    """Two tables of the layers that the page shows, and what their columns are."""
    series, names = len(result.steps) > 1, [layer.name for layer in result.layers]
    predicted = series and any(known(layer.predicted_growth) is not None for layer in result.layers)
    tested = any(layer.invariance.verdict != "untested" for layer in result.layers)
    # where the norm itself divides the rate, "since step 0" says it already
    scaled = series and any(known(layer.effective_rate_fall) not in (None, layer.first_to_last) for layer in shown)
    columns = [Column("layer", name=True), Column("shape", optional=3), *[Column("first ‖W‖", optional=4)] * series]
    columns += [*[Column("growth"), Column("±", optional=1)] * series, *[Column("predicted")] * predicted]
    columns += [Column("effective rate"), *[Column("rate ×", optional=2)] * scaled]
    rows: list[list[object]] = [
        [
            layer.name,
            "×".join(map(str, layer.shape)),
            *[layer.first_norm] * series,
            *[layer.growth_per_step, layer.growth_stderr] * series,
            *[layer.predicted_growth] * predicted,
            layer.effective_learning_rate[-1],
            *[None if fall is None else 1.0 / fall if fall else math.inf] * scaled,
        ]
        for layer in shown
        for fall in [known(layer.effective_rate_fall)]
    ]
    page: list[RenderableType] = [Text(""), house_table(columns, rows, style, names)]
    if tested:
        columns = [Column("layer", name=True), Column("D(2)"), Column("D(½)"), Column("cos")]
        rows = [
            [layer.name, found.response_double, found.response_half, found.cosine]
            for layer in shown
            for found in [layer.invariance]
        ]
        page += [Text(""), house_table(columns, rows, style, names)]
    legend = [*[GROWTH] * series, *[PREDICTED] * predicted, *[RATE] * scaled, *[TESTED, VERDICTS] * tested]
    page.append(prose(" ".join(legend), style, "dim"))
    asked = series and result.optimizer is not None  # what to do about one that is not known is said at the end
    return [*page, *(not_known(result.layers, {"predicted_growth": "predicted growth"}, style) if asked else [])]
