import pytest

from fromage_cli.doctor.job import gpus_of, job
from fromage_cli.missing import Missing

SRUN = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
}


def test_without_a_job_a_process_is_alone() -> None:
    found = job({"HOME": "/root", "SECRET_TOKEN": "x"})
    assert (found.scheduler, found.rank, found.count, found.variables) == (None, 0, 1, ())
    assert found.meaning == "no batch job: this process computes alone"


def test_a_task_of_srun_has_its_place() -> None:
    found = job(SRUN)
    assert (found.scheduler, found.rank, found.count) == ("slurm", 2, 4)
    assert found.meaning == "job 1234 of SLURM: process 3 of 4 that srun started, which share a measurement"
    assert [variable.name for variable in found.variables] == sorted(SRUN)


def test_a_batch_script_without_srun_is_alone() -> None:
    found = job({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"})
    assert found.meaning == "job 7 of SLURM, without srun: this process computes alone" and found.count == 1


def test_torchruns_ranks_have_their_place() -> None:
    found = job({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"})
    assert found.meaning == "no batch job: process 1 of 2 that torch's launcher started, which share a measurement"
    assert [variable.name for variable in found.variables][-2:] == ["RANK", "WORLD_SIZE"]


@pytest.mark.parametrize(
    "changed", [{"SLURM_STEP_NUM_TASKS": "four"}, {"SLURM_PROCID": "-1"}, {"RANK": "", "WORLD_SIZE": "2"}]
)
def test_numbers_that_are_none_are_said(changed: dict[str, str]) -> None:
    found = job({**SRUN, **changed})
    name, value = next(iter(changed.items()))
    assert isinstance(found.rank, Missing) and f"{name} is {value!r}" in found.rank.words
    assert found.meaning == "the number of processes cannot be told"


def test_nothing_of_other_programs_is_kept() -> None:
    found = job({"AWS_SECRET_ACCESS_KEY": "x", "HF_TOKEN": "y", "SLURM_JOB_ID": "1", "MASTER_PASSWORD": "z"})
    assert [variable.name for variable in found.variables] == ["SLURM_JOB_ID"]


def test_the_gpus_of_a_job() -> None:
    assert gpus_of(job(SRUN)) is None
    assert gpus_of(job({**SRUN, "SLURM_JOB_GPUS": "0,1", "SLURM_GPUS_ON_NODE": "2"})) == "0,1"
    assert gpus_of(job({**SRUN, "SLURM_GPUS_ON_NODE": "2"})) == "2"
