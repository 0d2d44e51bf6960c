"""What the user should know of how the rates were measured."""

from fromage_cli.counting import counted
from fromage_cli.diagnostics.suggest_lr.partial_measurement import RateSearch
from fromage_cli.missing import Missing
from fromage_cli.optimizers.rule import ADAFACTOR, LARS
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.lines.crossing import Crossing
from fromage_cli.probes.lines.direction import Still


def notes_on(
    measuring: RateSearch, optimizer: Optimizer, crossing: Crossing | None, batch_size: int | None
) -> tuple[str, ...]:
    """Sentences on what stands in for what was not told, and on what was left out."""
    notes = [
        *optimizer.notes,
        *optimizer.common_notes,
        measuring.update.step.note if optimizer.name is not None else "",
    ]
    if batch_size is None:
        size = measuring.problem.batch.size
        rows = counted(size, "row")
        notes.append(f"training batch: taken as {rows}, like the batch here; --train-batch-size N gives yours.")
    if measuring.update.sampled:
        size = batch_size or measuring.problem.batch.size
        rows = counted(size, "row")
        notes.append(f"sure: said of the mean step over batches of {rows}; a single one may raise the loss.")
    if measuring.update.filled:
        notes.append(f"{optimizer.name}: momentum is taken as built up; a first step without it is shorter.")
    noise = measuring.update.noise
    if isinstance(noise, Missing):
        notes.append(f"noise: not measured ({noise.words}); cosines are those of this batch.")
    elif noise.count < 8:
        notes.append(f"noise: measured on {noise.count} parts of the rows only, so that cosines are rather too low.")
    if optimizer.rule is LARS:
        notes.append("lars: taken to scale vectors too; some implementations leave them unscaled.")
    if optimizer.rule is ADAFACTOR:
        notes.append("adafactor: a rate above 1/√t after t steps moves no further.")
    if optimizer.trust_clip:
        notes.append(f"{optimizer.name}: clipping of the trust ratio, which shortens some steps, is left out.")
    if crossing is not None and crossing.products is None and crossing.stopped is None:
        notes.append("curvature: the loss has no second derivative, so that the search began without it.")
    still = [skipped for skipped in measuring.update.line.direction.skipped if skipped.reason not in set(Still)]
    if still:
        alone = optimizer.rule is not None and optimizer.rule.matrices_only
        covers = "covers matrices only" if alone else "moves only what its state holds"
        notes.append(f"{optimizer.name}: {covers}; {counted(len(still), 'tensor')} left out here.")
    draws = measuring.draws
    if not isinstance(draws, Missing):
        places = f"from {draws.low:.2g} to {draws.high:.2g}"
        notes.append(f"loss rises: under {draws.count} other random draws {places}.")
    return tuple(note for note in notes if note)
