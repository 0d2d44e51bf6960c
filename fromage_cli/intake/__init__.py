"""From parsed options to what a command starts from: the checkpoint, the problem, and what is said about them."""

from fromage_cli.intake.intake import Intake, checkpoint_record, given_settings
from fromage_cli.intake.opening import declared_by, open_problem, open_run, torch_device

__all__ = ["Intake", "checkpoint_record", "declared_by", "given_settings", "open_problem", "open_run", "torch_device"]
