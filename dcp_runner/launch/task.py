"""The entry point of a task that submitit starts: it handles preemption signals before the slow imports.

A preemption signal that arrives during the imports is remembered, and obeyed at the first step boundary; one that
arrived while Python started was blocked until now. Submitit then installs handlers of its own, but not for both
signals, so the flag that is installed later still finds this one.
"""

from __future__ import annotations

import signal

from dcp_runner.common.signals import PREEMPTION_SIGNALS, StopFlag


def main() -> None:
    """`python -m dcp_runner.launch.task FOLDER`, in place of `python -m submitit.core._submit FOLDER`."""
    StopFlag(PREEMPTION_SIGNALS).install()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PREEMPTION_SIGNALS)
    from dcp_runner.launch.submitit_private import submitit_main

    submitit_main()


if __name__ == "__main__":
    main()
