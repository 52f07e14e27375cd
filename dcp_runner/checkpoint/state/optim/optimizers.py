"""Optimizers as components: their state and options by parameter name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from dcp_runner.checkpoint.errors import UnsupportedStateError
from dcp_runner.checkpoint.sharing import SharingTraits
from dcp_runner.checkpoint.state.dtensor import is_dtensor
from dcp_runner.checkpoint.state.merge import Keys
from dcp_runner.checkpoint.state.modules import PLAIN_OBJECT, ModelState
from dcp_runner.checkpoint.state.optim.extra_optimizer_state import check_extra_state, extra_state, load_extra_state
from dcp_runner.checkpoint.state.optim.nested_optimizers import class_names, nested_optimizers, split_by_prefix
from dcp_runner.checkpoint.state.optim.param_groups import ParamGroups
from dcp_runner.checkpoint.state.optim.param_names import ParamNames
from dcp_runner.checkpoint.state.optim.placement import layout_problems, record_layout, restore_layout
from dcp_runner.checkpoint.stateful import StateDiff
from dcp_runner.common.torch_private import tree_leaves


class OptimizerState:
    """A torch optimizer as a component. Its state consists of

    state     by parameter name, what the optimizer keeps for the parameter: {"weight": {"exp_avg": ..., "step": ...}}
    options   by parameter name, the options of its group, and the group's index (see param_groups.py)
    kind      the class names of the optimizer and of those inside it

    and, if there is such a thing,

    shared    state that belongs to no single parameter
    placed    the layout of state that does not follow from its parameter (see placement.py)
    empty     the options of groups without parameters
    inner     the prefixes of optimizers inside it (see nested_optimizers.py)
    own       what only the optimizer's own state_dict has (see extra_optimizer_state.py)

    torch's get_optimizer_state_dict is not used: it takes a step if there was none, and loses options if the groups
    have changed. Raises UnsupportedStateError for an optimizer that would lose something.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, models: Sequence[ModelState]) -> None:
        self.optimizer = optimizer
        self.models = list(models)
        if lacking := [name for name in ("state", "param_groups") if not hasattr(optimizer, name)]:
            raise self._unsupported(f"it has no {' and no '.join(lacking)}; give the optimizer inside it instead")
        self._names = ParamNames(optimizer, models)
        self._groups = ParamGroups(self._names)
        extra_state(optimizer)

    def state_dict(self) -> dict[str, Any]:
        state, layouts = self._param_state()
        others = self._other_state() | {
            "placed": layouts,
            "inner": [nested.prefix for nested in nested_optimizers(self.optimizer)[1:]],
            "kind": class_names(self.optimizer),
            "empty": self._groups.empty_options(),
        }
        return {
            "state": state,
            "options": self._groups.options(),
            **{key: value for key, value in others.items() if value},
        }

    def _param_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The state by parameter name, and the layouts of what needs one."""
        nested, grouped = nested_optimizers(self.optimizer), self._names.grouped()
        names = {id(named.param): named.name for named in grouped}
        stateful = [named for named in grouped if any(named.param in each.optimizer.state for each in nested)]
        state: dict[str, Any] = {named.name: {} for named in stateful}
        layouts: dict[str, Any] = {}
        for param, key, value in (item for each in nested for item in each.param_state()):
            if id(param) not in names:
                raise self._unsupported(f"it keeps {key!r} for a parameter that is in none of its groups")
            name = names[id(param)]
            state[name][key] = value
            try:
                texts = record_layout(value, param)
            except ValueError as error:
                raise self._unsupported(f"{key!r} of {name} is {error}") from error
            if texts:
                layouts.setdefault(name, {})[key] = texts
        return state, layouts

    def _other_state(self) -> dict[str, Any]:
        """The state that belongs to no single parameter."""
        nested = nested_optimizers(self.optimizer)
        shared = {key: value for each in nested for key, value in each.shared_state().items()}
        if sharded := [key for key, value in shared.items() if any(map(is_dtensor, tree_leaves(value)))]:
            raise self._unsupported(f"{sharded[0]!r} in its `state` is a DTensor that belongs to no parameter")
        return {"shared": shared, "own": extra_state(self.optimizer)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._groups.load(state_dict["options"], state_dict.get("empty", {}))
        self._load_state(state_dict)
        if extra := state_dict.get("own"):
            load_extra_state(self.optimizer, extra)
            self._load_state(state_dict)
            check_extra_state(self.optimizer, extra)

    def _load_state(self, state_dict: Mapping[str, Any]) -> None:
        nested = nested_optimizers(self.optimizer)
        prefixes = [each.prefix for each in nested]
        shared = split_by_prefix(state_dict.get("shared", {}), prefixes)
        state: dict[str, dict[torch.Tensor, Any]] = {prefix: {} for prefix in prefixes}
        for name, param, group, _ in self._names.grouped():
            if name not in state_dict["state"]:
                continue
            texts = state_dict.get("placed", {}).get(name, {})
            items = {
                key: restore_layout(value, param, texts.get(key, ()), _on_device(key, group))
                for key, value in state_dict["state"][name].items()
            }
            for prefix, its_items in split_by_prefix(items, prefixes).items():
                if its_items or not items:
                    state[prefix][param] = its_items
        for each in nested:
            each.load(state[each.prefix], shared[each.prefix])

    def target_layout(self) -> Any:
        """What to shard a saved state like: each tensor in a parameter's state like the parameter."""
        state = {name: _SameForAllKeys(param) for name, param in self._names.available().items()}
        return {"state": state, "options": self._groups.options(), **self._other_state()}

    def accepts(self) -> Callable[[Keys], bool]:
        """Whether this rank loads the item of a saved state with these keys: the state of its own parameters, but the
        options of all, because they show which parameters joined later.
        """
        own = {*self._names.available()}
        return lambda keys: len(keys) != 2 or keys[0] not in ("state", "placed") or keys[1] in own

    def differences(self, state: dict[str, Any]) -> StateDiff:
        if not {"state", "options"} <= set(state):
            return StateDiff(mismatched=["what was saved is not the state of an optimizer by parameter names"])
        found = self._groups.differences(state["options"], state.get("empty", {}))
        found.mismatched = [*self._wrong_structure(state), *found.mismatched, *self._wrong_layout(state)]
        return found

    def _wrong_structure(self, state: Mapping[str, Any]) -> Iterator[str]:
        saved_classes, classes = state.get("kind", {}), class_names(self.optimizer)
        for prefix, name in classes.items():
            if (saved_name := saved_classes.get(prefix, name)) != name:
                subject = prefix.rstrip(".") or "the optimizer"
                yield (
                    f"{subject} was saved by {saved_name}, but is {name} here; keep it as it was built with "
                    "resume_skip=[optimizer] (library: skip=[...])"
                )
        inner = [each.prefix for each in nested_optimizers(self.optimizer)[1:]]
        if (saved_inner := state.get("inner", [])) != inner:
            saved, current = (", ".join(p.rstrip(".") for p in prefixes) or "none" for prefixes in (saved_inner, inner))
            yield f"the optimizers inside it differ: {saved} in the checkpoint, {current} here"
        if "own" in state:
            saved_indices = {name: options["group"] for name, options in state["options"].items()}
            if _order(saved_indices) != _order(self._groups.indices_after_load(state["options"])):
                yield (
                    f"{', '.join(state['own'])} of the saved {type(self.optimizer).__name__} cannot be resharded: only "
                    "its own state_dict() knows it, so it fits only the same parameters in the same groups"
                )

    def _wrong_layout(self, state: Mapping[str, Any]) -> Iterator[str]:
        """What was saved on another mesh and cannot be sharded for this one."""
        for name, param in self._names.available().items():
            texts = state.get("placed", {}).get(name, {})
            for key, value in state["state"].get(name, {}).items():
                for problem in layout_problems(value, param, texts.get(key, ())):
                    yield (
                        f"{name}: {key!r} of {type(self.optimizer).__name__} cannot be resharded: {problem}; resume on "
                        "the mesh of the checkpoint, or with resume_skip=[optimizer]"
                    )

    def sharing_traits(self) -> SharingTraits:
        return self.models[0].sharing_traits() if self.models else PLAIN_OBJECT

    def _unsupported(self, problem: str) -> UnsupportedStateError:
        return UnsupportedStateError(f"{type(self.optimizer).__name__} cannot be stored: {problem}")


class _SameForAllKeys(Mapping[str, Any]):
    """A mapping with the same value under every key."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getitem__(self, key: str) -> Any:
        return self._value

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _on_device(key: Any, group: Mapping[str, Any]) -> bool:
    """Whether it is kept on the parameter's device: everything is but the step counter, as in torch."""
    return str(key).rpartition(".")[2] != "step" or bool(group.get("capturable") or group.get("fused"))


def _order(indices: Mapping[str, int]) -> list[tuple[str, int]]:
    """The parameters group by group, each group in its order."""
    return sorted(indices.items(), key=lambda item: item[1])
