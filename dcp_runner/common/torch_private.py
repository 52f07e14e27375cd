"""The private parts of torch that this project uses, all of them, each with the version that it was tested with."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def default_store() -> Any:
    """The rendezvous store of the default process group."""
    return dist.distributed_c10d._get_default_store()  # 2.13.0
