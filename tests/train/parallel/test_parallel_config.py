"""The degrees of a topology, in the order of the mesh."""

from __future__ import annotations

from dcp_runner.checkpoint.topology import AXES
from dcp_runner.run.build import topology_of
from dcp_runner.train.parallel.config import ParallelConfig


def test_degrees_are_in_mesh_order_and_their_product_is_the_world_size() -> None:
    parallel = ParallelConfig(tp=2, fsdp=3, pp=5)
    assert [*parallel.degrees.items()] == [("pp", 5), ("dp", 1), ("fsdp", 3), ("tp", 2)]
    assert tuple(parallel.degrees) == AXES and parallel.world_size == 30
    assert parallel.data_parallel_size == 3
    assert topology_of(parallel).mesh == {"pp": 5, "fsdp": 3, "tp": 2}
