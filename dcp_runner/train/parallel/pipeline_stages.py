"""The pipeline stages that a rank holds, as one module with the parameter names of the complete model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dcp_runner.common.torch_private import IncompatibleKeys


class StageModule(nn.Module):
    """Some stages of a model. Its parameters, buffers and state are those of its stages, under the model's own names.

    It has no forward: a schedule runs the stages.

    Args:
        stages: split from the model; they share no names except those of buffers that all stages have.
        wrapped: what runs for each stage: the stage itself, or a wrapper around it.
        numbers: the numbers of these stages.
        count: number of stages of the complete pipeline.
        names: the names of everything in the state of the complete model.
    """

    names_vary_along = ("pp",)
    """Mesh axes along which ranks hold different names."""

    def __init__(
        self,
        stages: Sequence[nn.Module],
        wrapped: Sequence[nn.Module],
        numbers: Sequence[int],
        count: int,
        names: Sequence[str],
    ) -> None:
        super().__init__()
        self.wrapped = nn.ModuleList(wrapped)
        self.stages = tuple(stages)
        self.numbers, self.count = tuple(numbers), count
        self.names_elsewhere = frozenset(names) - self.state_dict().keys()
        """Names in the state of the complete model that this rank does not hold."""

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        for stage in self.stages:
            yield from stage.named_parameters(prefix, recurse, remove_duplicate)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        merged = {name: buffer for stage in self.stages for name, buffer in stage.named_buffers(prefix, recurse)}
        yield from merged.items()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """In the order of the stages, and of the model within a stage."""
        merged: OrderedDict[str, Any] = OrderedDict()
        for stage in self.stages:
            merged.update(stage.state_dict(*args, **kwargs))
        return merged

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Like torch's own; state of other stages counts as unexpected."""
        own = [{name: state_dict[name] for name in stage.state_dict() if name in state_dict} for stage in self.stages]
        missing = [name for name in self.state_dict() if name not in state_dict]
        unexpected = [name for name in state_dict if not any(name in names for names in own)]
        if strict and (missing or unexpected):
            raise RuntimeError(f"pipeline stages {self.numbers}: missing state {missing}, unexpected {unexpected}")
        for stage, state in zip(self.stages, own, strict=True):
            stage.load_state_dict(state, strict=False, assign=assign)
        return IncompatibleKeys(missing, unexpected)
