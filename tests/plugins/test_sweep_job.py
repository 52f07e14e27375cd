"""What a task of a job records of its end, and what the jobs of a submission share. How jobs run is in
test_dcp_launcher.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import HydraContext

from dcp_runner.launch.outcomes import read_exit_records, read_failure_records
from dcp_runner.launch.submitit_private import pickle_load
from hydra_plugins.dcp_launcher._sweep_job import ExitRecorder, SharedPayload


@pytest.mark.parametrize(
    ("error", "code", "failures"),
    [(None, 0, []), (SystemExit(144), 144, []), (SystemExit("text"), 1, []), (ValueError("boom"), 1, ["boom"])],
)
def test_a_task_records_how_it_has_ended(
    tmp_path: Path, error: BaseException | None, code: int, failures: list[str]
) -> None:
    start = tmp_path / "12_0.1"
    raised: BaseException | None = None
    try:
        with ExitRecorder(start, 3):
            if error:
                raise error
    except (SystemExit, ValueError) as caught:
        raised = caught
    assert raised is error
    assert {rank: exit.code for rank, exit in read_exit_records(start).items()} == {3: code}
    assert [failure.message for failure in read_failure_records(start)] == failures


def task(cfg: Any) -> str:
    return "of the tests"


def test_what_jobs_share_is_a_file_of_its_own(tmp_path: Path) -> None:
    loader = ConfigLoaderImpl(create_config_search_path(None))
    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    files = [SharedPayload(context, task, {}).write(tmp_path) for _ in range(2)]
    assert files[0] != files[1]
    assert pickle_load(files[0]).task(None) == "of the tests"
