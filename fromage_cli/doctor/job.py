"""What a batch system and a launcher tell this process, and what the program makes of it."""

from collections.abc import Mapping

from fromage_cli.doctor.result import Job, Variable
from fromage_cli.errors import UsageError
from fromage_cli.missing import Missing, Why
from fromage_cli.ranks import Place

SLURM = "SLURM_"
OF_LAUNCHERS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"),
    "CUDA_VISIBLE_DEVICES",
)
"""Variables of torch's launcher, and the one that hides GPUs."""


def job(environment: Mapping[str, str]) -> Job:
    """What the environment says of a job and of its processes."""
    names = sorted(name for name in environment if name.startswith(SLURM) or name in OF_LAUNCHERS)
    variables = tuple(Variable(name, environment[name]) for name in names)
    inside = "SLURM_JOB_ID" in environment
    scheduler = "slurm" if inside else None
    try:
        place = Place.found(environment)
    except UsageError as error:
        unread = Missing(Why.NOT_EVALUATED, error.message.rstrip("."))
        return Job(scheduler, unread, unread, "the number of processes cannot be told", variables)
    within = f"job {environment['SLURM_JOB_ID']} of SLURM" if inside else "no batch job"
    if place is None:
        more = ", without srun" if inside and "SLURM_LAUNCH_NODE_IPADDR" not in environment else ""
        return Job(scheduler, 0, 1, f"{within}{more}: this process computes alone", variables)
    by = "srun" if place.address else "torch's launcher"
    meaning = f"{within}: process {place.index + 1} of {place.count} that {by} started, which share a measurement"
    return Job(scheduler, place.index, place.count, meaning, variables)


def gpus_of(found: Job) -> str | None:
    """The GPUs that the job was given, by number or by name; None where it was given none."""
    given = {variable.name: variable.value for variable in found.variables}
    return next(
        (given[name] for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE") if given.get(name)), None
    )
