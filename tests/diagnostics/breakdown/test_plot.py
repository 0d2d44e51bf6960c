"""The picture: what stands in it, that it is the same for the same result, and what is refused before any work."""

import dataclasses
import io
import json
import math
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fromage_cli.diagnostics.breakdown import command, plot
from fromage_cli.diagnostics.breakdown.derived import NO_STEP, NOWHERE
from fromage_cli.diagnostics.breakdown.result import BreakdownResult, DepthResult, LayerBreakdown
from fromage_cli.errors import InputError, UsageError
from fromage_cli.terminal import pictures
from fromage_cli.terminal.answer import Answer, CheckpointRecord, ProblemRecord
from tests.diagnostics.pictures import words

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "sample_checkpoints" / "mlp-2"
Run = Callable[..., tuple[int, str, str]]
Make = Callable[..., BreakdownResult]
HOSTILE = (
    "_$\\alpha$",
    "<b>&amp;</b>",
    "a\x1b[31mred\nnew",
    "]]><script>",
    "right\u202eleft",
    "\u5c64.\u6b0a\u91cd",
    "lone\ud800",
    "x" * 200 + ".weight",
)
SHOWN = (
    "_$\\alpha$",
    "<b>&amp;</b>",
    "a\\x1b[31mred\\nnew",
    "]]><script>",
    "right\\u202eleft",
    "\u5c64.\u6b0a\u91cd",
    "lone\\ud800",
    "\u2026weight",
)


@pytest.fixture
def nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a checkpoint is opened all the same."""

    def refuse(*_: object) -> None:
        raise AssertionError("the checkpoint was opened")

    monkeypatch.setattr(command, "open_problem", refuse)


def test_an_svg_names_the_curves_and_every_mark(make_result: Make) -> None:
    shown = words(plot.draw(make_result(etas=(1e-3, 1e-2, 1e-1, 1.0)), "mlp/step-5.pt, step 5", "svg"))
    for text in (
        "mlp/step-5.pt, step 5",
        "direction fromage; 2 layers; 4 steps tried",
        "relative step η (no unit)",
        "relative change of the gradient (no unit)",
        "loss on the batch",
        "loss at η = 0: 0.5",
        "least loss: η = 0.02",
        "loss rises: η = 0.041",
        "layers.0.weight",
        "layers.1.weight",
        "a layer helps while below 1",
        "Lemma 2 (theory), depth 2: η = 0.414",
        "predicted change",
        "predicted, spectral norm",
        "rounding changes it by 1e-07, below this axis",
    ):
        assert text in shown
    assert any("sure in every layer: η = 0.05" in text for text in shown)
    assert "first layer" not in shown


def test_a_png_is_of_full_size_and_opaque(make_result: Make) -> None:
    from matplotlib.image import imread

    png = plot.draw(make_result(), "mlp", "png")
    pixels = imread(io.BytesIO(png), format="png")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert pixels.shape == (1080, 1500, 4)
    assert pixels[..., 3].min() == 1.0
    assert pixels[0, 0].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert 0.01 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.5


@pytest.mark.parametrize("format", ["svg", "png"])
def test_equal_results_give_equal_bytes(make_result: Make, format: str) -> None:
    drawn = plot.draw(make_result(), "mlp", format)
    assert drawn == plot.draw(make_result(), "mlp", format)
    assert drawn != plot.draw(make_result(loss=0.6), "mlp", format)


def test_no_date_stands_in_a_picture(make_result: Make) -> None:
    svg = plot.draw(make_result(), "mlp", "svg").decode()
    assert "<dc:date>" not in svg
    assert '<path d="M 0 518.4 \nL 720 518.4' in svg, "the ground covers the whole picture"
    assert "fill: #ffffff" in svg


def test_the_users_own_settings_neither_matter_nor_are_lost(make_result: Make) -> None:
    import matplotlib

    before = plot.draw(make_result(), "mlp", "svg")
    theirs = {"lines.linewidth": 9.0, "text.usetex": True, "font.size": 30.0, "savefig.bbox": "tight"}
    with matplotlib.rc_context(theirs):
        assert plot.draw(make_result(), "mlp", "svg") == before
        assert {key: matplotlib.rcParams[key] for key in theirs} == theirs


def test_drawing_starts_no_window_system_and_needs_no_torch() -> None:
    code = """
