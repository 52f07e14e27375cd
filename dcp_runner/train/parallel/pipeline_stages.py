"""The stages that a rank of a pipeline holds, as one module under the names of the whole model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dcp_runner.common.torch_private import IncompatibleKeys


class StageModule(nn.Module):
    """Some stages of a model. Its parameters, buffers and state are those of its parts, under the model's own names.

    It has no forward: a schedule runs the stages.

    Args:
        parts: the cut pieces of the model; they share no names but those of buffers that all stages have.
        wrapped: what runs in the place of each part: the part itself, or a wrapper around it.
        numbers: which stages these are.
        count: stages of the whole pipeline.
        names: of everything in the state of the whole model.
    """

    names_vary_along = ("pp",)
    """Mesh axes along which the state differs by its names."""

    def __init__(
        self,
        parts: Sequence[nn.Module],
        wrapped: Sequence[nn.Module],
        numbers: Sequence[int],
        count: int,
        names: Sequence[str],
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(wrapped)
        self.parts = tuple(parts)
        self.numbers, self.count = tuple(numbers), count
        self.names_elsewhere = frozenset(names) - self.state_dict().keys()
        """Names in the state of the whole model that this rank does not hold."""

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        for part in self.parts:
            yield from part.named_parameters(prefix, recurse, remove_duplicate)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        merged = {name: buffer for part in self.parts for name, buffer in part.named_buffers(prefix, recurse)}
        yield from merged.items()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """In the order of the model within a part, and of the stages."""
        merged: OrderedDict[str, Any] = OrderedDict()
        for part in self.parts:
            merged.update(part.state_dict(*args, **kwargs))
        return merged

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """As torch's own; what other stages hold counts as unexpected here."""
        own = [{name: state_dict[name] for name in part.state_dict() if name in state_dict} for part in self.parts]
        missing = [name for name in self.state_dict() if name not in state_dict]
        unexpected = [name for name in state_dict if not any(name in names for names in own)]
        if strict and (missing or unexpected):
            raise RuntimeError(f"state of the stages {self.numbers}: missing {missing}, unexpected {unexpected}")
        for part, state in zip(self.parts, own, strict=True):
            part.load_state_dict(state, strict=False, assign=assign)
        return IncompatibleKeys(missing, unexpected)
