"""How every rank of a run ended, judged from the records that the ranks wrote and from what elastic saw."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping

from dcp_runner.launch.outcomes import ExitRecord, RankExit


def rank_exits(
    size: int, failed: Mapping[int, int], records: Mapping[int, ExitRecord], *, killed_now: bool, grace_s: float
) -> list[RankExit]:
    """From its record, else from the exit code that elastic saw (`failed`, by rank), else a rank was killed. Ranks
    without a record come first, the others in the order of their exits.

    An unseen rank was killed by the launcher after a second stop signal (`killed_now`), if a death was seen that must
    have come before, or if `grace_s` seconds have passed since the first record of a failure.
    """
    first = min((record.time for record in records.values() if record.code), default=time.time())
    late = time.time() - first >= grace_s
    by_launcher = killed_now or late or any(rank not in records for rank in failed)
    seen = [RankExit(rank, code) for rank, code in failed.items() if rank not in records]
    unseen = [rank for rank in range(size) if rank not in records and rank not in failed]
    killed = [RankExit(rank, -signal.SIGKILL, by_launcher=by_launcher, seen=False) for rank in unseen]
    by_time = sorted(records.items(), key=lambda item: item[1].time)
    return [*seen, *killed, *(RankExit(rank, record.code) for rank, record in by_time)]