import sys
sys.modules["torch"] = None
from fromage_cli.diagnostics.breakdown.plot import draw
from fromage_cli.diagnostics.breakdown.result import BreakdownResult, DepthResult
from fromage_cli.missing import LIMIT_REACHED
blank = {name: LIMIT_REACHED for name in BreakdownResult.__dataclass_fields__}
empty = dict.fromkeys(("etas", "losses", "predicted", "predicted_spectral", "layers", "noise"), ())
depth = DepthResult(0, LIMIT_REACHED, LIMIT_REACHED)
result = BreakdownResult(**{**blank, **empty, "direction": "sgd", "loss": 1.0, "depth": depth})
assert draw(result, "nothing", "svg").startswith(b"<?xml")
assert "matplotlib.pyplot" not in sys.modules
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("format", ["svg", "png"])
def test_hostile_names_are_text_and_nothing_else(make_result: Make, make_layer: Any, format: str) -> None:
    layers = tuple(make_layer(name) for name in HOSTILE)
    result = make_result(layers=layers, limiting_layer=HOSTILE[2], direction="to:dir/$a$<b>\x07.pt")
    picture = plot.draw(result, "ru$n$/<ck>\x1b.pt", format)
    if format == "svg":
        shown = words(picture)
        assert set(SHOWN) <= set(shown)
        assert "ru$n$/<ck>\\x1b.pt" in shown
        assert any("to:dir/$a$<b>\\x07.pt" in text for text in shown)
        assert not any(node.tag.endswith("script") for node in ElementTree.fromstring(picture).iter())


def test_many_layers_are_told_apart_by_depth(make_result: Make, make_layer: Any) -> None:
    layers = tuple(make_layer(f"layers.{index}.weight") for index in range(143))
    shown = words(plot.draw(make_result(layers=layers, limiting_layer="layers.7.weight"), "deep", "svg"))
    assert {"first layer", "last layer"} <= set(shown)
    assert "layers.0.weight" not in shown
    assert any("layers.7.weight" in text for text in shown)


def test_curves_are_told_apart_without_colour(make_result: Make, make_layer: Any) -> None:
    few = plot.draw.__wrapped__(make_result(), "mlp").axes[1]  # type: ignore[attr-defined]
    assert [line.get_marker() for line in few.lines[:2]] == ["o", "s"]
    layers = tuple(make_layer(f"layers.{index}.weight") for index in range(143))
    result = make_result(layers=layers, limiting_layer="layers.7.weight")
    many = plot.draw.__wrapped__(result, "deep").axes[1]  # type: ignore[attr-defined]
    widths = [line.get_linewidth() for line in many.lines[:143]]
    assert widths.index(max(widths)) == 7
    assert widths.count(max(widths)) == 1


def test_differing_cosines_are_a_band_and_noise_is_left_out(make_result: Make, make_layer: Any) -> None:
    layers = (make_layer("a", cosine=0.25), make_layer("b", cosine=0.75), make_layer("c", cosine=-0.5, noise_floor=2.0))
    shown = words(plot.draw(make_result(layers=layers, noise=("c",)), "mlp", "svg"))
    assert "a layer helps while below 0.25 to 0.75" in shown
    assert "c, only rounding" in shown
    assert "rounding changes it by 1e-07, below this axis" in shown


def test_a_vector_that_limits_is_named_though_it_has_no_curve(make_result: Make) -> None:
    shown = words(plot.draw(make_result(limiting_layer="head.bias"), "mlp", "svg"))
    assert any("head.bias (not drawn)" in text for text in shown)


