"""Torch optimizers that torch has not: Fromage, LARS, LAMB and Lion, written from their formulas."""

from fromage_cli.optim.fromage import Fromage
from fromage_cli.optim.lamb import LAMB
from fromage_cli.optim.lars import LARS
from fromage_cli.optim.lion import Lion

__all__ = ["LAMB", "LARS", "Fromage", "Lion"]
