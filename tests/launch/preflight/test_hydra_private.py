"""Hydra's private APIs are used in one module; and what it hands to `hydra.main` changes nothing that a program sees."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import hydra._internal.hydra as inside
import pytest

from dcp_runner.launch.preflight import hydra_private
from dcp_runner.launch.preflight.compose_cache import ComposeOnce
from dcp_runner.launch.preflight.hydra_private import ConfigLoaderImpl, hydra_main_uses

ROOT = Path(__file__).parents[3]


def test_every_private_api_is_there_and_named_in_the_docstring() -> None:
    text = (ROOT / "dcp_runner/launch/preflight/hydra_private.py").read_text()
    assert re.search(r"hydra-core 1\.3\.\d", text)
    for name in hydra_private.__all__:
        assert hasattr(hydra_private, name)
    for name in ("_apply_overrides_to_config", "validate_sweep_overrides_legal", "load_sweep_config", "repository"):
        assert name == "repository" or hasattr(ConfigLoaderImpl, name)
    assert inside.ConfigLoaderImpl is ConfigLoaderImpl  # type: ignore[attr-defined]


def test_no_other_module_reaches_into_hydra() -> None:
    files = [file for top in ("dcp_runner", "hydra_plugins") for file in (ROOT / top).rglob("*.py")]
    reaching = [file.name for file in files if re.search(r"hydra\._internal|hydra import _internal", file.read_text())]
    assert reaching == ["hydra_private.py"]


def test_one_hydra_main_has_the_loader() -> None:
    loader = ComposeOnce(hydra_private.create_automatic_config_search_path(None, None, "pkg://dcp_runner.conf"))
    search_path = loader.get_search_path()
    with hydra_main_uses(loader):
        assert inside.ConfigLoaderImpl(search_path) is loader  # type: ignore[attr-defined]
        assert type(inside.ConfigLoaderImpl(search_path)) is ConfigLoaderImpl  # type: ignore[attr-defined]
    with hydra_main_uses(loader):
        pass
    assert inside.ConfigLoaderImpl is ConfigLoaderImpl  # type: ignore[attr-defined]


APP = """
import sys, hydra
from pathlib import Path
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from dcp_runner.app import hydra_main

def main(cfg):
    hydra_config = HydraConfig.get()
    with Path(sys.argv[0] + ".seen").open("a") as file:
        file.write(OmegaConf.to_yaml(cfg) + OmegaConf.to_yaml(hydra_config) + f"{cfg.stamp == cfg.stamp}\\n---\\n")
    return cfg.x

if __name__ == "__main__":
    kind = sys.argv.pop(1)
    make = hydra.main if kind == "hydra" else hydra_main
    make(config_path="conf", config_name="config", version_base="1.3")(main)()
"""
CONFIG = """
defaults: [_self_, optional group: a]
x: 1
stamp: ${now:%f}
missing: ???
folder: ${hydra:runtime.output_dir}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["x=2"],
        ["x=2", "group=b", "hydra.job.chdir=true", "hydra.mode=RUN"],
        ["-m", "x=1,2", "group=a,b", "+new=3"],
        ["hydra.mode=MULTIRUN", "x=1,2", "hydra.sweep.dir=s"],
        ["--cfg", "all", "x=2"],
        ["--help"],
        ["--config-dir", "more", "group=c"],
    ],
    ids=" ".join,
)
def test_a_program_sees_what_hydra_alone_shows_it(arguments: list[str], tmp_path: Path) -> None:
    seen = []
    for kind in ("hydra", "ours"):
        folder = tmp_path / kind
        for name, text in {
            "conf/config": CONFIG,
            "conf/group/a": "y: 1",
            "conf/group/b": "y: 2",
            "more/group/c": "y: 3",
        }.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.yaml").write_text(text)
        (folder / "app.py").write_text(APP)
        command = [sys.executable, "app.py", kind, *arguments, "hydra.run.dir=out"]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if "pycache" not in str(path))
        written = [(folder / file).read_text() for file in files if file.endswith((".yaml", ".seen"))]
        texts = [ended.stdout, *files, *written]
        seen.append(
            [re.sub(r"\d\d[-:]\d\d[-:]\d\d(,\d+)?", "TIME", text.replace(str(folder), "HERE")) for text in texts]
        )
    assert seen[0] == seen[1]
