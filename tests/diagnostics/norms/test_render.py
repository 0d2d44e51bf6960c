import io
import os
from pathlib import Path

from rich.console import Console

from fromage_cli.diagnostics.norms.render import curve, render, summary
from fromage_cli.terminal.answer import PageStyle

GOLDEN = Path(__file__).parent / "golden"


def page(result, width=80, show_all=False, ascii_only=False):
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(render(result, PageStyle(show_all, ascii_only, width)))
    return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())


def test_the_page(make_result):
    """Compare with the page that was looked at and kept; FROMAGE_UPDATE_GOLDEN=1 keeps a new one."""
    text, path = page(make_result(), 100), GOLDEN / "page-100.txt"
    if os.environ.get("FROMAGE_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_the_fastest_come_first_and_hidden_rows_are_counted(make_result, make_layer):
    layers = tuple(make_layer(f"w{index}", growth_per_step=index * 1e-4) for index in range(20))
    text = page(make_result(layers=layers))
    assert text.index("w19") < text.index("w18") and "8 of 20 rows hidden" in text
    assert "w0" in page(make_result(layers=layers), show_all=True)


def test_one_checkpoint(make_result, make_layer):
    alone = make_layer(norms=(2.0,), growth_per_step=None, growth_stderr=None, effective_learning_rate=(None,))
    text = page(make_result(steps=(None,), layers=(alone,)))
    assert "growth needs a second checkpoint" in text and "effective" not in text and "±" not in text


def test_no_growth(make_result, make_layer):
    assert "the norm of no layer grows" in summary(make_result(layers=(make_layer(overflow_step=None),)))


def test_names_cannot_act(make_result, make_layer):
    assert "\x1b" not in page(make_result(layers=(make_layer("a\x1b[31m"),)))


def test_the_curve(make_result):
    table = curve(make_result())
    assert table.columns == ("layer", "step", "norm")
    assert table.rows[3:] == tuple(
        ("convolutions.0.weight", step, norm) for step, norm in ((0, 1.0), (1000, 1.5), (2000, 2.25))
    )
