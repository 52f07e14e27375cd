"""Links for people. The code never follows one, so where there can be none, everything goes on without it."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from dcp_runner.common.files import cause

log = logging.getLogger("dcp_runner.checkpoint")


def point(link: Path, target: str | Path, *, beside: Path) -> None:
    """Make a link point to `target`, in one step: it is made at `beside` and renamed.

    What is no link stays as it is, such as the folder that a copy with links followed has there. Where no link can be
    made (not every file system has them), one warning is logged.
    """
    try:
        if os.path.lexists(link) and not link.is_symlink():
            raise FileExistsError(f"{link.name} is no link there, and is left as it is")
        beside.unlink(missing_ok=True)
        beside.symlink_to(target)
        os.replace(beside, link)
    except OSError as error:
        _warn(link, cause(error))
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@cache  # once for each link and cause, however many checkpoints follow
def _warn(link: Path, why: str) -> None:
    log.warning("%s does not point to the newest one: %s", link, why)
