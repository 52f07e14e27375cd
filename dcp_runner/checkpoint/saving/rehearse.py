"""A rehearsal of a save: everything that a save checks, but for the bytes of the tensors; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.digest import TensorDigest, digest_tensor, dtype_name
from dcp_runner.checkpoint.saving.prepare import PreparedComponent, prepare_components, stage
from dcp_runner.checkpoint.saving.verify_holders import verify
from dcp_runner.checkpoint.state.modules import ModelState
from dcp_runner.checkpoint.sync.comm import Comm


def rehearse(bound: Sequence[BoundComponent], comm: Comm) -> None:
    """Take all states apart, and compare the holders of each copy by names, shapes and what is no tensor.

    Called by all ranks. Raises CheckpointError on all living ranks, as the save would.
    """
    staged = stage(bound, comm.agree("plan", lambda: prepare_components(bound)), comm)
    for part in staged:
        part.digests = _shapes(part)
    verify(staged, comm)


def _shapes(staged: PreparedComponent) -> dict[str, TensorDigest]:
    """Digests of dtypes and shapes alone. A single number is digested in full, because it may equal a Python number
    elsewhere; but not a module's, whose buffers a save may settle first.
    """
    settled = isinstance(staged.bound.stateful, ModelState)
    return {
        name: digest_tensor(tensor)
        if tensor.ndim == 0 and not settled
        else TensorDigest((), f"{dtype_name(tensor)} {tuple(tensor.shape)}")
        for name, tensor in staged.flat.tensors.items()
    }