@pytest.mark.parametrize(
    ("direction", "axis"),
    [
        ("random", "relative step η (no unit)"),
        ("to:run/b.pt", "fraction η of the way (no unit)"),
        ("adam", "relative step η (no unit); learning rate = 0.002 × η"),
    ],
)
def test_the_axis_says_what_eta_is(make_result: Make, direction: str, axis: str) -> None:
    shown = words(plot.draw(make_result(direction=direction, step_scale=0.002), "mlp", "svg"))
    assert axis in shown
    assert any("a layer helps" in text for text in shown) == (direction != "random")
    assert any("Lemma 2" in text for text in shown) == (direction != "random")


def test_lemma_2_speaks_of_the_largest_relative_step(make_result: Make, make_layer: Any) -> None:
    result = make_result(depth=DepthResult(1, 1, 1.0), layers=(make_layer(relative_step=0.5), make_layer("b")))
    assert plot.lemma2_eta(result) == pytest.approx(1.0)
    slower = dataclasses.replace(result, layers=(make_layer(relative_step=0.5),))
    assert plot.lemma2_eta(slower) == pytest.approx(2.0)
    assert plot.lemma2_eta(dataclasses.replace(result, layers=(make_layer(cosine=-0.1),))) is None
    assert plot.lemma2_eta(dataclasses.replace(result, layers=(make_layer(relative_step=NO_STEP),))) is None


def test_the_loss_panel_keeps_a_dip_visible() -> None:
    low, high = pictures.loss_window(0.1, (0.09, 0.08, 3e9, math.inf))
    assert low < 0.08
    assert 0.1 < high < 0.2
    low, high = pictures.loss_window(-2.0, ())
    assert low < -2.0 < high
    low, high = pictures.loss_window(0.0, (0.0, 0.0))
    assert low < 0.0 < high
    assert pictures.loss_window(0.1, (7.0, 9.0))[1] > 7.0, "the least measured loss is always seen"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-4, "10⁻⁴"),
        (2e-4, "2·10⁻⁴"),
        (1e-3, "0.001"),
        (0.5, "0.5"),
        (1000.0, "1000"),
        (1e12, "10¹²"),
        (math.inf, ""),
        (0.0, ""),
    ],
)
def test_ticks_are_written_out(value: float, text: str) -> None:
    assert pictures.tick(value) == text


@pytest.mark.parametrize("ends", [(0.98, 1.03), (1e-5, 2.5e-5), (0.5, 4.0), (1e-9, 1e3)])
def test_every_logarithmic_axis_has_two_numbers_or_more(ends: tuple[float, float]) -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.set_xscale("log")
    axes.set_xlim(*ends)
    pictures.log_ticks(axes.xaxis, *ends)
    shown = [place for place in axes.get_xticks() if ends[0] <= place <= ends[1]]
    words = [label.get_text() for label in axes.get_xticklabels()]
    assert len(shown) >= 2
    assert len({*words}) == len(words)


def curves(result: BreakdownResult, count: int, value: Any) -> BreakdownResult:
    """The result with every curve replaced: a grid of `count` points and one value throughout."""
    layer: LayerBreakdown = dataclasses.replace(result.layers[0], breakdown=(value,) * count)
    every = dict.fromkeys(
        ("losses", "predicted", "predicted_spectral"), (math.nan if value is None else value,) * count
    )
    etas = tuple(10.0 ** (index - 4) for index in range(count))
    return dataclasses.replace(result, layers=(layer,), etas=etas, **every)


VALUES = [None, math.nan, math.inf, 0.0, 5e-324, 1e-200, 1.0, 1.7e308]


@pytest.mark.parametrize(("count", "value"), [(0, 1.0), *((count, value) for count in (1, 3) for value in VALUES)])
def test_whatever_was_measured_can_be_drawn(make_result: Make, count: int, value: float | None) -> None:
    svg = plot.draw(curves(make_result(), count, value), "mlp", "svg")
    assert words(svg)
    for broken in (b"nan", b" inf", b"-inf"):
        assert broken not in svg.lower()


@pytest.mark.parametrize("etas", [(1e-300, 1e300), (1e299, 1.7e308), (5e-324, 1e-320), (0.3, 0.31)])
def test_any_grid_can_be_drawn(make_result: Make, etas: tuple[float, float]) -> None:
    result = curves(make_result(), 2, 0.5)
    assert words(plot.draw(dataclasses.replace(result, etas=etas), "mlp", "svg"))


