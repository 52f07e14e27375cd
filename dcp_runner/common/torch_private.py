"""The private APIs of torch that this project uses, all of them in this module; everywhere else only public ones.

Tested with torch 2.13.0. What costs time to import is imported where it is called.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

# Walks over nested containers, which torch.utils has only as a private module; 2.13.0.
tree_leaves = torch.utils._pytree.tree_leaves
tree_map_only = torch.utils._pytree.tree_map_only
tree_structure = torch.utils._pytree.tree_structure
tree_unflatten = torch.utils._pytree.tree_unflatten

# The type that `load_state_dict` of a module returns, for a module that overrides it; 2.13.0.
IncompatibleKeys = nn.modules.module._IncompatibleKeys


def default_store() -> Any:
    """The rendezvous store of the default process group."""
    return dist.distributed_c10d._get_default_store()  # there is no public way to reuse it; 2.13.0


def fake_store() -> dist.Store:
    """The store of the process group "fake", in which one process stands for all ranks."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the backend, too; 2.13.0

    return FakeStore()


def replicate(module: nn.Module, **options: Any) -> nn.Module:
    """Replicated data parallelism in place, by hooks as fully_shard has them."""
    from torch.distributed._composable import (
        replicate_with_fsdp,  # public `replicate` is DDP's, without DTensor; 2.13.0
    )

    replicate_with_fsdp.replicate(module, **options)
    return module


def import_dynamo() -> None:
    """Import now what optimizers and DistributedDataParallel import later: once, before a fork, instead of in each."""
    import torch._dynamo  # noqa: F401 (slow; 2.13.0)


def memory_id(tensor: torch.Tensor) -> int:
    """Equal for two tensors that share memory, even on the meta device, where there is no address."""
    return int(tensor.untyped_storage()._cdata)  # 2.13.0


def inside_compiled(module: nn.Module) -> Any:
    """The module that torch.compile has wrapped; None where it has not."""
    return getattr(module, "_orig_mod", None)  # 2.13.0


def metadata_of(state: Any) -> Any:
    """The versions of modules that hang on the state dict of a module; None where there are none."""
    return getattr(state, "_metadata", None)  # `load_state_dict` reads it; 2.13.0


def set_metadata(state: Any, metadata: Any) -> None:
    """Give them back to it."""
    state._metadata = metadata  # 2.13.0


def persistent_buffers(module: nn.Module) -> Iterable[torch.Tensor]:
    """The module's own buffers that are in its state dict."""
    absent = module._non_persistent_buffers_set  # `named_buffers` has all buffers; 2.13.0
    return [buffer for name, buffer in module._buffers.items() if buffer is not None and name not in absent]


def child_modules(module: nn.Module) -> dict[str, Any]:
    """The module's own table of its children, to be changed in place."""
    return module._modules  # `named_children` leaves out doubles, and `del` of a ModuleList renumbers; 2.13.0


def set_last_rates(scheduler: Any, rates: Iterable[Any]) -> None:
    """The learning rates that `get_last_lr` gives."""
    scheduler._last_lr = [*rates]  # 2.13.0
