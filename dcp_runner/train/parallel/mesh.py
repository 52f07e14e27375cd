"""The device mesh that a rank belongs to, for torch's parallel wrappers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from dcp_runner.checkpoint.topology import Topology

REPLICATED_ACTIVATIONS = ("tp",)
"""Mesh axes along which activations are replicated, so that dropout must draw the same numbers on all ranks."""


@dataclass(frozen=True)
class RankMesh:
    """The device of a rank, and the device mesh that the rank belongs to."""

    device: torch.device
    mesh: DeviceMesh | None = None
    """All axes with a degree above 1, named and ordered as in the topology; None: there is one rank."""

    def along(self, *axes: str) -> DeviceMesh | None:
        """The submesh along those of the axes that the mesh has; None if it has none of them."""
        names = self.mesh.mesh_dim_names or () if self.mesh is not None else ()
        present = tuple(name for name in names if name in axes)
        return self.mesh[present] if self.mesh is not None and present else None


def rank_mesh(topology: Topology, device: torch.device) -> RankMesh:
    """The mesh of this rank; all ranks call it. On the meta device the process group may be a fake one."""
    if topology.world_size == 1:
        return RankMesh(device)
    device_type = "cpu" if device.type == "meta" else device.type
    shape, names = tuple(topology.mesh.values()), tuple(topology.mesh)
    return RankMesh(device, init_device_mesh(device_type, shape, mesh_dim_names=names))


def random_stream(topology: Topology, rank: int) -> int:
    """The number of the random stream that a rank draws from: different for every rank, but equal for ranks that differ
    only along axes with replicated activations.
    """
    return topology.index(rank, [axis for axis in topology.mesh if axis not in REPLICATED_ACTIVATIONS])[0]
