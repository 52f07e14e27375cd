"""For all tests: one thread for each process, because many tests start several ranks on few cores, and forks want no thread pools."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
