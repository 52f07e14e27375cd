"""What of a checkpoint does not fit the live components. Opens files, and reads no tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.errors import IntegrityError, MismatchError
from dcp_runner.checkpoint.files.manifest import ComponentRecord
from dcp_runner.checkpoint.files.opened import OpenedCheckpoint
from dcp_runner.checkpoint.loading.pending import PendingLoad, open_component
from dcp_runner.checkpoint.loading.request import LoadRequest
from dcp_runner.common.suggest import did_you_mean, hint


def compare(
    bound: Sequence[BoundComponent], checkpoint: OpenedCheckpoint, request: LoadRequest
) -> tuple[list[PendingLoad], list[str]]:
    """Where the state of each component is, and the differences that are accepted.

    Raises MismatchError that lists everything that does not fit, IntegrityError, FileAccessError.
    """
    keys = [component.key for component in bound]
    problems = _unknown(request, keys)
    unused, accepted = _unused(checkpoint.manifest.components, keys)
    tolerable = [*unused]
    pending = []
    for component in bound:
        try:
            pending.append(_open(component, checkpoint, request))
            found, unreadable = pending[-1].differences(), pending[-1].unreadable()
        except IntegrityError:
            raise
        except ValueError as error:
            problems.append(f"component {component.key!r}: {error}")
            continue
        accepted += [f"{component.key}: {line}" for line in found.accepted]
        tolerable += [f"{component.key}: missing in the checkpoint: {line}" for line in found.missing]
        tolerable += [f"{component.key}: unexpected in the checkpoint: {line}" for line in found.unexpected]
        problems += [f"{component.key}: {line}" for line in (*found.mismatched, *unreadable)]
    if problems or (request.strict and tolerable):
        lines = "".join(f"\n    {line}" for line in (*problems, *(tolerable if request.strict else ())))
        raise MismatchError(f"{checkpoint.folder.name} does not fit:{lines}")
    return pending, accepted + tolerable


def _unknown(request: LoadRequest, keys: Sequence[str]) -> list[str]:
    named = {"skip": request.skip, "reset": request.fresh}
    return [
        f"there is no component {key!r} to {what}{did_you_mean(key, keys)}"
        for what, wanted in named.items()
        for key in wanted
        if key not in keys
    ]


def _unused(saved: Mapping[str, ComponentRecord], keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of the saved components that no live one takes: those that must not be lost, and those that may."""
    lost = {key: record.required for key, record in saved.items() if key not in keys}
    required = [
        f"the checkpoint has a component {hint(key, keys)} that this run does not have (strict=False drops it)"
        for key, needed in lost.items()
        if needed
    ]
    return required, [f"{key} is not here: its state is dropped" for key, needed in lost.items() if not needed]


def _open(component: BoundComponent, checkpoint: OpenedCheckpoint, request: LoadRequest) -> PendingLoad:
    key, saved = component.key, checkpoint.manifest.components
    if key in request.skip:
        return PendingLoad(component, "unchanged (skipped)")
    if key not in saved:
        if component.component.required:
            raise ValueError(f"component {hint(key, saved)} is not in the checkpoint")
        return PendingLoad(component, "unchanged (not in the checkpoint)")
    return PendingLoad(component, "fresh") if key in request.fresh else open_component(component, checkpoint)
