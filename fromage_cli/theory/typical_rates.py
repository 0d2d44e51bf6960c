"""Learning rates that train most small networks, where one is known for the optimizer or follows from another's.

Source: docs/learning-rate-study.md; for Lion, Chen et al., NeurIPS 2023, section 5, who take 3 to 10 times less than
for AdamW; for Muon, torch's `match_rms_adamw`, made so that AdamW's rate can be kept.
"""

from fromage_cli.theory.conversions import stationary_gain
from fromage_cli.theory.rate_calibration import ADAMW, FROMAGE, calibration

ROOT_MEAN_SQUARE = 0.2
"""Of an entry of AdamW's update while training. Source: Liu et al., *Muon is scalable*, 2025, section 2.2."""


def typical_rate(
    name: str | None, *, momentum: float = 0.0, trust_coefficient: float = 1.0, adjust_lr_fn: str | None = None
) -> tuple[float | None, str]:
    """The rate, or None, and where it comes from, or why there is none."""
    found = calibration(name, momentum)
    if found is not None:
        return found.typical, "small networks; geometric mean of their best rates"
    if name == "lamb":
        return FROMAGE.typical, "as Fromage's; the same relative step"
    if name == "lars":
        rate = FROMAGE.typical / (trust_coefficient * stationary_gain(momentum))
        return rate, "as Fromage's; the same relative step"
    if name == "lion":
        return ROOT_MEAN_SQUARE * ADAMW.typical, "as AdamW's; the same size of step"
    if name == "muon" and adjust_lr_fn == "match_rms_adamw":
        return ADAMW.typical, "as AdamW's; whose size of step it matches"
    unknown = "none known; for Muon's original scaling" if name == "muon" else "the optimizer is not known"
    return None, unknown
