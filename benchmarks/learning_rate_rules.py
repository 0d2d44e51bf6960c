"""Which rule tells reliable short runs: several compared, on the calibration half with each network left out once."""

from collections.abc import Sequence

from learning_rate_report import PARTS, Sample, Study, errors, fit, of_part

GAINS = (0.0, 0.15, 0.2, 0.25, 0.3, 0.4)
SPREADS = (9.0, 2.0, 1.6)
"""Octaves; 9 is no limit."""


def chosen(study: Study, least_gain: float, most_spread: float) -> list[Sample]:
    """The short runs from new initialisations that a rule calls reliable."""

    def rule(entry: dict) -> bool:
        gain = entry["gain"]
        return bool(entry["bracketed"]) and gain is not None and gain >= least_gain and entry["spread"] <= most_spread

    return [sample for sample in study.probes(-1, rule) if sample.reliable]


def left_out(samples: Sequence[Sample]) -> list[float]:
    """Errors on each network under constants that were fitted to the others."""
    found = []
    for name in {sample.task.name for sample in samples}:
        fitted = fit([sample for sample in samples if sample.task.name != name])
        found += errors([sample for sample in samples if sample.task.name == name], fitted.octave)
    return found


def compared(study: Study) -> list[tuple[float, float, list[list[float]]]]:
    """Least gain, most spread, and the errors on each part."""
    rows = []
    for spread in SPREADS:
        for gain in GAINS:
            samples = chosen(study, gain, spread)
            known = of_part(samples, PARTS[0])
            fitted = fit(known).octave
            apart = [errors(of_part(samples, part), fitted) for part in PARTS[1:]]
            rows.append((gain, spread, [left_out(known), *apart]))
    return rows
