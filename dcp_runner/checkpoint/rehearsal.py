"""A rehearsal of a save: everything that a save checks, but for the bytes of the tensors; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence

from dcp_runner.checkpoint.bind import Bound
from dcp_runner.checkpoint.comm import Comm
from dcp_runner.checkpoint.digest import TensorDigest, digest_tensor, dtype_name
from dcp_runner.checkpoint.modules import ModelState
from dcp_runner.checkpoint.staging import Staged, stage, take_apart
from dcp_runner.checkpoint.verify import verify


def rehearse(bound: Sequence[Bound], comm: Comm) -> None:
    """Take all states apart, and compare the holders of each copy by names, shapes and what is no tensor.

    Called by all ranks. Raises CheckpointError on all living ranks, as the save would.
    """
    staged = stage(bound, comm.agree("plan", lambda: take_apart(bound)), comm)
    for part in staged:
        part.digests = _shapes(part)
    verify(staged, comm)


def _shapes(staged: Staged) -> dict[str, TensorDigest]:
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
