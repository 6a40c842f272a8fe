"""Takes 4,000 MiB of a card once the time has come: STATE RUN_ID AT. Exits 1 where there is no room."""

import sys
import time
from pathlib import Path

from deer_reid_pipeline.launcher.leases import LeaseBook
from deer_reid_pipeline.launcher.placement import Placement
from deer_reid_pipeline.launcher.placing import place

state, run_id, begin = sys.argv[1:]
time.sleep(max(0.0, float(begin) - time.time()))
placed = place(run_id, "process", LeaseBook(Path(state)), lambda _: True, vram_mb=4000, reserve_mb=0)
sys.exit(0 if isinstance(placed, Placement) else 1)
