"""For all tests: one thread for each process, because many tests start several ranks on few cores, and forks want no thread pools."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest begins first, so that the workers end together."""
    items.sort(key=lambda item: item.path.name != "test_topology_resume.py")
