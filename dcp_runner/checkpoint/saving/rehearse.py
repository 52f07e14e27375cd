"""A rehearsal of a save: everything that a save checks except the bytes of tensors. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.digest import TensorDigest, digest_tensor, dtype_name
from dcp_runner.checkpoint.saving.prepare import PreparedComponent, flatten_states, plan_parts
from dcp_runner.checkpoint.saving.verify_holders import verify
from dcp_runner.checkpoint.state.modules import ModelState
from dcp_runner.checkpoint.sync.comm import Comm


def rehearse(bound: Sequence[BoundComponent], comm: Comm) -> None:
    """Flatten all states, and compare the holders of each copy by names, shapes and all that is not a tensor.

    Called by all ranks. Raises CheckpointError on all living ranks, as the save would.
    """
    prepared = plan_parts(bound, comm.agree("plan", lambda: flatten_states(bound)), comm)
    for component in prepared:
        component.digests = _shapes(component)
    verify(prepared, comm)


def _shapes(component: PreparedComponent) -> dict[str, TensorDigest]:
    """Digests of dtypes and shapes alone. A single number is digested in full, because it may equal a Python number
    elsewhere; but not a module's, because a save may synchronise its buffers first.
    """
    settled = isinstance(component.bound.stateful, ModelState)
    return {
        name: digest_tensor(tensor)
        if tensor.ndim == 0 and not settled
        else TensorDigest((), f"{dtype_name(tensor)} {tuple(tensor.shape)}")
        for name, tensor in component.flat.tensors.items()
    }
