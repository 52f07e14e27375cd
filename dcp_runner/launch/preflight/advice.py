"""What was probably intended by an override or a flag that does not exist. Every line given as advice composes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from dcp_runner.common.suggest import did_you_mean

SPELLINGS = {
    "accumulate_grad_batches": "trainer.accumulate",
    "ckpt_path": "resume",
    "dataset": "data",
    "devices": "parallel.dp",
    "epochs": "trainer.max_steps",
    "eval_steps": "trainer.eval_every",
    "every_n_train_steps": "checkpoint.every_steps",
    "exp_name": "name",
    "experiment_name": "name",
    "gradient_accumulation_steps": "trainer.accumulate",
    "gradient_clip_val": "trainer.clip_norm",
    "global_batch_size": "data.batch_size",
    "keep_latest_k": "checkpoint.keep.last",
    "learning_rate": "optim.lr",
    "load_step": "resume",
    "log_every_n_steps": "logger.every_steps",
    "logging_steps": "logger.every_steps",
    "lr_scheduler": "schedule",
    "max_epochs": "trainer.max_steps",
    "max_grad_norm": "trainer.clip_norm",
    "max_to_keep": "checkpoint.keep.last",
    "metric_for_best_model": "checkpoint.keep.metric",
    "monitor": "checkpoint.keep.metric",
    "nproc_per_node": "resources.tasks_per_node",
    "num_epochs": "trainer.max_steps",
    "num_nodes": "resources.nodes",
    "num_train_epochs": "trainer.max_steps",
    "num_workers": "data.workers",
    "optimizer": "optim",
    "output_dir": "hydra.run.dir",
    "per_device_train_batch_size": "data.batch_size",
    "resume_from_checkpoint": "resume",
    "run_name": "name",
    "save_interval": "checkpoint.every_steps",
    "save_steps": "checkpoint.every_steps",
    "save_top_k": "checkpoint.keep.best",
    "save_total_limit": "checkpoint.keep.last",
    "scheduler": "schedule",
    "task_name": "name",
    "train_batch_size": "data.batch_size",
    "val_check_interval": "trainer.eval_every",
}
"""What a key is called elsewhere, and here."""
OTHER_UNITS = {
    *("epochs", "max_epochs", "num_epochs", "num_train_epochs"),
    *("per_device_train_batch_size", "val_check_interval"),
}
"""Those whose values have another unit here: optimizer steps, the global batch size."""
_NOISE = ("full_key:", "object_type=", "reference_type=")


def flag_problems(loader: ConfigLoader, config_name: str | None, flags: Sequence[str]) -> Iterator[str]:
    """Of each flag that Hydra does not have: the override that it stands for, if it composes, or the nearest key."""
    try:
        cfg = loader.load_configuration(config_name, [], RunMode.RUN)
    except HydraException:
        cfg = OmegaConf.create({"hydra": {}})
    for text in flags:
        name, _, value = text.lstrip("-").partition("=")
        key = name.replace("-", "_")
        known = SPELLINGS.get(key, key)
        lines = [f"{known}={value}"] if value and key not in OTHER_UNITS else []
        if any(_composes(loader, config_name, line) for line in lines):
            yield f"{text}: no such flag; keys are given without dashes, as `{lines[0]}`"
        elif known in {*_keys(cfg), *loader.list_groups("")}:
            yield f"{text}: no such flag; keys are given without dashes, as `{known}=VALUE`"
        else:
            yield f"{text}: no such flag, and no key `{key}`{_nearest(key, loader, cfg)}"


def _composes(loader: ConfigLoader, config_name: str | None, line: str) -> bool:
    try:
        loader.load_configuration(config_name, [line], RunMode.RUN)
    except HydraException:
        return False
    return True


def explain(
    line: str, key: str, error: HydraException, loader: ConfigLoader, config_name: str | None, cfg: DictConfig
) -> str:
    """One problem of one override: what was expected, and what was probably intended."""
    if isinstance(error, MissingConfigException) and error.options:
        options = [option for option in error.options if not option.startswith("base_")]
        return f"{line}: no such option; expected: {', '.join(options)}{did_you_mean(line.split('=')[-1], options)}"
    if isinstance(error.__cause__, (ConfigAttributeError, ConfigKeyError)):
        return f"{line}: no key `{key}`{_nearest(key, loader, cfg)}"
    if str(error).startswith("Ambiguous value"):
        name, _, value = line.partition("=")
        as_list = f"{name}=[{value}]"
        remedy = f"; a list is `{as_list}`" if _composes(loader, config_name, as_list) else ""
        return f"{line}: several values are a sweep, which needs -m{remedy}"
    return f"{line}: {text_of(error)}"


def _nearest(key: str, loader: ConfigLoader, cfg: DictConfig) -> str:
    of_hydra = key.startswith("hydra.")
    groups = [group for group in loader.list_groups("") if group != "hydra"]
    known = list(dict.fromkeys(_keys(cfg.hydra, "hydra.") if of_hydra else [*_keys(cfg), *groups]))
    parent, _, last = key.rpartition(".")
    if last in SPELLINGS or key in SPELLINGS:
        return f"; here it is `{SPELLINGS.get(key) or SPELLINGS[last]}`"
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == parent]
    if elsewhere:
        return f"; did you mean `{elsewhere[0]}`?"
    near = did_you_mean(last, siblings, below=f"{parent}." if parent else "") or did_you_mean(key, known)
    return near or f"; known: {', '.join(siblings or known)}"


def _keys(cfg: DictConfig, path: str = "") -> Iterator[str]:
    for key in cfg:
        if path or key != "hydra":
            yield f"{path}{key!s}"
            value = cfg._get_node(key)
            if isinstance(value, DictConfig) and not value._is_none() and not value._is_interpolation():
                yield from _keys(value, f"{path}{key!s}.")


def text_of(error: HydraException) -> str:
    """Hydra's text and that of its cause, without their advice, in one line."""
    texts = [str(error)]
    if isinstance(error, ConfigCompositionException) and isinstance(error.__cause__, OmegaConfBaseException):
        texts = [str(error.__cause__)] if str(error).startswith("Error merging") else [*texts, str(error.__cause__)]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_NOISE))
