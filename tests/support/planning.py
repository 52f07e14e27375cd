"""Planned jobs of a sweep that is not composed."""

from __future__ import annotations

from omegaconf import OmegaConf

from dcp_runner.config.schema import ResourcesConfig, RunConfig
from dcp_runner.sweep.record import JobRecord
from hydra_plugins.dcp_launcher._planned import PlannedJob


def planned(number: int, tasks: int, time_min: int | None = None) -> PlannedJob:
    record = JobRecord(number=number, overrides=[], tasks_per_node=tasks)
    cfg = OmegaConf.create({"hydra": {"job": {"name": "mine"}, "overrides": {"task": [f"seed={number}"]}}})
    return PlannedJob(record, cfg, RunConfig(resources=ResourcesConfig(time_min=time_min)), [])
