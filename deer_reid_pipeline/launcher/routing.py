"""Which runs want a card. Runs from the UI, backfills and automation carry no tags of a job; all know their pools."""

from __future__ import annotations

from collections.abc import Collection

import dagster as dg

from deer_reid_pipeline.launcher.dagster_private import GLOBAL_CONCURRENCY_TAG, DagsterInstance
from deer_reid_pipeline.launcher.errors import LauncherError

GPU_TAG = "deer_reid/gpu"


def wants_gpu(run: dg.DagsterRun, instance: DagsterInstance, gpu_pools: Collection[str]) -> tuple[bool, str]:
    """Whether a run gets a card, and why. The tag `deer_reid/gpu` wins over the pools.

    Raises:
        LauncherError: the tag is neither true nor false.
    """
    asked = run.tags.get(GPU_TAG)
    if asked is not None:
        if asked.lower() not in ("true", "false"):
            raise LauncherError(f"the run's tag {GPU_TAG} is {asked!r}; write true or false")
        return asked.lower() == "true", f"tag {GPU_TAG}={asked.lower()}"
    found = sorted(pools_of(run, instance) & set(gpu_pools))
    if found:
        return True, f"pool {', '.join(found)}"
    return False, f"no step is in pool {' or '.join(sorted(gpu_pools))}"


def pools_of(run: dg.DagsterRun, instance: DagsterInstance) -> set[str]:
    """The pools of the steps that the run executes."""
    if run.run_op_concurrency is not None and run.run_op_concurrency.all_pools:
        return set(run.run_op_concurrency.all_pools)
    if run.execution_plan_snapshot_id is None:
        return set()
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    executed = set(plan.step_keys_to_execute)
    pools = (step.pool or (step.tags or {}).get(GLOBAL_CONCURRENCY_TAG) for step in plan.steps if step.key in executed)
    return {pool for pool in pools if pool is not None}
