"""What a breakdown is as rows: the headline, and every layer's curve."""

from fromage_cli.diagnostics.breakdown.result import BreakdownResult
from fromage_cli.optimizers.rule import FROMAGE
from fromage_cli.terminal.answer import Table, summary
from fromage_cli.theory.relative_trust import lemma2_rate


def headline(result: BreakdownResult) -> Table:
    """The numbers that the page begins with."""
    step = "of the way" if result.direction.startswith("to:") else "relative step"
    return summary(
        [
            ("sure_in_every_layer", result.trust_eta, step),
            ("sure_as_a_whole", result.aggregate_trust_eta, step),
            ("loss_rises", result.first_increase_eta, step),
            ("least_loss", result.argmin_loss_eta, step),
            ("lemma2", theory_step(result), step),
            ("fails_first", result.limiting_layer, "layer"),
            ("loss", result.loss, "loss"),
        ]
    )


def curve(result: BreakdownResult) -> Table:
    """One row per layer and eta, for plotting elsewhere."""
    rows = [
        (layer.name, eta, layer.breakdown[index], layer.path_breakdown[index], result.predicted[index])
        for layer in result.layers
        for index, eta in enumerate(result.etas)
    ]
    return Table(("layer", "eta", "breakdown", "path_breakdown", "predicted"), tuple(rows))


def theory_step(result: BreakdownResult) -> float | None:
    """Lemma 2's relative step, where every layer moves by one along its gradient."""
    sized = any(layer.name not in result.without_size for layer in result.layers)
    if result.direction != FROMAGE.name or result.depth.count < 1 or not sized:
        return None
    return lemma2_rate(1.0, result.depth.count)
