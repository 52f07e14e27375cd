"""The library under the real torchrun, on two "nodes" of this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from where import SUPPORT

SCRIPT = SUPPORT / "torchrun_script.py"
EXAMPLE = Path(__file__).parents[2] / "examples" / "plain_torchrun.py"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_script_under_torchrun_needs_no_more_than_the_library(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    agents = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nnodes=2",
                "--nproc-per-node=2",
                f"--node-rank={node}",
                "--master-addr=127.0.0.1",
                f"--master-port={port}",
                str(SCRIPT),
                str(tmp_path),
            ],
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    try:
        outputs = [agent.communicate(timeout=150)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(outputs)
    for rank in range(4):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        assert (told["world"], told["axes"], told["nodes"]) == (4, {"pp": 2, "dp": 2}, [[0, 1], [2, 3]])
        assert (told["step"], told["saved"]) == (5, "checkpoint-5")
        assert told["stage"] == [rank // 2] * 3 and told["progress"] == [7] * 3
        assert told["cache"] == [rank // 2 * 2] * 3


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_example_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    for ranks, steps in ((2, [50, 100]), (3, [50, 100, 150, 200])):
        subprocess.run(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={ranks}",
                str(EXAMPLE),
                str(tmp_path),
            ],
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            check=True,
            timeout=80,
        )
        found = {int(path.name.split("-")[1]): path for path in tmp_path.glob("checkpoint-*")}
        assert sorted(found) == steps
        assert json.loads((found[steps[-1]] / "checkpoint_manifest.json").read_text())["world_size"] == ranks
