"""The forward pass as a part of `check`: from its options to an answer like that of a command."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from fromage_cli.diagnostics.check.result import Skipped
from fromage_cli.errors import FromageError, ResourceError
from fromage_cli.intake import open_problem, provenance
from fromage_cli.missing import Missing, Why
from fromage_cli.terminal.answer import Answer, Estimate, estimate_answer
from fromage_cli.terminal.options import BatchOptions, HeldOutOptions, ModelOptions, RunOptions

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint
    from fromage_cli.probes.forward_pass.measure import ForwardPass
    from fromage_cli.problem.data.batches import Batch
    from fromage_cli.problem.evaluation.problem import Problem

EARLIER = 5
"""Earlier checkpoints whose loss is looked at, spread over the run: the best of them is what was reached already."""
FORWARD_PASS = "forward-pass"
"""How it is called among the commands."""


def answer_forward_pass(
    series: "Sequence[Checkpoint]", model: ModelOptions, batch: BatchOptions, run: RunOptions, rows: HeldOutOptions
) -> Answer:
    """What one forward pass tells of the last checkpoint of a run, and a few passes at those before."""
    ckpt = series[-1].place
    intake = open_problem(ckpt, model, batch, run)

    from fromage_cli.diagnostics.check.attention_findings import judge_attention
    from fromage_cli.diagnostics.check.forward_findings import judge_forward
    from fromage_cli.probes.cost import FORWARD, timed
    from fromage_cli.probes.forward_pass.course import losses_before
    from fromage_cli.probes.forward_pass.measure import look_at_forward_pass

    problem = intake.problem
    held_out = None if rows.val_batch is None else held_out_rows(problem, rows.val_batch, batch)
    if run.estimate:
        passes = 2.0 + (0.0 if held_out is None else 2.0 * held_out.size / problem.rows)
        seconds = timed(problem, problem.value)
        return estimate_answer(Estimate(passes * FORWARD, None, passes * seconds))
    forward = look_at_forward_pass(problem, held_out)
    earlier = losses_before(problem, spread(series[:-1]), series[-1])
    forward = replace(forward, earlier=earlier)
    findings = (*judge_forward(forward, intake.trained), *judge_attention(forward.attention, forward.logits))
    return Answer(result=forward, page=lambda style: "", findings=findings, provenance=provenance(problem))


def spread(earlier: "Sequence[Checkpoint]") -> "Sequence[Checkpoint]":
    """At most EARLIER of these, evenly from the second to the last; the first ones are there where they are few."""
    if len(earlier) <= EARLIER:
        return earlier
    step = (len(earlier) - 2) / (EARLIER - 1)
    return [earlier[1 + round(place * step)] for place in range(EARLIER)]


def forward_result(results: dict[str, object], skipped: Sequence[Skipped]) -> "ForwardPass | Missing":
    """The forward pass, taken out of the results of commands; why there was none."""
    if FORWARD_PASS in results:
        return cast("ForwardPass", results.pop(FORWARD_PASS))
    (reason,) = (one.reason for one in skipped if one.command == FORWARD_PASS)
    return Missing(Why.NO_MODEL, reason.splitlines()[0].rstrip("."))


def held_out_rows(problem: "Problem", spec: str, batch: BatchOptions) -> "Batch":
    """The rows that `--val-batch` names, where the network is.

    Raises the errors of `load_batches` and of a first pass on them, with the flag that they are about.
    """
    from fromage_cli.problem.data.batches import load_batches

    try:
        loaded, *_ = load_batches(spec, seed=problem.seed, sequence_length=batch.seq_len, sequences=batch.sequences)
        rows = loaded.to(problem.device, problem.dtype)
        problem.on(rows).value()
    except ResourceError:
        raise
    except FromageError as error:
        error.message = f"--val-batch {spec}: {error.message.removeprefix(f'--batch {spec!r} ')}"
        raise
    return rows
