"""A training loop of your own with checkpoints from dcp_runner, without Hydra:

    torchrun --standalone --nproc-per-node 2 examples/plain_torchrun.py runs/plain

Start it again and it resumes, also with a different number of ranks.
"""

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from dcp_runner import CheckpointCoordinator, RngState, StateComponent, Topology

dist.init_process_group("gloo")
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
torch.manual_seed(dist.get_rank())  # from here on each rank draws its own random numbers
components = [
    StateComponent("model", model),  # wrapped in DDP, so replicated: checked, and written once
    StateComponent("optimizer", optimizer),
    StateComponent("rng", RngState(), on_missing_copy="fresh"),  # one per rank
]
coordinator = CheckpointCoordinator(components, Topology.from_env(dp=-1), sys.argv[1], validation="tensor")
start = coordinator.load("latest").step if coordinator.latest() else 0
for step in range(start + 1, start + 101):
    inputs = torch.randn(32, 8)
    loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        path = coordinator.save(step, metrics={"loss": loss.item()})
        print(f"rank {dist.get_rank()}: step {step}, loss {loss.item():.4f}, saved {path}")
dist.destroy_process_group()
