"""A small GPT on real text, and all topologies that it is trained under in these tests."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

from dcp_runner.checkpoint.topology import AXES
from dcp_runner.data.stdlib import StdlibBytes

text = cache(StdlibBytes)
"""Read once, before the ranks are forked."""

BASE: dict[str, Any] = {
    "model": {
        "_target_": "dcp_runner.models.gpt.GPT",
        "vocab_size": 256,
        "context": 16,
        "layers": 4,
        "heads": 4,
        "width": 16,
        "tied": False,
    },
    "data__train": {"_target_": "topologies.text", "split": "train", "context": 16},
    "data__eval": {"_target_": "topologies.text", "split": "eval", "context": 16, "limit_mb": 0.1},
    "data__batch_size": 16,
    "trainer__max_steps": 3,
    "trainer__eval_every": 2,
    "trainer__eval_samples": 37,  # the parts differ in size, and the last batch of a part is short
    "trainer__clip_norm": 0.5,  # below all norms, so that a wrong one shows in the losses too
    "checkpoint__every_steps": None,
    "checkpoint__at_end": False,
}
STRATEGIES = "dcp_runner.train.parallel."


def topology(strategy: str, options: dict[str, Any] | None = None, **degrees: int) -> dict[str, Any]:
    return {"strategy": STRATEGIES + strategy, "options": options or {}, **degrees}


ACCELERATE = "accelerate.Accelerate"


def within(strategy: str) -> dict[str, Any]:
    return {"stage": STRATEGIES + strategy}


DDP, FSDP, TP, PP = "ddp.DataParallel", "fsdp.FullyShard", "tensor.TensorParallel", "pipeline.Pipeline"
QUICK = {
    "ddp-2": topology(DDP, dp=2),
    "accelerate-2": topology(ACCELERATE, dp=2),
    "fsdp-2": topology(FSDP, fsdp=2),
    "tp-2": topology(TP, tp=2),
    "pipeline-2": topology(PP, pp=2),
    "dp_pp-2x2": topology(PP, within(DDP), dp=2, pp=2),
    "interleaved-2": topology(PP, {"schedule": "interleaved"}, pp=2),
}
SLOW = {
    "dp_tp-2x2": topology(TP, dp=2, tp=2),
    "hsdp-2x2": topology(FSDP, dp=2, fsdp=2),
    "fsdp_tp-2x2": topology(TP, fsdp=2, tp=2),
    "gpipe-4": topology(PP, {"schedule": "gpipe", "microbatches": 8}, pp=4),
    "pp_fsdp-2x2": topology(PP, within(FSDP), pp=2, fsdp=2),
    "dp_pp_tp-2x2x2": topology(PP, within(TP), dp=2, pp=2, tp=2),
    "ddp-4": topology(DDP, dp=4),
    "tp-4": topology(TP, tp=4),
}

ALL = QUICK | SLOW
MAIN = ["ddp-2", "fsdp-2", "tp-2", "hsdp-2x2", "dp_tp-2x2", "fsdp_tp-2x2", "pipeline-2", "interleaved-2", "dp_pp-2x2"]
"""One of each kind, but for the three axes together."""


def world_of(parallel: dict[str, Any]) -> int:
    return prod(parallel.get(axis, 1) for axis in AXES)
