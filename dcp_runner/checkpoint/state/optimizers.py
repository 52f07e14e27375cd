"""Optimizers as components, keyed by the names of the parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from dcp_runner.checkpoint.errors import UnsupportedStateError
from dcp_runner.checkpoint.sharing import SharingTraits
from dcp_runner.checkpoint.state.dtensor import is_dtensor
from dcp_runner.checkpoint.state.extra_optimizer_state import check_own, only_own, put_own
from dcp_runner.checkpoint.state.merge import Keys
from dcp_runner.checkpoint.state.modules import PLAIN_OBJECT, ModelState, parameters_by_name
from dcp_runner.checkpoint.state.nested_optimizers import Part, kinds, parts, split
from dcp_runner.checkpoint.state.param_groups import (
    Named,
    Options,
    join,
    joining,
    lost_empty,
    put_empty,
    put_options,
    stored_empty,
    stored_options,
    wrong_groups,
)
from dcp_runner.checkpoint.state.placement import place, placing, unplaced
from dcp_runner.checkpoint.stateful import StateDiff
from dcp_runner.common.suggest import hints
from dcp_runner.common.torch_private import tree_leaves


class OptimizerState:
    """A torch optimizer as a component, keyed by parameter names: {"state": {name: ...}, "options": {name: ...}}.

    A name that two of its models have is preceded by the model's key; a parameter of no model is named by its
    place. Options are those of the parameter's group, and the group's number. Torch's own get_optimizer_state_dict
    is not used: it takes a step where there is none, and loses options where groups change.

    It also has "kind", its class and those of the optimizers inside it; and, where there is such a thing, "shared",
    state of no single parameter; "own", what nothing but the optimizer's own state_dict finds; "placed", see
    placing.py; "inner", the optimizers inside it; and "empty", by number the options of groups without parameters.

    Raises UnsupportedStateError for an optimizer of which something would be lost.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, models: Sequence[ModelState]) -> None:
        self.optimizer = optimizer
        self.models = list(models)
        if lacking := [name for name in ("state", "param_groups") if not hasattr(optimizer, name)]:
            raise self._refusal(f"it has no {' and no '.join(lacking)}; give the optimizer inside it instead")
        self._first = {id(parameter) for _, parameter, _, _ in self._named()}
        self._first_groups = len(optimizer.param_groups)
        only_own(optimizer)

    def _named(self, later: Sequence[tuple[torch.Tensor, int]] = ()) -> list[Named]:
        """What is in the groups, and `later` (parameter, number of the group) as if it had joined."""
        known = {one: (model.key, name) for model in self.models for one, name in model.names().items()}
        found = [
            (*known.get(id(parameter), ("", f"{number}.{place}")), parameter, group, number)
            for number, group in enumerate(self.optimizer.param_groups)
            for place, parameter in enumerate(group["params"])
        ]
        found += [(*known[id(parameter)], parameter, {}, number) for parameter, number in later]
        times = Counter(name for _, name, *_ in found)
        return [(name if times[name] == 1 else f"{key}.{name}", *rest) for key, name, *rest in found]

    def state_dict(self) -> dict[str, Any]:
        found = parts(self.optimizer)
        state, placed = self._state(found)
        more = self._unnamed(found) | {"placed": placed, "inner": [part.prefix for part in found[1:]]}
        more["kind"] = kinds(self.optimizer)
        more["empty"] = stored_empty(self.optimizer, self._first_groups)
        return {"state": state, "options": self._options(), **{key: value for key, value in more.items() if value}}

    def _options(self) -> dict[str, dict[str, Any]]:
        return stored_options(self.optimizer, self._named(), self._first, self._homes())

    def _state(self, found: Sequence[Part]) -> tuple[dict[str, Any], dict[str, Any]]:
        """State by name, and how it lies on the mesh."""
        named = self._named()
        names = {id(parameter): name for name, parameter, _, _ in named}
        state: dict[str, Any] = {name: {} for name, p, *_ in named if any(p in part.optimizer.state for part in found)}
        placed: dict[str, Any] = {}
        for parameter, key, value in (entry for part in found for entry in part.entries()):
            if id(parameter) not in names:
                raise self._refusal(f"it keeps {key!r} for a parameter that is in none of its groups")
            name = names[id(parameter)]
            state[name][key] = value
            try:
                texts = placing(value, parameter)
            except ValueError as error:
                raise self._refusal(f"{key!r} of {name} is {error}") from error
            if texts:
                placed.setdefault(name, {})[key] = texts
        return state, placed

    def _unnamed(self, found: Sequence[Part]) -> dict[str, Any]:
        shared = {key: value for part in found for key, value in part.shared().items()}
        if cut := [key for key, value in shared.items() if any(map(is_dtensor, tree_leaves(value)))]:
            raise self._refusal(f"{cut[0]!r} in its `state` is a DTensor that belongs to no parameter")
        return {"shared": shared, "own": only_own(self.optimizer)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        options, empty, own = state_dict["options"], state_dict.get("empty", {}), state_dict.get("own")
        join(self.optimizer, self._named(), options, empty, self._joining(options))
        put_options(self.optimizer, self._named(), options)
        put_empty(self.optimizer, empty)
        later = [int(number) for number, of in empty.items() if of.get("joined")]
        self._first_groups = min([self._first_groups, *later])
        self._first -= {id(one) for name, one, _, _ in self._named() if options.get(name, {}).get("joined")}
        self._put(state_dict)
        if own:
            put_own(self.optimizer, own)
            self._put(state_dict)
            check_own(self.optimizer, own)

    def _put(self, state_dict: Mapping[str, Any]) -> None:
        found, named = parts(self.optimizer), self._named()
        prefixes = [part.prefix for part in found]
        shared = split(state_dict.get("shared", {}), prefixes)
        of: dict[str, dict[torch.Tensor, Any]] = {prefix: {} for prefix in prefixes}
        for name, parameter, group, _ in named:
            texts = state_dict.get("placed", {}).get(name, {})
            if name in state_dict["state"]:
                saved = state_dict["state"][name]
                made = {k: place(v, parameter, texts.get(k, ()), _moved(k, group)) for k, v in saved.items()}
                for prefix, items in split(made, prefixes).items():
                    if items or not made:
                        of[prefix][parameter] = items
        for part in found:
            part.put(of[part.prefix], shared[part.prefix])

    def _homes(self) -> dict[int, str]:
        """id of a parameter -> the key of its model."""
        return {one: model.key for model in self.models for one in model.names()}

    def _of_models(self) -> dict[str, torch.Tensor]:
        """All parameters of the models, by the names that they have or would have in the optimizer."""
        named = self._named()
        return parameters_by_name(self.models, [one for _, one, *_ in named]) | {name: one for name, one, *_ in named}

    def _joining(self, options: Options) -> dict[str, torch.Tensor]:
        return joining(options, self._of_models(), self._named(), self._homes())

    def target_layout(self) -> Any:
        """What a saved state is placed like: each tensor of a parameter's state like the parameter."""
        state = {name: _Everything(parameter) for name, parameter in self._of_models().items()}
        return {"state": state, "options": self._options(), **self._unnamed(parts(self.optimizer))}

    def accepts(self) -> Callable[[Keys], bool]:
        """Whether this rank takes the item of a saved state that has these keys; the options of all parameters, because
        they say which joined later.
        """
        live = {*self._of_models()}
        return lambda keys: len(keys) != 2 or keys[0] not in ("state", "placed") or keys[1] in live

    def differences(self, state: dict[str, Any]) -> StateDiff:
        if not {"state", "options"} <= set(state):
            return StateDiff(mismatched=["what was saved is no optimizer's state by parameter names"])
        options, free = state["options"], self._of_models()
        new = self._joining(options)
        later = [(parameter, options[name]["group"]) for name, parameter in new.items()]
        numbers = {name: number for name, _, _, number in self._named(later)}
        elsewhere = {name for model in self.models for name in model.names_elsewhere}
        found = StateDiff(hints(sorted(numbers.keys() - set(options)), options))
        unknown = [name for name in options if name not in numbers and name not in elsewhere]
        found.unexpected = hints([name for name in unknown if name not in free], numbers)
        found.unexpected += [
            f"{name}, which is in no group here; add it before the load" for name in unknown if name in free
        ]
        found.unexpected += lost_empty(self.optimizer, self._named(), options, state.get("empty", {}), new)
        wrong = wrong_groups(self.optimizer, self._named(), numbers, options)
        found.mismatched = [*self._wrong_inside(state, numbers), *wrong, *self._unplaced(state)]
        return found

    def _wrong_inside(self, state: Mapping[str, Any], numbers: Mapping[str, int]) -> Iterator[str]:
        there, live = state.get("kind", {}), kinds(self.optimizer)
        for prefix in [prefix for prefix in live if there.get(prefix, live[prefix]) != live[prefix]]:
            yield (
                f"{prefix.rstrip('.') or 'it'} was saved by {there[prefix]}, here it is {live[prefix]}; leave it as it "
                "was built with resume_skip=[optimizer] (library: skip=[...])"
            )
        saved, here = state.get("inner", []), [part.prefix for part in parts(self.optimizer)[1:]]
        if saved != here:
            text = [", ".join(prefix.rstrip(".") for prefix in prefixes) or "none" for prefixes in (saved, here)]
            yield f"an optimizer with others inside it was saved ({text[0]}), here they are {text[1]}"
        places = [(name, options["group"]) for name, options in state["options"].items()]
        if "own" in state and sorted(places, key=_second) != sorted(numbers.items(), key=_second):
            yield (
                f"{', '.join(state['own'])} of the saved {type(self.optimizer).__name__} cannot be re-cut: it is known "
                "to nothing but its own state_dict(), and goes with the same parameters in the same groups"
            )

    def _unplaced(self, state: Mapping[str, Any]) -> Iterator[str]:
        """What was saved on another mesh, and cannot be cut for this one."""
        for name, parameter in self._of_models().items():
            texts = state.get("placed", {}).get(name, {})
            for key, value in state["state"].get(name, {}).items():
                for why in unplaced(value, parameter, texts.get(key, ())):
                    yield (
                        f"{name}: {key!r} of {type(self.optimizer).__name__} cannot be re-cut: {why}; resume on the "
                        "mesh of the checkpoint, or with resume_skip=[optimizer]"
                    )

    def sharing_traits(self) -> SharingTraits:
        models = [model.sharing_traits() for model in self.models]
        return models[0] if models else PLAIN_OBJECT

    def _refusal(self, why: str) -> UnsupportedStateError:
        return UnsupportedStateError(f"{type(self.optimizer).__name__} cannot be stored: {why}")


class _Everything(Mapping[str, Any]):
    """A mapping that has the same value under every key."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getitem__(self, key: str) -> Any:
        return self._value

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _moved(name: Any, group: Mapping[str, Any]) -> bool:
    """Whether it goes to the parameter's device: all but the step counter, unless the group wants it there."""
    return str(name).rpartition(".")[2] != "step" or bool(group.get("capturable") or group.get("fused"))


def _second(pair: tuple[str, int]) -> int:
    return pair[1]
