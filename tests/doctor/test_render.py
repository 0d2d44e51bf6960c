from dataclasses import replace

import pytest
from rich.console import Console

from fromage_cli.doctor.findings import judge
from fromage_cli.doctor.job import job
from fromage_cli.doctor.render import headline, render
from fromage_cli.doctor.result import (
    Device,
    DoctorResult,
    Processors,
    SelfTest,
    Setting,
    TemporaryDirectory,
)
from fromage_cli.missing import LIMIT_REACHED, Missing, Why
from fromage_cli.terminal.answer import PageStyle

PLAIN = PageStyle()
SOUND = """\
Everything works here.

  self-test      ok  on cpu a known breakdown comes out to 2e-16 (1e-10 allowed)
  attention      ok  on cpu second derivatives are right; by torch's own
                     kernels: flash none
  files          ok  4 of 4 tensors written and read in /tmp, 5 GB free
  packages       ok  fromage-diag 0.1.0, Python 3.12.1, torch 2.13.0, numpy
                     2.4.6
  extras         ok  not installed: plot (-v: how)
  processors     ok  4 of the machine's 8, 4 threads of torch, OMP_NUM_THREADS=4
  memory         ok  8 GB available, 16 GB in the machine, no limit for this
                     process
  devices        ok  no GPU; the processor computes
  job            ok  no batch job: this process computes alone
  configuration  ok  nothing is set
  terminal       ok  a terminal, 80 columns, colours, utf-8
"""


def page(result: DoctorResult, style: PageStyle = PLAIN) -> str:
    console = Console(width=style.width, no_color=True)
    with console.capture() as capture:
        console.print(render(result, judge(result), style))
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def test_the_page_of_a_machine_on_which_everything_works(sound: DoctorResult) -> None:
    assert page(sound) == SOUND


def test_the_answer_counts_what_needs_you(sound: DoctorResult) -> None:
    wrong = replace(sound, self_test=(SelfTest("cpu", 6, 0.0, 1e-6, 0.0, 1e-10, 0.1),))
    assert page(wrong).startswith("1 thing needs you: self-test.\n")
    more = replace(wrong, processors=Processors(2, 8, 8, None))
    assert page(more).startswith("2 things need you: self-test, processors.\n")


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int, sound: DoctorResult) -> None:
    setting = Setting("batch", "data/" + "long/" * 3, "environment", "FROMAGE_DIAG_BATCH", True)
    found = page(replace(sound, configuration=(setting,)), PageStyle(width=width))
    lines = [line for line in found.splitlines() if "FROMAGE_DIAG" not in line and "──" not in line]
    assert max(map(len, lines)) <= width


def test_what_was_found_is_said_at_any_width(sound: DoctorResult) -> None:
    said = " ".join(page(sound, PageStyle(width=20)).split())
    assert "files ok 4 of 4 tensors written and read in /tmp, 5 GB free" in said


def test_what_was_not_looked_at_is_said(sound: DoctorResult) -> None:
    found = replace(sound, attention=LIMIT_REACHED, self_test=LIMIT_REACHED)
    assert page(found).startswith("What was looked at works. Not looked at: self-test, attention.\n")


def test_gpus_jobs_and_settings_have_their_numbers(sound: DoctorResult) -> None:
    unknown = Missing(Why.NOT_TOLD, "it is not told")
    found = replace(
        sound,
        devices=(
            Device("cuda:0", "NVIDIA H200", 150_000_000_000, 90_000_000_000),
            Device("mps", "Apple GPU", unknown, unknown),
        ),
        job=job({"SLURM_JOB_ID": "12"}),
        temporary_directory=TemporaryDirectory("/tmp", unknown, 4, 4),
        configuration=(
            Setting("dtype", "float64", "environment", "FROMAGE_DIAG_DTYPE", True),
            Setting("dtype", "float32", "project", "fromage.toml", False, "FROMAGE_DIAG_DTYPE goes first"),
        ),
    )
    shown = page(found, PageStyle(width=120))
    assert "cuda:0 NVIDIA H200, 150 GB (90 GB free); mps Apple GPU, not used by this program" in shown
    assert "job 12 of SLURM, without srun" in shown and "1 value in effect" in shown
    assert [line.split() for line in shown.splitlines()[-2:]] == [
        ["dtype", "float64", "FROMAGE_DIAG_DTYPE"],
        ["dtype", "float32", "fromage.toml", "no", "effect"],
    ]
    assert "SLURM_JOB_ID=12" not in shown and "SLURM_JOB_ID=12" in page(found, PageStyle(verbose=True))


def test_how_to_install_an_extra_stands_in_the_long_page(sound: DoctorResult) -> None:
    assert "plot, for --plot: pip install plot" in page(sound, PageStyle(verbose=True))


def test_the_headline_has_the_largest_gaps(sound: DoctorResult) -> None:
    rows = {name: value for name, value, _ in headline(sound, ()).rows}
    assert (rows["checks_that_need_you"], rows["self_test_gap"], rows["attention_gap"]) == (0, 2e-16, 4e-16)
    assert (rows["memory_available"], rows["memory_limit"]) == (8_000_000_000, None)
