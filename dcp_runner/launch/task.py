"""The first module of a task that submitit starts: it takes the notices, and imports the rest, which takes seconds.

A notice that comes meanwhile is remembered, and obeyed at the first step boundary; one that came while Python started
has been held back until now. Submitit's own handlers, which come in between, do not touch both of them, so the flag
is found by the one that replaces it.
"""

from __future__ import annotations

import signal

from dcp_runner.common.signals import NOTICES, StopFlag


def main() -> None:
    """`python -m dcp_runner.launch.task FOLDER`, where `python -m submitit.core._submit FOLDER` would do the same."""
    StopFlag(NOTICES).install()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NOTICES)
    from dcp_runner.launch.submitit_seam import submitit_main

    submitit_main()


if __name__ == "__main__":
    main()
