"""Pages of the samples as a person sees them: a header, one screen, and what to do at its end."""

import re
from pathlib import Path

import pytest

from fromage_cli import cli

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
LINES = 24
"""Of a terminal: the prompt takes one."""
SCREENS = [
    "inspect mlp-16/step-000440.safetensors",
    "inspect char-gpt",
    "inspect char-gpt --safety",
    "inspect mlp-2/step-000000.safetensors mlp-2/step-000440.safetensors",
    "suggest-lr mlp-16/step-000440.safetensors --probe none",
    "suggest-lr mlp-2/step-000440.safetensors",
    "suggest-lr --model models.py:mlp --batch mlp-2/batch.safetensors --probe none",
    "breakdown mlp-16/step-000440.safetensors",
    "breakdown mlp-2/step-000440.safetensors --direction sgd",
    "breakdown char-gpt/step-000860.pt --model models.py:char_gpt --direction adam",
    "norms convnet-lars --optimizer lars --model models.py:convnet",
    "norms mlp-16",
    "sharpness mlp-2/step-000440.safetensors",
    "sharpness mlp-2/step-000440.safetensors --optimizer sgd --lr 0.1",
    "sharpness mlp-16/step-000440.safetensors --optimizer lion",
    "distance mlp-16/step-000000.safetensors mlp-16/step-000440.safetensors",
    "distance mlp-16/step-000000.safetensors mlp-16/step-000440.safetensors --model auto",
    "intrinsic-lr convnet-sgd --model models.py:convnet",
    "intrinsic-lr convnet-sgd",
    "intrinsic-lr char-gpt",
    "state char-gpt",
    "state convnet-sgd",
    "hypergrad convnet-sgd --model models.py:convnet --val-batch splits.py:held_out_images --method unroll:2",
]


def screen(line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int = 80) -> str:
    """Both streams of a command on the samples, standard error last."""
    monkeypatch.chdir(SAMPLES)
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        cli.main([*line.split(), "--format", "rich"])
    shown = capsys.readouterr()
    return shown.out + shown.err


@pytest.mark.parametrize("line", SCREENS)
def test_a_default_page_is_one_screen(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = screen(line, capsys, monkeypatch)
    lines = text.splitlines()
    assert len(lines) < LINES, text
    assert " · " in lines[0] and any(line.startswith("What now: ") for line in lines), text
    assert all(len(line) <= 80 for line in lines if not line.startswith("note: ")), text


@pytest.mark.parametrize("line", SCREENS)
def test_no_number_is_cut_in_a_narrow_window(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = screen(line, capsys, monkeypatch, width=60)
    assert not re.search(r"(?m)\d…(?=\s|$)", text), text
