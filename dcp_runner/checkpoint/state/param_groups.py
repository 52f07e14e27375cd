"""The groups of an optimizer: their options, stored for each parameter, and the parameters that join them later."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from dcp_runner.checkpoint.state.nested_optimizers import parts, split

log = logging.getLogger(__name__)

Named = tuple[str, torch.Tensor, dict[str, Any], int]
"""(name, parameter, group, number of the group)."""
Options = Mapping[str, Mapping[str, Any]]
"""By name of a parameter."""
_BESIDE = ("group", "joined")
"""Stored with a parameter's options: the number of its group; and, if it was added after the beginning, the key of its
model, or True in older checkpoints and for a parameter of no model.
"""


def stored_options(
    optimizer: Optimizer, named: Sequence[Named], first: Collection[int], homes: Mapping[int, str]
) -> dict[str, dict[str, Any]]:
    """The options of each parameter; `first` are the ids of those that were there at the beginning, `homes` the keys
    of their models.
    """
    inside, options = _groups_inside(optimizer), {}
    for name, parameter, group, number in named:
        options[name] = _options(group) | {"group": number}
        options[name] |= {} if id(parameter) in first else {"joined": homes.get(id(parameter), True)}
        for prefix, other in inside.get(id(parameter), ()):
            options[name] |= {f"{prefix}{key}": value for key, value in _options(other).items()}
    return options


def put_options(optimizer: Optimizer, named: Sequence[Named], options: Options) -> None:
    """Give the groups the stored options of their parameters."""
    inside, prefixes = _groups_inside(optimizer), _prefixes(optimizer)
    for name, parameter, group, _ in named:
        saved = _by_prefix(prefixes, options.get(name, {}))
        for prefix, of in (("", group), *inside.get(id(parameter), ())):
            of.update(saved[prefix])


def stored_empty(optimizer: Optimizer, first: int) -> dict[str, dict[str, Any]]:
    """By number, the options of groups without parameters; the `first` groups were there at the beginning."""
    empty = {number: group for number, group in enumerate(optimizer.param_groups) if not group["params"]}
    return {str(n): _options(group) | ({} if n < first else {"joined": True}) for n, group in empty.items()}


def put_empty(optimizer: Optimizer, empty: Options) -> None:
    """Give the groups without parameters the stored options of those of their numbers."""
    for number, group in enumerate(optimizer.param_groups):
        if not group["params"]:
            group.update(_own(optimizer, empty.get(str(number), {})))


def lost_empty(
    optimizer: Optimizer, named: Sequence[Named], options: Options, empty: Options, new: Collection[str]
) -> Iterator[str]:
    """The stored groups without parameters that are none here, and will be none when the `new` parameters join."""
    added, groups = _added(optimizer, named, options, empty, new), optimizer.param_groups
    for number in sorted(map(int, empty.keys() - {str(of["group"]) for of in options.values()})):
        if number < len(groups) and groups[number]["params"]:
            yield f"group {number}, which has no parameters there and has some here"
        elif number >= len(groups) and number not in added:
            yield f"group {number}, which has no parameters there and is not here; add it before the load"


def wrong_groups(
    optimizer: Optimizer, named: Sequence[Named], numbers: Mapping[str, int], options: Options
) -> Iterator[str]:
    """Parameters that were stored with different options, and are in one group here, those of these numbers."""
    inside, prefixes = _groups_inside(optimizer), _prefixes(optimizer)
    groups: dict[tuple[str, int], list[str]] = {}
    for name, number in numbers.items():
        groups.setdefault(("", number), []).append(name)
    for name, parameter, _, _ in named:
        for prefix, group in inside.get(id(parameter), ()):
            groups.setdefault((prefix, id(group)), []).append(name)
    for (prefix, _), names in groups.items():
        known = [name for name in names if name in options]
        for name in known[1:]:
            mine, other = (_by_prefix(prefixes, options[one])[prefix] for one in (name, known[0]))
            changed = sorted(key for key in mine.keys() | other.keys() if not _equal(mine.get(key), other.get(key)))
            if changed:
                yield f"{name} and {known[0]} are in one group here, and were saved with different {changed}"


def joining(
    options: Options, free: Mapping[str, torch.Tensor], named: Sequence[Named], homes: Mapping[int, str]
) -> dict[str, torch.Tensor]:
    """Those of the free parameters that are in no group here, and were added to one after the beginning there.

    Where the checkpoint does not say of which model it was, only models that are trained here come into question.
    """
    live = {id(parameter) for _, parameter, _, _ in named}
    trained = {homes[one] for one in live if one in homes} or {*homes.values()}
    found = {name: free[name] for name, its in options.items() if its.get("joined") and name in free}
    of = {name: {options[name]["joined"]} - {True} or trained for name in found}
    return {name: one for name, one in found.items() if id(one) not in live and homes[id(one)] in of[name]}


def join(
    optimizer: Optimizer, named: Sequence[Named], options: Options, empty: Options, new: Mapping[str, torch.Tensor]
) -> None:
    """Add these parameters to the groups that they were in, and before them the groups without parameters."""
    added = _added(optimizer, named, options, empty, new)
    for number in sorted({options[name]["group"] for name in new} | added):
        if number in added:
            optimizer.add_param_group({"params": [], **_own(optimizer, empty[str(number)])})
            continue
        names = [name for name in new if options[name]["group"] == number]
        parameters = [new[name].requires_grad_() for name in names]
        log.info("%s: as in the checkpoint, joining the optimizer's group %d", ", ".join(names), number)
        if number < len(optimizer.param_groups):
            optimizer.param_groups[number]["params"] += parameters
        else:
            optimizer.add_param_group({"params": parameters, **_own(optimizer, options[names[0]])})


def _added(
    optimizer: Optimizer, named: Sequence[Named], options: Options, empty: Options, new: Collection[str]
) -> set[int]:
    """The stored groups without parameters to be added here: those that were added there, and those before others.

    One that is empty on some ranks only is not added where its parameters are.
    """
    last = max((options[name]["group"] for name in new), default=-1)
    filled = {options[name]["group"] for name in {*new, *(name for name, *_ in named)} & options.keys()}
    wanted = {int(number) for number, of in empty.items() if of.get("joined") or int(number) < last}
    return {number for number in wanted - filled if number >= len(optimizer.param_groups)}


def _groups_inside(optimizer: Optimizer) -> dict[int, list[tuple[str, dict[str, Any]]]]:
    """By id of a parameter (prefix, group) in optimizers inside, of groups that are not the outermost one's too."""
    own = [id(group) for group in optimizer.param_groups]
    found: dict[int, list[tuple[str, dict[str, Any]]]] = {}
    for part in parts(optimizer)[1:]:
        for group in (group for group in part.optimizer.param_groups if id(group) not in own):
            for parameter in group["params"]:
                found.setdefault(id(parameter), []).append((part.prefix, group))
    return found


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _prefixes(optimizer: Optimizer) -> list[str]:
    return [part.prefix for part in parts(optimizer)]


def _by_prefix(prefixes: Sequence[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A parameter's options in the optimizer and in those inside it."""
    return split({key: value for key, value in options.items() if key not in _BESIDE}, prefixes)


def _own(optimizer: Optimizer, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of these options, those of the outermost optimizer."""
    return _by_prefix(_prefixes(optimizer), options)[""]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    return type(one) is type(other) and bool(one == other)
