"""The param groups of an optimizer: their options by parameter name, and the parameters that joined them later.

Stored are, for each parameter, the options of its group (`lr` and so on), the index of the group under "group", and for
one that was added after the optimizer was made "joined": the key of its model (True for a parameter of no model, and in
older checkpoints). The options of groups without parameters are stored by the group's index.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from dcp_runner.checkpoint.state.optim.nested_optimizers import nested_optimizers, split_by_prefix
from dcp_runner.checkpoint.state.optim.param_names import ParamNames
from dcp_runner.checkpoint.stateful import StateDiff
from dcp_runner.common.suggest import hints

log = logging.getLogger(__name__)

Options = Mapping[str, Mapping[str, Any]]
"""Options by the name of a parameter, or by the index of a group without parameters."""


class ParamGroups:
    """The groups of an optimizer, with their options as stored in a checkpoint.

    An optimizer inside it (see nested_optimizers.py) may have groups of its own; their options have its prefix.
    """

    def __init__(self, names: ParamNames) -> None:
        self.names = names
        self.optimizer = names.optimizer
        self._initial_params = {id(named.param) for named in names.grouped()}
        self._initial_groups = len(self.optimizer.param_groups)

    def options(self) -> dict[str, dict[str, Any]]:
        """What is stored for each parameter."""
        inner, homes, found = self._inner_groups(), self.names.model_keys(), {}
        for name, param, group, index in self.names.grouped():
            found[name] = _options(group) | {"group": index}
            if id(param) not in self._initial_params:
                found[name]["joined"] = homes.get(id(param), True)
            for prefix, inner_group in inner.get(id(param), ()):
                found[name] |= {f"{prefix}{key}": value for key, value in _options(inner_group).items()}
        return found

    def empty_options(self) -> dict[str, dict[str, Any]]:
        """What is stored for each group without parameters."""
        return {
            str(index): _options(group) | ({"joined": True} if index >= self._initial_groups else {})
            for index, group in enumerate(self.optimizer.param_groups)
            if not group["params"]
        }

    def load(self, options: Options, empty: Options) -> None:
        """Add the parameters and groups that joined, and set the options of all groups."""
        self._add_joined(options, empty)
        inner = self._inner_groups()
        for name, param, group, _ in self.names.grouped():
            saved = self._by_prefix(options.get(name, {}))
            for prefix, its_group in (("", group), *inner.get(id(param), ())):
                its_group.update(saved[prefix])
        for index, group in enumerate(self.optimizer.param_groups):
            if not group["params"]:
                group.update(self._by_prefix(empty.get(str(index), {}))[""])
        joined_groups = [int(index) for index, saved in empty.items() if saved.get("joined")]
        self._initial_groups = min([self._initial_groups, *joined_groups])
        joined = {id(named.param) for named in self.names.grouped() if options.get(named.name, {}).get("joined")}
        self._initial_params -= joined

    def indices_after_load(self, options: Options) -> dict[str, int]:
        """Name of a parameter -> index of its group, counting those that a load would add."""
        joining = [(param, options[name]["group"]) for name, param in self._joining(options).items()]
        return {named.name: named.group_index for named in self.names.grouped(joining)}

    def differences(self, options: Options, empty: Options) -> StateDiff:
        """How stored options differ from the groups that they would be loaded into."""
        indices, available = self.indices_after_load(options), self.names.available()
        elsewhere = {name for model in self.names.models for name in model.names_elsewhere}
        unknown = [name for name in options if name not in indices and name not in elsewhere]
        found = StateDiff(hints(sorted(indices.keys() - set(options)), options))
        found.unexpected = hints([name for name in unknown if name not in available], indices)
        found.unexpected += [
            f"{name}, which is in no group here; add it before the load" for name in unknown if name in available
        ]
        found.unexpected += self._unplaceable_empty_groups(options, empty)
        found.mismatched = list(self._conflicting_options(indices, options))
        return found

    def _unplaceable_empty_groups(self, options: Options, empty: Options) -> Iterator[str]:
        """Stored groups without parameters for which there is no such group, now or after the load."""
        added, groups = self._empty_groups_to_add(options, empty), self.optimizer.param_groups
        for index in sorted(map(int, empty.keys() - {str(saved["group"]) for saved in options.values()})):
            if index < len(groups) and groups[index]["params"]:
                yield f"group {index}, which is empty in the checkpoint and has parameters here"
            elif index >= len(groups) and index not in added:
                yield f"group {index}, which is empty in the checkpoint and does not exist here; add it before the load"

    def _conflicting_options(self, indices: Mapping[str, int], options: Options) -> Iterator[str]:
        """Parameters of one group here that were saved with different options."""
        groups: dict[tuple[str, int], list[str]] = {}
        for name, index in indices.items():
            groups.setdefault(("", index), []).append(name)
        inner = self._inner_groups()
        for named in self.names.grouped():
            for prefix, group in inner.get(id(named.param), ()):
                groups.setdefault((prefix, id(group)), []).append(named.name)
        for (prefix, _), names in groups.items():
            first, *others = [name for name in names if name in options] or [""]
            for name in others:
                a, b = (self._by_prefix(options[each])[prefix] for each in (name, first))
                if changed := sorted(key for key in a.keys() | b.keys() if not _equal(a.get(key), b.get(key))):
                    yield f"{name} and {first} are in one group here, but were saved with different {changed}"

    def _joining(self, options: Options) -> dict[str, torch.Tensor]:
        """The parameters that had joined when the checkpoint was saved, and are in no group here.

        If the checkpoint does not say which model such a parameter was of, only models with parameters in the optimizer
        are searched for it.
        """
        available, homes = self.names.available(), self.names.model_keys()
        in_groups = {id(named.param) for named in self.names.grouped()}
        trained = {homes[param] for param in in_groups if param in homes} or {*homes.values()}
        joined = {name: saved["joined"] for name, saved in options.items() if saved.get("joined") and name in available}
        return {
            name: param
            for name, model in joined.items()
            if id(param := available[name]) not in in_groups
            and homes[id(param)] in (trained if model is True else {model})
        }

    def _add_joined(self, options: Options, empty: Options) -> None:
        joining, added = self._joining(options), self._empty_groups_to_add(options, empty)
        for index in sorted({options[name]["group"] for name in joining} | added):
            if index in added:
                self.optimizer.add_param_group({"params": [], **self._by_prefix(empty[str(index)])[""]})
                continue
            names = [name for name in joining if options[name]["group"] == index]
            params = [joining[name].requires_grad_() for name in names]
            log.info("%s: added to param group %d of the optimizer, as in the checkpoint", ", ".join(names), index)
            if index < len(self.optimizer.param_groups):
                self.optimizer.param_groups[index]["params"] += params
            else:
                self.optimizer.add_param_group({"params": params, **self._by_prefix(options[names[0]])[""]})

    def _empty_groups_to_add(self, options: Options, empty: Options) -> set[int]:
        """The indices of stored groups without parameters that a load adds: those that had joined, and those before
        a group that a parameter joins.

        A group that is empty only on some ranks is not added on those that have its parameters.
        """
        joining = self._joining(options)
        last = max((options[name]["group"] for name in joining), default=-1)
        held = {*joining, *(named.name for named in self.names.grouped())} & options.keys()
        filled = {options[name]["group"] for name in held}
        wanted = {int(index) for index, saved in empty.items() if saved.get("joined") or int(index) < last}
        return {index for index in wanted - filled if index >= len(self.optimizer.param_groups)}

    def _inner_groups(self) -> dict[int, list[tuple[str, dict[str, Any]]]]:
        """id of a parameter -> (prefix, group) of its groups in inner optimizers, unless the outer one shares them."""
        outer = [id(group) for group in self.optimizer.param_groups]
        found: dict[int, list[tuple[str, dict[str, Any]]]] = {}
        for nested in nested_optimizers(self.optimizer)[1:]:
            for group in (group for group in nested.optimizer.param_groups if id(group) not in outer):
                for param in group["params"]:
                    found.setdefault(id(param), []).append((nested.prefix, group))
        return found

    def _by_prefix(self, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Stored options as those of the optimizer (with the empty prefix) and of each one inside it."""
        prefixes = [nested.prefix for nested in nested_optimizers(self.optimizer)]
        return split_by_prefix({k: v for k, v in options.items() if k not in ("group", "joined")}, prefixes)


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype
    return type(a) is type(b) and bool(a == b)