def test_what_is_missing_is_left_out(make_result: Make) -> None:
    missing = dict.fromkeys(("trust_eta", "argmin_loss_eta", "first_increase_eta"), NOWHERE["above-grid"])
    shown = words(plot.draw(make_result(layers=(), limiting_layer=None, **missing), "mlp", "svg"))
    for text in ("sure in every layer", "least loss", "loss rises", "Lemma 2", "a layer helps", "rounding changes"):
        assert not any(text in line for line in shown)
    assert "direction fromage; 0 layers; 4 steps tried" in shown


def test_the_title_is_the_checkpoint_or_the_model() -> None:
    answer = Answer({}, lambda style: "")
    record = CheckpointRecord("/home/me/run/model_200.pt", "torch", 200, 10)
    assert pictures.subject_of(dataclasses.replace(answer, checkpoints=(record,))) == "run/model_200.pt, step 200"
    bare = dataclasses.replace(record, path="/w.pt", step=None)
    assert pictures.subject_of(dataclasses.replace(answer, checkpoints=(bare,))) == "w.pt"
    ends = (dataclasses.replace(record, path="/home/me/run/model_100.pt", step=100), record)
    assert pictures.subject_of(dataclasses.replace(answer, checkpoints=ends)) == (
        "run/model_100.pt, step 100 → model_200.pt, step 200"
    )
    assert pictures.subject_of(dataclasses.replace(answer, checkpoints=ends), last=True).startswith("run/model_200.pt,")
    elsewhere = dataclasses.replace(answer, checkpoints=(bare, record))
    assert pictures.subject_of(elsewhere) == "w.pt → run/model_200.pt, step 200"
    problem = ProblemRecord("net.py:build", "mse", 8, "auto", 0, 2)
    assert pictures.subject_of(dataclasses.replace(answer, problem=problem)) == "net.py:build"


