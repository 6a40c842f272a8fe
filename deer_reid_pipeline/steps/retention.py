"""Files of reports that are older than a site keeps them and that nothing rests on."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.retention import ReportFolder, forget_folders, old_folders

log = logging.getLogger(__name__)

REPORTS = "reports"


def old_report_files(site: Site, before: datetime) -> list[ReportFolder]:
    """Folders of reports made before a moment that no release points to and that are not the newest of their kind."""
    with site.database.session() as session:
        return old_folders(session, before)


def delete_report_files(site: Site, found: Sequence[ReportFolder]) -> int:
    """Delete the files of these reports and note that they are gone. Their figures stay in the database.

    A killed run leaves either the files or a row that names files which are gone; the next one goes on.

    Returns:
        How many folders were deleted.

    Raises:
        DeerReidError: files cannot be deleted, or a row names a folder outside the reports.
    """
    done = 0
    for item in found:
        folder = _inside(site.settings.home / REPORTS, site.settings.home / item.folder, item)
        try:
            if folder.is_dir():
                shutil.rmtree(folder)
                done += 1
        except OSError as error:
            raise DeerReidError(
                f"the files of report {item.report} in {folder} cannot be deleted ({error.strerror}): correct the "
                "folder's permissions and run again"
            ) from error
        with site.database.session() as session:
            forget_folders(session, [item.report])
    return done


def _inside(reports: Path, folder: Path, item: ReportFolder) -> Path:
    """The folder, if it truly lies below the reports, links followed."""
    found = folder.resolve()
    if reports.resolve() not in found.parents:
        raise DeerReidError(
            f"report {item.report} has its files in {item.folder!r}, which is not below {REPORTS}: nothing was "
            "deleted; correct the column folder of the table reports"
        )
    return found
