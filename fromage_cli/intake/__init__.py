"""From parsed options to what a command starts from: the checkpoint, the problem, and what is said about them."""

from fromage_cli.intake.intake import Intake, checkpoint_record, given_settings, provenance, short_place
from fromage_cli.intake.opening import (
    BUILD,
    YOUR_FACTORY,
    breakdown_towards,
    declared_by,
    likely_problem,
    names_network,
    open_problem,
    torch_device,
)
from fromage_cli.intake.run_intake import RunSchedule, find_schedule, gather_run, trained_by

__all__ = [
    "BUILD",
    "YOUR_FACTORY",
    "Intake",
    "RunSchedule",
    "breakdown_towards",
    "checkpoint_record",
    "declared_by",
    "find_schedule",
    "gather_run",
    "given_settings",
    "likely_problem",
    "names_network",
    "open_problem",
    "provenance",
    "short_place",
    "torch_device",
    "trained_by",
]
