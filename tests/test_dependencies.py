"""What pyproject.toml allows has an end, and what constraints.txt pins lies within it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def test_every_dependency_has_an_upper_bound_that_holds_for_the_tested_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for name, texts in project["optional-dependencies"].items() if name != "dev" for text in texts]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line)
    required = [Requirement(text) for text in [*project["dependencies"], *extras]]
    assert {"hydra-core", "omegaconf", "torch", "submitit", "safetensors"} <= {each.name for each in required}
    for each in required:
        assert any(bound.operator == "<" for bound in each.specifier), each
        assert tested[each.name] in each.specifier, each
