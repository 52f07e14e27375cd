"""The configuration that a start was launched with, where later starts find it.

<run_dir>/attempts/<n>/config.json    says where the checkpoints of the run are; for people, too
manifest: origin.launched             of the start that saved the checkpoint; it moves with the checkpoint
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcp_runner.checkpoint.loading.load import LoadReport
from dcp_runner.common.files import is_there, writing
from dcp_runner.common.run_context import RunContext
from dcp_runner.common.run_dir import RunDir
from dcp_runner.common.tables import as_text, table
from dcp_runner.config.diff import changes
from dcp_runner.train.lr_schedule import lr_change


def write_config(run: RunContext) -> None:
    """Write the configuration into the folder of this attempt, in one step. Raises FileAccessError."""
    file = RunDir(run.run_dir).attempt(run.attempt).config_file
    with writing(file):
        file.with_suffix(".new").write_text(json.dumps(run.config, indent=2))
        file.with_suffix(".new").replace(file)


def checkpoint_root_of(path: Path) -> Path:
    """The checkpoint root of a run folder, by the configuration of its last start; another path is one itself."""
    run = RunDir(path)
    files = [run.attempt(number).config_file for number in range(run.last_attempt(), 0, -1)]
    latest = next((file for file in files if is_there(file)), None)
    if latest is not None and (root := json.loads(latest.read_text())["checkpoint"]["root"]):
        return Path(root)
    return run.checkpoints if is_there(run.checkpoints) else path


def for_manifest(node: Any) -> Any:
    """Plain data as strict JSON: floats that are not finite become text."""
    if isinstance(node, dict):
        return {key: for_manifest(value) for key, value in node.items()}
    if isinstance(node, list):
        return [for_manifest(value) for value in node]
    return str(node) if isinstance(node, float) and not math.isfinite(node) else node


def changed_keys(loaded: LoadReport, run: RunContext, overridden: Sequence[str]) -> str:
    """A table of the keys whose values differ from those of the start that saved the checkpoint; empty if none does."""
    old, new = loaded.manifest.origin.get("launched"), for_manifest(run.config)
    if old is None:
        same = loaded.manifest.config == run.config_hash
        return "" if same else "\nchanged keys: unknown, because the checkpoint does not record its configuration"
    found = changes(old, new, overridden, lr_change(old, new, loaded.step, overridden))
    rows = [(change.key, str(change.old), str(change.new), change.effect) for change in found]
    return "\n" + as_text(table(("changed key", "before", "now", "effect"), rows)) if rows else ""
