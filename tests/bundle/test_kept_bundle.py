"""A bundle that an earlier version wrote is read as it was: it stays in the repository, and is never written anew."""

import json
import shutil
from pathlib import Path

import pytest

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.formats.bundle import read_bundle
from fromage_cli.errors import InputError
from fromage_cli.intake import open_problem
from fromage_cli.terminal.options import BatchOptions, ModelOptions, RunOptions

KEPT = Path(__file__).parent / "kept-version-1"


@pytest.mark.parametrize("mode", ["eval", "auto", "train"])
def test_its_network_gives_the_loss_that_it_was_saved_with(mode: str) -> None:
    intake = open_problem(str(KEPT), ModelOptions(), BatchOptions(mode=mode), RunOptions())  # type: ignore[arg-type]
    saved = json.loads((KEPT / "bundle.json").read_text(encoding="utf-8"))["graph"]["losses"]
    assert intake.problem.value() == pytest.approx(saved[mode], rel=1e-5)
    assert len(intake.problem.base.gradients) == len(intake.problem.trainable)


def test_its_optimizer_is_known() -> None:
    state = open_checkpoint(KEPT).optimizer
    assert state is not None and (state.kind, state.steps) == ("adamw", 2)


def test_a_newer_format_is_refused_with_the_versions_that_wrote_it(tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(KEPT, newer)
    manifest = json.loads((newer / "bundle.json").read_text(encoding="utf-8"))
    (newer / "bundle.json").write_text(json.dumps(manifest | {"version": 2}), encoding="utf-8")
    with pytest.raises(InputError, match=r"format 2, and this program reads up to 1 \(fromage-diag .*torch 2"):
        read_bundle(newer)
