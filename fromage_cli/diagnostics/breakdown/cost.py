"""What a breakdown will cost on this machine, told beforehand."""

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.diagnostics.breakdown.direction_option import RANDOM
from fromage_cli.optimizers.rule import ADAM, FROMAGE, SGD
from fromage_cli.probes.cost import FORWARD, PRODUCT, measure_cost, point_seconds, timed
from fromage_cli.probes.lines.draws import TRUSTED, gradients_of_draws
from fromage_cli.probes.optimizer_step.moments import parts_for_moments
from fromage_cli.probes.structure.depth import measure_depth
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.terminal.answer import Estimate


def expected_work(problem: Problem, name: str, points: int, checkpoint: Checkpoint | None) -> float:
    """What the progress bar counts: gradients, and what takes as long, with the two passes that compare the loss."""
    rounds, products = 2 if problem.further else 1, name != RANDOM
    draws = gradients_of_draws(problem) + 2 * TRUSTED * (products and problem.draws_noise)
    beside = rounds * (PRODUCT * products + FORWARD) + 2 * FORWARD
    return gradient_count(name, points, problem, checkpoint) + draws + beside


def estimate(problem: Problem, name: str, points: int, reload: bool, checkpoint: Checkpoint | None) -> Estimate:
    """The gradients that are counted; in time, also the product for the slope and the pass that tells the depth.

    Each gradient takes what a point on the line does; the loss is evaluated once more at the end.
    """
    products = name != RANDOM
    cost, rounds = measure_cost(problem, products), 2 if problem.further else 1
    depth = timed(problem, lambda: measure_depth(problem))
    gradients = gradient_count(name, points, problem, checkpoint) + gradients_of_draws(problem)
    noisy = products and problem.draws_noise
    gradients += 2 * TRUSTED * noisy
    copies = weight_copies(name, reload, bool(problem.further), checkpoint)
    return Estimate(
        gradients=gradients,
        bytes=cost.memory(copies=copies + noisy, products=products),
        seconds=cost.time(FORWARD, products=rounds) + point_seconds(problem) * gradients + rounds * depth,
    )


def gradient_count(name: str, points: int, problem: Problem, checkpoint: Checkpoint | None) -> float:
    """Counts what so many points cost, in full-batch gradients: the base and the noise floor beside them.

    Several batches are measured together and then each alone. Adam's moments take one more where no state holds them,
    and another where the base gradient makes room for them.
    """
    rounds = 2 if problem.further else 1
    count = float(rounds * (points + 2))
    if name == ADAM.name and not _has_moments(checkpoint):
        alone = [problem.on(batch) for batch in problem.batches] if problem.further else []
        for measured in (problem, *alone):
            rows = sum(part.size for part in parts_for_moments(measured))
            again = measured.rows if rows and measured.saved is not None else 0
            count += (rows + again) / problem.rows
    return count


def weight_copies(name: str, reload: bool, several: bool, checkpoint: Checkpoint | None) -> float:
    """Copies of the weights held beside them: base gradient, the direction where it is stored, kept weights.

    Moments from minibatches are two, as long as the direction is made; with --reload the base gradient makes room for
    them. Of several batches each alone holds its own. Beside it are the direction of all together, where it is stored,
    and the base gradient of a random one. A tenth more is for the gradient of one tensor at a time.
    """
    held = 1 if name in (FROMAGE.name, SGD.name, RANDOM) else 2
    making = 3 if name == ADAM.name and not reload and not _has_moments(checkpoint) else held
    beside = 1 if several and name not in (FROMAGE.name, SGD.name) else 0
    return 0.1 + max(making, held if reload else held + 1) + beside


def _has_moments(checkpoint: Checkpoint | None) -> bool:
    """Whether the checkpoint's optimizer state holds Adam's moments."""
    state = checkpoint.optimizer if checkpoint is not None else None
    return state is not None and state.has(*ADAM.slots)
