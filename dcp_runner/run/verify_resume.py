"""`verify_resume=N`: does a run that is resumed at step N go on, to the last bit, as one that never stopped?

The run is made twice in folders of its own: 2N steps with a checkpoint at N; and, in new processes, N steps from that
checkpoint on. Then every loss, gradient norm and evaluation is compared, and all that the last checkpoints hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, zip_longest
from pathlib import Path
from typing import Any

from dcp_runner.checkpoint.config import KeepConfig
from dcp_runner.checkpoint.files.integrity import valid_checkpoint
from dcp_runner.checkpoint.files.opened import OpenedCheckpoint
from dcp_runner.common.metrics_file import read_metrics
from dcp_runner.config.schema import RunConfig

TOLD = 4
"""Differences of one kind that are told."""


def verify_resume(config: RunConfig, run_dir: Path, start: Callable[[RunConfig, Path], int]) -> tuple[int, list[str]]:
    """Make both runs, by `start`, which gives their exit code, and compare them: exit code and lines to tell.

    They lie in a new folder of the run folder.
    """
    steps = config.verify_resume
    trainer = replace(config.trainer, max_steps=2 * steps)
    saving = replace(
        config.checkpoint, every_steps=steps, every_minutes=None, at_end=True, keep=KeepConfig(), root=None
    )
    logger = replace(config.logger, trackers={})
    config = replace(config, verify_resume=0, resume="never", resume_skip=[], logger=logger)
    config = replace(config, trainer=trainer, checkpoint=saving)
    folder = next(folder for n in count(1) if not (folder := run_dir / f"verify_resume-{n}").exists())
    whole, resumed = folder / "whole", folder / "resumed"
    code = start(config, whole)
    if code == 0:
        middle = whole / "checkpoints" / f"checkpoint-{steps}"
        code = start(replace(config, resume=str(middle)), resumed)
    if code:
        return code, ["verify_resume: a run has failed, so there is nothing to compare"]
    found = [*_metrics(whole, resumed, steps), *_checkpoints(whole, resumed, 2 * steps)]
    if found:
        return 1, [
            f"NOT BIT-EQUAL: {2 * steps} steps, and {steps} + resume + {steps}, part:",
            *(f"  {f}" for f in found),
        ]
    told = f"BIT-EQUAL: {2 * steps} steps, and {steps} + resume + {steps}: losses, gradient norms, evaluations"
    return 0, [f"{told}, and every byte of the last checkpoints"]


def _metrics(whole: Path, resumed: Path, after: int) -> Iterator[str]:
    """The first step at which the metrics differ."""
    nothing: dict[str, Any] = {}
    for one, other in zip_longest(_lines(whole, after), _lines(resumed, after), fillvalue=nothing):
        for key in sorted(one.keys() | other.keys()):
            if one.get(key) != other.get(key):
                step = one.get("step", other.get("step"))
                yield f"at step {step}: {key} {one.get(key)} without, {other.get(key)} with a resume"
        if one != other:
            return


def _lines(run_dir: Path, after: int) -> list[dict[str, Any]]:
    lines = read_metrics(run_dir / "metrics.jsonl")
    return [line for line in lines if line["step"] > after and "event" not in line]


def _checkpoints(whole: Path, resumed: Path, step: int) -> Iterator[str]:
    """What the last checkpoints hold differently, by component."""
    one, other = (_contents(run_dir / "checkpoints" / f"checkpoint-{step}") for run_dir in (whole, resumed))
    for component in sorted({name for name, _ in one.keys() | other.keys()}):
        places = sorted(key for key in one.keys() | other.keys() if key[0] == component)
        differing = [place for place in places if one.get(place) != other.get(place)]
        if differing:
            shown = ", ".join(name for _, name in differing[:TOLD])
            yield f"in the last checkpoint: {component} at {len(differing)} of {len(places)} places: {shown}"


def _contents(folder: Path) -> dict[tuple[str, str], Any]:
    """(component, tensor or file's other content) -> something that is equal where the bits are."""
    manifest = valid_checkpoint(folder).manifest
    found: dict[tuple[str, str], Any] = {}
    with OpenedCheckpoint(folder, manifest) as checkpoint:
        for key, record in manifest.components.items():
            for copy, files in ((copy, record.copies[copy].files) for copy in record.copies):
                for file in checkpoint.open(files):
                    if "tree" in file.about:
                        found[key, f"what is no tensor ({copy})"] = file.about["tree"]
                    for name, stored in file.tensors.items():
                        found[key, f"{name} ({copy})"] = (stored.dtype, stored.box, stored.blocks)
    return found
