"""Symbolic links for people's convenience. No code relies on them, so where one cannot be made, a warning is enough."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from dcp_runner.common.files import cause

log = logging.getLogger("dcp_runner.checkpoint")


def point(link: Path, target: str | Path, *, temporary: Path) -> None:
    """Make a link point to `target`, atomically: it is made at `temporary` and renamed.

    What is not a link stays as it is, such as the folder that a copy with links followed has there. Where the link
    cannot be made (not every file system has links), one warning is logged.
    """
    try:
        if os.path.lexists(link) and not link.is_symlink():
            raise FileExistsError(f"{link.name} is not a link, and is kept as it is")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        os.replace(temporary, link)
    except OSError as error:
        _warn(link, cause(error))
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@cache  # once for each link and cause, however many checkpoints follow
def _warn(link: Path, why: str) -> None:
    log.warning("cannot update the link %s: %s", link, why)
