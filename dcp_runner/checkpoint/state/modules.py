"""Modules as components: one logical set of tensors by the names of the whole model, however it is wrapped or cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dcp_runner.checkpoint.sharing import SharingPattern, SharingTraits
from dcp_runner.checkpoint.state.dtensor import is_dtensor, shard_groups
from dcp_runner.checkpoint.state.merge import Keys
from dcp_runner.checkpoint.stateful import StateDiff
from dcp_runner.checkpoint.topology import Topology
from dcp_runner.common.suggest import hints
from dcp_runner.common.torch_private import inside_compiled

PLAIN_OBJECT = SharingTraits("a plain object: taken as equal on all ranks, and checked")

EXTRA = "_extra_state"
"""Last part of the name under which torch puts what `get_extra_state` returns: any value, and the module's business."""


class ModelState:
    """A module as a component, under the names of the module inside DistributedDataParallel and torch.compile.

    A module may have `names_elsewhere`, names that other ranks hold because it is a part of a larger one, and
    `names_vary_along`, the mesh axes along which it is one.
    """

    def __init__(self, module: nn.Module, key: str, topology: Topology) -> None:
        self.key = key
        self.wrapper = module
        self.module = unwrap(module)
        self._topology = topology

    @property
    def names_elsewhere(self) -> frozenset[str]:
        """Names of this model that are held by other ranks only."""
        return frozenset(getattr(self.module, "names_elsewhere", ()))

    def names(self) -> dict[int, str]:
        """id of a parameter -> its name; tied parameters have one."""
        return {id(parameter): name for name, parameter in self.module.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        return self.module.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.module.load_state_dict(state_dict, strict=False)

    def target_layout(self) -> Any:
        """What a saved state is placed like."""
        return self.module.state_dict()

    def accepts(self) -> Callable[[Keys], bool]:
        """Whether this rank takes the item of a saved state that has these keys."""
        live = self.module.state_dict()
        return lambda keys: len(keys) != 1 or keys[0] in live

    @property
    def modules_with_broadcast_buffers(self) -> list[nn.Module]:
        """The modules whose buffers DistributedDataParallel will take from the first rank, in the next step."""
        wrappers = (module for module in self.wrapper.modules() if isinstance(module, DistributedDataParallel))
        return [wrapper.module for wrapper in wrappers if wrapper.broadcast_buffers]

    def differences(self, state: dict[str, Any]) -> StateDiff:
        live = self.module.state_dict()
        found = StateDiff(hints([name for name in live if name not in state], state))
        elsewhere = self.names_elsewhere
        found.unexpected = hints([name for name in state if name not in live and name not in elsewhere], live)
        for name, value in live.items():
            if name.rpartition(".")[2] == EXTRA:
                continue
            saved = state.get(name, value)
            if isinstance(value, torch.Tensor) and not isinstance(saved, torch.Tensor):
                found.mismatched.append(f"{name}: {type(saved).__name__} saved, a tensor here")
            elif isinstance(value, torch.Tensor):
                if value.is_meta:
                    found.mismatched.append(
                        f"{name}: on the meta device here, where nothing can be loaded; to_empty() first"
                    )
                if saved.shape != value.shape:
                    found.mismatched.append(f"{name}: shape {tuple(saved.shape)} saved, {tuple(value.shape)} here")
                if saved.dtype != value.dtype:
                    found.mismatched.append(f"{name}: dtype {saved.dtype} saved, {value.dtype} here")
        return found

    def sharing_traits(self) -> SharingTraits:
        topology = self._topology
        if topology.world_size == 1:
            return SharingTraits("one rank holds it", pattern=SharingPattern.GLOBAL)
        cut = frozenset(axis for ranks in self._cuts() for axis in topology.axes_among(ranks))
        named = frozenset(getattr(self.module, "names_vary_along", ())) & set(topology.mesh)
        why = [f"tensors are cut along {', '.join(sorted(cut))} (DTensor)"] if cut else []
        why += [f"each rank has its own layers along {', '.join(sorted(named))}"] if named else []
        if not why and isinstance(self.wrapper, DistributedDataParallel):
            why = ["DistributedDataParallel holds all weights on every rank"]
        return SharingTraits("; ".join(why), sharded_along=cut, names_vary_along=named) if why else PLAIN_OBJECT

    def _cuts(self) -> Iterator[tuple[int, ...]]:
        tensors = (*self.module.parameters(), *self.module.buffers())
        return (ranks for tensor in tensors if is_dtensor(tensor) for ranks in shard_groups(tensor))


def unwrap(module: nn.Module) -> nn.Module:
    """The user's module inside DistributedDataParallel and torch.compile, whichever is outside."""
    while True:
        inner = module.module if isinstance(module, DistributedDataParallel) else inside_compiled(module)
        if not isinstance(inner, nn.Module):
            return module
        module = inner
