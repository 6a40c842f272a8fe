"""Launches one run as a daemon does: HOME RUN_ID go|stay [AT]. Exits 1 where it is refused; `stay` never ends."""

import sys
import time

import dagster as dg

home, run_id, after, *at = sys.argv[1:]
with dg.DagsterInstance.from_config(home) as instance:
    _ = instance.run_launcher
    if at:
        time.sleep(max(0.0, float(at[0]) - time.time()))
    try:
        instance.launch_run(run_id, None)  # type: ignore[arg-type]
    except Exception as error:
        print(error)
        sys.exit(1)
    while after == "stay":
        time.sleep(1)
