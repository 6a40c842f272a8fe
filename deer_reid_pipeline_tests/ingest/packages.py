"""Small Camtrap DP packages, written table by table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

BLANK_MEDIA = {"deploymentID": "d1", "timestamp": "", "fileMediatype": "image/jpeg", "filePublic": "true"}


def write_table(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_package(root: Path, media: list[dict[str, Any]], observations: list[dict[str, Any]]) -> None:
    """Write datapackage.json as real exports do, with profiles and schemas that are web addresses."""
    root.mkdir(parents=True, exist_ok=True)
    base = "https://example.invalid/camtrap-dp/1.0"
    names = ("deployments", "media", "observations")
    resources = [{"name": n, "path": f"{n}.csv", "schema": f"{base}/{n}.json", "encoding": "utf-8"} for n in names]
    descriptor = {"name": "p", "profile": f"{base}/profile.json", "resources": resources}
    (root / "datapackage.json").write_text(json.dumps(descriptor), encoding="utf-8")
    deployments = [{"deploymentID": "d1", "latitude": 1.5, "longitude": 2.5}]
    write_table(root / "deployments.csv", deployments, ["deploymentID", "latitude", "longitude"])
    filled = [{**BLANK_MEDIA, **row} for row in media]
    write_table(root / "media.csv", filled, ["mediaID", *BLANK_MEDIA, "filePath"])
    columns = list(dict.fromkeys(["observationID", "observationType", *(key for row in observations for key in row)]))
    write_table(root / "observations.csv", observations, columns)
