"""What is wrong with a `_target_` node, without building it: the import path, and the keys against its signature."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from dcp_runner.common.suggest import did_you_mean

_RESERVED = {"_target_", "_args_", "_partial_", "_recursive_", "_convert_"}
_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class _NoSuchModule(LookupError):
    """The module itself is missing, not one that it imports."""


def locate(path: str) -> Any:
    """The object at an import path, as `torch.optim.AdamW`.

    Raises:
        LookupError: there is none; the text says which part of the path is missing, and the nearest name.
    """
    first, *rest = path.split(".")
    if not path or not all(part.isidentifier() for part in (first, *rest)):
        raise LookupError(f"not an import path (found {path!r}); expected package.module.Name")
    found = _module(first)
    for done, part in enumerate(rest, start=1):
        parent = ".".join([first, *rest[: done - 1]])
        if not hasattr(found, part) and hasattr(found, "__path__"):
            with suppress(_NoSuchModule):
                _module(f"{parent}.{part}")  # a submodule that is not imported yet
        if not hasattr(found, part):
            near = did_you_mean(part, dir(found), below=f"{parent}.")
            raise LookupError(f"{parent} has no {part!r}{near}")
        found = getattr(found, part)
    return found


def node_problems(where: str, node: Mapping[str, Any], *, given: Sequence[str] = ()) -> Iterator[str]:
    """What is wrong with a `_target_` node at `where`, and with such nodes inside it.

    `given` are arguments that the program passes by position, as an optimizer's parameters.
    """
    for key, value in node.items():
        for path, inner in _nodes_inside(f"{where}.{key}", value):
            yield from node_problems(path, inner)
    if "_target_" not in node:
        yield f"{where}: missing `_target_`: give the import path of the class to build"
        return
    try:
        target = locate(str(node["_target_"]))
    except LookupError as error:
        yield f"{where}._target_={node['_target_']}: {error.args[0]}"
        return
    if not callable(target):
        yield f"{where}._target_={node['_target_']}: is a {type(target).__name__}, which is not callable"
        return
    positional = [*given, *node.get("_args_", ())]
    keys = [str(key) for key in node if key not in _RESERVED]
    yield from signature_problems(where, target, keys, len(positional), complete=not node.get("_partial_"))


def signature_problems(
    where: str, target: Any, keys: Sequence[str], positional: int = 0, *, complete: bool = True
) -> Iterator[str]:
    """Keys that `target` does not take, and, if `complete`, arguments that it needs and does not get."""
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # some built-in functions have no signature
        return
    name = getattr(target, "__name__", str(target))
    taken = [p.name for p in parameters.values() if p.kind in _BY_POSITION][:positional]
    free = [p.name for p in parameters.values() if p.kind in _BY_KEYWORD and p.name not in taken]
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        for key in keys:
            if key not in free:
                near = did_you_mean(key, free, below=f"{where}.")
                yield f"{where}.{key}: {name} takes no {key!r}" + (near or f"; it takes {', '.join(free) or 'none'}")
    for parameter in parameters.values():
        needed = parameter.kind in (*_BY_POSITION, *_BY_KEYWORD) and parameter.default is inspect.Parameter.empty
        if complete and needed and parameter.name not in taken and parameter.name not in keys:
            yield f"{where}.{parameter.name}: missing; {name} requires it"


def _nodes_inside(where: str, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield where, value
        else:
            for key, item in value.items():
                yield from _nodes_inside(f"{where}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _nodes_inside(f"{where}[{index}]", item)


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise _NoSuchModule(f"no module named {name!r} can be imported from here") from error
        raise LookupError(f"importing {name} fails: {error}") from error
