"""The plan of a run that is not started, made in a child process: to show it, or to try declared sharings."""

from __future__ import annotations

from dcp_runner.config.schema import RunConfig
from dcp_runner.launch.preflight.child_process import in_child_process


def show_plan(config: RunConfig) -> str:
    """The plan of a run that is not started, made in another process.

    Raises:
        ConfigError: that process ended without a plan.
    """

    def plan() -> str:
        from dcp_runner.run.plan_table import plan_table, planned_components, tensor_sizes

        with planned_components(config) as (bound, topology):
            return plan_table(bound, tensor_sizes(bound), topology)

    return in_child_process("dry_run: making the plan", plan)


def sharing_problems(config: RunConfig) -> list[str]:
    """What the plan of a run says against its declared sharings; made in another process.

    Raises:
        ConfigError: that process ended without a plan.
    """

    def plan() -> list[str]:
        from dcp_runner.run.plan_table import planned_components

        try:
            with planned_components(config):
                return []
        except ValueError as error:
            return [f"sharing: {error}"]

    return in_child_process("sharing: making the plan", plan)