@pytest.mark.parametrize("name", ["curves.svg", "curves.PNG"])
def test_the_command_writes_the_picture_and_says_where(run: Run, tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    code, out, err = run(SAMPLE, "--eta", ".001,.01,.1", "--plot", target, "--json")
    assert code == 0
    assert json.loads(out)["settings"]["plot"] == str(target)
    assert f"note: the plot was written to {target}" in err
    assert len(target.read_bytes()) > 10_000
    assert stat.S_ISREG(target.stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if name.endswith("svg"):
        assert {"mlp-2/step-000440.safetensors, step 440", "layers.0.weight"} <= set(words(target.read_bytes()))


@pytest.mark.parametrize("direction", ["random", "sgd", f"to:{SAMPLE / 'step-000022.safetensors'}"])
def test_every_direction_is_drawn(run: Run, tmp_path: Path, direction: str) -> None:
    target = tmp_path / "curves.svg"
    code, _, _ = run(SAMPLE, "--eta", ".01,.1", "--direction", direction, "--plot", target, "-q")
    assert code == 0
    assert words(target.read_bytes())


def test_a_partial_result_is_drawn_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fromage_cli.problem.conditions import budget

    class Clock:
        """A second passes at every look."""

        seconds = 0.0

        def monotonic(self) -> float:
            self.seconds += 1
            return started + self.seconds

    started = time.monotonic()
    monkeypatch.setattr(budget, "time", Clock())
    target = tmp_path / "curves.svg"
    code, out, err = run(SAMPLE, "--time-limit", "10", "--json", "--plot", target)
    points = len(json.loads(out)["result"]["etas"])
    assert code == 7
    assert 0 < points < 17
    assert any(f"{points} step" in text for text in words(target.read_bytes()))
    assert "the plot was written" in err


def test_an_estimate_draws_nothing(run: Run, tmp_path: Path) -> None:
    assert run(SAMPLE, "--estimate", "--plot", tmp_path / "curves.svg", "--json")[0] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("nothing_is_opened")
@pytest.mark.parametrize("name", ["curves.pdf", "curves", "curves.svgz", "curves.json"])
def test_another_extension_is_refused_at_once(run: Run, tmp_path: Path, name: str) -> None:
    code, out, err = run(SAMPLE, "--plot", tmp_path / name)
    assert (code, out) == (2, "")
    assert ".svg .png" in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("nothing_is_opened")
def test_an_existing_file_is_refused_at_once(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "curves.svg"
    target.write_text("mine")
    code, out, err = run(SAMPLE, "--plot", target)
    assert (code, out) == (3, "")
    assert "exists already" in err
    assert "--force" in err
    assert target.read_text() == "mine"


def test_force_replaces_it(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "curves.svg"
    target.write_text("mine")
    assert run(SAMPLE, "--eta", ".01,.1", "--plot", target, "--force", "-q")[0] == 0
    assert words(target.read_bytes())


@pytest.mark.usefixtures("nothing_is_opened")
def test_a_place_that_cannot_be_written_is_refused_at_once(run: Run, tmp_path: Path) -> None:
    code, _, err = run(SAMPLE, "--plot", tmp_path / "none" / "curves.svg")
    assert code == 3
    assert "no directory" in err
    (tmp_path / "folder.svg").mkdir()
    code, _, err = run(SAMPLE, "--plot", tmp_path / "folder.svg", "--force")
    assert code == 3
    assert "not a regular file" in err


@pytest.mark.usefixtures("nothing_is_opened")
def test_a_directory_without_permission_is_refused_at_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    code, _, err = run(SAMPLE, "--plot", tmp_path / "curves.svg")
    assert code == 3
    assert "no permission" in err


@pytest.mark.usefixtures("nothing_is_opened")
@pytest.mark.parametrize("given", ["checkpoint", "batch", "target", "output"])
def test_no_input_and_no_other_output_is_drawn_over(run: Run, tmp_path: Path, given: str) -> None:
    target = tmp_path / "weights.png"
    target.write_bytes(b"mine")
    arguments: dict[str, tuple[str | Path, ...]] = {
        "checkpoint": (target,),
        "batch": (SAMPLE, "--batch", target),
        "target": (SAMPLE, "--direction", f"to:{target}"),
        "output": (SAMPLE, "-o", tmp_path / "new.png", "--json"),
    }
    plotted = tmp_path / "." / "new.png" if given == "output" else target
    code, _, err = run(*arguments[given], "--plot", plotted, "--force")
    assert code == 2
    assert "is an input or the other output of this call" in " ".join(err.split())
    assert target.read_bytes() == b"mine"


@pytest.mark.usefixtures("nothing_is_opened")
def test_without_matplotlib_the_extra_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run(SAMPLE, "--plot", tmp_path / "curves.svg")
    assert (code, out) == (2, "")
    assert "python -m pip install 'fromage-diag[plot]'" in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 6


def test_a_matplotlib_that_does_not_start_is_explained(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "none such"}
    arguments = [sys.executable, "-m", "fromage_cli", "breakdown", str(SAMPLE), "--plot", str(tmp_path / "curves.svg")]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "MPLBACKEND" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_picture_that_cannot_be_written_costs_no_answer(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise InputError("cannot write curves.svg: no space left on device.")

    monkeypatch.setattr(pictures, "write_file", full)
    code, out, err = run(SAMPLE, "--eta", ".01,.1", "--plot", tmp_path / "curves.svg", "--json")
    envelope = json.loads(out)
    assert code == 3
    assert len(envelope["result"]["layers"]) == 2
    assert envelope["error"]["code"] == "input"
    assert "the plot was not written" in err


def test_the_refusals_have_their_classes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="extension"):
        pictures.check_plot(tmp_path / "curves.gif", False)
    with pytest.raises(UsageError, match="input"):
        pictures.check_plot(tmp_path / "curves.svg", True, (None, tmp_path / "x" / ".." / "curves.svg"))
    with pytest.raises(InputError, match="no directory"):
        pictures.check_plot(tmp_path / "none" / "curves.svg", False)


def test_help_lists_it(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "--plot" in out
