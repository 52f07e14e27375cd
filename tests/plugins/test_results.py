"""What a sweeper gets for each job; no job is run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from planning import planned

from dcp_runner.launch.broadcast import RunFailed
from dcp_runner.launch.submitit_private import cloudpickle_dump
from dcp_runner.sweep.record import JobState, Sweep
from hydra_plugins.dcp_launcher._results import results, returned
from hydra_plugins.dcp_launcher._sweep_job import RETURNED


def result(folder: Path, state: JobState, kept: tuple[JobStatus, object] | None) -> JobReturn:
    """Of job 1, which is in this state, and whose function has returned this before it ended; None: nothing."""
    job = planned(1, 1)
    job.record.state, job.record.reason = state, "rank 0 was killed"
    sweep = Sweep(path=folder, scheduler="local", jobs=[job.record])
    if kept:
        sweep.job_dir(job.record).mkdir(parents=True)
        cloudpickle_dump(returned(job.cfg, *kept), sweep.job_dir(job.record) / RETURNED)
    (found,) = results(sweep, [job])
    assert found.overrides == ["seed=1"] and found.task_name == "mine"
    return found


@pytest.mark.parametrize(("kept", "value"), [((JobStatus.COMPLETED, 0.5), 0.5), (None, None)])
def test_a_job_that_is_done_gives_what_it_returned(
    tmp_path: Path, kept: tuple[JobStatus, object] | None, value: float | None
) -> None:
    found = result(tmp_path, JobState.done, kept)
    assert (found.status, found.return_value) == (JobStatus.COMPLETED, value)


@pytest.mark.parametrize("state", [JobState.failed, JobState.cancelled])
@pytest.mark.parametrize("kept", [None, (JobStatus.COMPLETED, 0.5)])
def test_a_job_that_failed_gives_no_value(
    tmp_path: Path, state: JobState, kept: tuple[JobStatus, object] | None
) -> None:
    """Even if the function returned on rank 0, and another rank failed."""
    found = result(tmp_path, state, kept)
    assert found.status is JobStatus.FAILED
    with pytest.raises(RunFailed, match=f"job 1 {state}: rank 0 was killed"):
        _ = found.return_value


def test_an_error_of_the_function_is_given_as_it_is(tmp_path: Path) -> None:
    found = result(tmp_path, JobState.failed, (JobStatus.FAILED, ValueError("boom")))
    with pytest.raises(ValueError, match="boom"):
        _ = found.return_value
