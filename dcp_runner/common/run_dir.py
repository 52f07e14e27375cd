"""The layout of a run folder; no other module spells the names in it.

<run_dir>/.run.json                                              which run it is
<run_dir>/checkpoints/                                           unless checkpoint.root is another folder
<run_dir>/metrics.jsonl                                          every step, of all attempts
<run_dir>/tracker_id                                             the run's id in its trackers
<run_dir>/logs/rank-00003.log                                    one for each rank, of all attempts
<run_dir>/attempts/2/.hydra/{config,hydra,overrides}.yaml        as the second start was configured
<run_dir>/attempts/2/config.json                                 the same for the next start, which compares it
<run_dir>/attempts/2/outcomes/{rank,left}-00003.json             how ranks failed, and how they exited
<run_dir>/.hydra -> attempts/2/.hydra                            for people; never read
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dcp_runner.common.links import point

_ATTEMPTS, _HYDRA = "attempts", ".hydra"


@dataclass(frozen=True)
class AttemptDir:
    """The folder of one start of a run."""

    path: Path

    @property
    def hydra(self) -> Path:
        """The files that Hydra users look for."""
        return self.path / _HYDRA

    @property
    def config_file(self) -> Path:
        """The configuration as launched, for the next start to compare."""
        return self.path / "config.json"

    @property
    def outcomes(self) -> Path:
        """Records of how its ranks ended."""
        return self.path / "outcomes"


@dataclass(frozen=True)
class RunDir:
    """A run folder, which need not exist."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def identity_file(self) -> Path:
        return self.path / ".run.json"

    @property
    def tracker_id_file(self) -> Path:
        return self.path / "tracker_id"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def log_file(self, rank: int) -> Path:
        return self.logs / f"rank-{rank:05d}.log"

    def log_files(self) -> list[Path]:
        """Those that exist, in the order of the ranks."""
        return sorted(self.logs.glob("rank-*.log"))

    def attempt(self, number: int | str) -> AttemptDir:
        return AttemptDir(self.path / _ATTEMPTS / str(number))

    def last_attempt(self) -> int:
        """The number of the latest start; 0: it has never been started."""
        return max((int(path.name) for path in (self.path / _ATTEMPTS).glob("*") if path.name.isdecimal()), default=0)

    def new_attempt(self, hydra_files: Mapping[str, str]) -> int:
        """Claim the next attempt number and write the given files there; making the folder is the lock.

        Raises:
            OSError: the folder cannot be written.
        """
        (self.path / _ATTEMPTS).mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        number = self.last_attempt() + 1
        while True:
            try:
                self.attempt(number).path.mkdir()
                break
            except FileExistsError:
                number += 1
        attempt = self.attempt(number)
        attempt.outcomes.mkdir()
        attempt.hydra.mkdir()
        for name, text in hydra_files.items():
            (attempt.hydra / name).write_text(text, encoding="utf-8")
        target = attempt.hydra.relative_to(self.path)
        point(self.path / _HYDRA, target, temporary=self.path / f"{_HYDRA}.{number}")
        return number
