"""One place says which version this is."""

from __future__ import annotations

from importlib.metadata import version

import dcp_runner
from dcp_runner.common.version import __version__


def test_the_installed_package_has_it() -> None:
    assert dcp_runner.__version__ == __version__ == version("dcp-runner")
