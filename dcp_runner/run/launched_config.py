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
from dcp_runner.common.run_dir import ATTEMPTS, attempt_dir
from dcp_runner.common.tables import as_text, table
from dcp_runner.config.diff import changes
from dcp_runner.train.lr_schedule import lr_change

FILE = "config.json"


def write_config(run: RunContext) -> None:
    """Write the configuration into the folder of this attempt, in one step. Raises FileAccessError."""
    file = attempt_dir(run.run_dir, run.attempt) / FILE
    with writing(file):
        file.with_suffix(".new").write_text(json.dumps(run.config, indent=2))
        file.with_suffix(".new").replace(file)


def checkpoint_root_of(path: Path) -> Path:
    """The checkpoint root of a run folder, by the configuration of its last start; any other path is one itself."""
    configs = {int(file.parent.name): file for file in (path / ATTEMPTS).glob(f"*/{FILE}")}
    if configs and (root := json.loads(configs[max(configs)].read_text())["checkpoint"]["root"]):
        return Path(root)
    return path / "checkpoints" if is_there(path / "checkpoints") else path


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
