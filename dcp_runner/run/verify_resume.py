"""`verify_resume=N`: is a run that is resumed at step N bit-equal to an uninterrupted one?

The run is done twice in folders of its own: 2N steps with a checkpoint at step N, and in new processes N steps from
that checkpoint on. Then every loss, gradient norm and evaluation is compared, and everything in the last checkpoints.
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
from dcp_runner.common.run_dir import RunDir
from dcp_runner.config.schema import RunConfig

MAX_SHOWN = 4
"""Differing tensors of a component that are named."""


def verify_resume(config: RunConfig, run_dir: Path, start: Callable[[RunConfig, Path], int]) -> tuple[int, list[str]]:
    """Do both runs in a new folder below the run folder, and compare them. `start` does one run and returns its exit
    code. Returns an exit code and the lines to print.
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
    uninterrupted, resumed = folder / "whole", folder / "resumed"
    code = start(config, uninterrupted)
    if code == 0:
        middle = RunDir(uninterrupted).checkpoints / f"checkpoint-{steps}"
        code = start(replace(config, resume=str(middle)), resumed)
    if code:
        return code, ["verify_resume: a run failed, so there is nothing to compare"]
    compared = f"{2 * steps} steps, and {steps} + resume + {steps}"
    found = [*_differing_metrics(uninterrupted, resumed, steps), *_differing_state(uninterrupted, resumed, 2 * steps)]
    if found:
        return 1, [f"NOT BIT-EQUAL: {compared}, differ:", *(f"  {line}" for line in found)]
    return 0, [f"BIT-EQUAL: {compared}: losses, gradient norms, evaluations, and every byte of the last checkpoints"]


def _differing_metrics(uninterrupted: Path, resumed: Path, after: int) -> Iterator[str]:
    """The metrics of the first step at which they differ."""
    missing: dict[str, Any] = {}
    pairs = zip_longest(_lines(uninterrupted, after), _lines(resumed, after), fillvalue=missing)
    for expected, found in pairs:
        step = expected.get("step", found.get("step"))
        for key in sorted(expected.keys() | found.keys()):
            if expected.get(key) != found.get(key):
                yield f"at step {step}: {key} {expected.get(key)} without, {found.get(key)} with a resume"
        if expected != found:
            return


def _lines(run_dir: Path, after: int) -> list[dict[str, Any]]:
    lines = read_metrics(RunDir(run_dir).metrics_file)
    return [line for line in lines if line["step"] > after and "event" not in line]


def _differing_state(uninterrupted: Path, resumed: Path, step: int) -> Iterator[str]:
    """What differs between the last checkpoints, by component."""
    folders = (RunDir(run_dir).checkpoints / f"checkpoint-{step}" for run_dir in (uninterrupted, resumed))
    expected, found = map(_contents, folders)
    for component in sorted({name for name, _ in expected.keys() | found.keys()}):
        keys = sorted(key for key in expected.keys() | found.keys() if key[0] == component)
        differing = [key for key in keys if expected.get(key) != found.get(key)]
        if differing:
            shown = ", ".join(name for _, name in differing[:MAX_SHOWN])
            yield f"in the last checkpoint: {component}: {len(differing)} of {len(keys)} entries: {shown}"


def _contents(folder: Path) -> dict[tuple[str, str], Any]:
    """From (component, tensor or other content of a file) to values that are equal exactly if the bits are."""
    manifest = valid_checkpoint(folder).manifest
    found: dict[tuple[str, str], Any] = {}
    with OpenedCheckpoint(folder, manifest) as checkpoint:
        for key, record in manifest.components.items():
            for copy, files in ((copy, record.copies[copy].files) for copy in record.copies):
                for file in checkpoint.open(files):
                    if "tree" in file.about:
                        found[key, f"non-tensor data ({copy})"] = file.about["tree"]
                    for name, stored in file.tensors.items():
                        found[key, f"{name} ({copy})"] = (stored.dtype, stored.box, stored.blocks)
    return found
