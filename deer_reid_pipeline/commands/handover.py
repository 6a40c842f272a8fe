"""`deer-reid export` and `import`: all identities as a table for people, or as a package for another home."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deer_reid_pipeline.commands.common import Json, emit, ready_site
from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.terminal import MOST_LINES, Console, Progress


def export(
    target: Annotated[
        Path, typer.Argument(help="A .csv file for one table, or a new folder for a Camtrap DP 1.0 package.")
    ],
    copy_media: Annotated[
        bool, typer.Option("--copy-media", help="Copy pictures (without their metadata) and crops into the package.")
    ] = False,
    with_coordinates: Annotated[
        bool,
        typer.Option(
            "--with-coordinates",
            help="Write where cameras stand, and copy pictures with all that they say of themselves.",
        ),
    ] = False,
    web_addresses: Annotated[
        bool,
        typer.Option(
            "--web-addresses",
            help="Name Camtrap DP's profile and schemas by web address, as some tools ask; checking it then needs the "
            "web.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write every identity: as one CSV table, or as a package that `import` restores. Camera positions stay out."""
    if target.suffix.lower() == ".csv" and not target.is_dir():
        if copy_media or with_coordinates or web_addresses:
            raise DeerReidError(f"{target} is a table: its options are those of a package; give the name of a folder")
        _export_table(target, as_json)
        return
    from deer_reid_pipeline.steps.handover.export import export_package
    from deer_reid_pipeline.steps.handover.package import Choices

    console = Console(as_json)
    site = ready_site(console)
    with Progress(console):
        made = export_package(site, target, Choices(with_coordinates, copy_media), addresses=web_addresses)
    for name, reason in made.left_out[:MOST_LINES]:
        console.say(f"Warning: {name} was not copied: {reason}")
    if len(made.left_out) > MOST_LINES:
        console.say(f"... and {len(made.left_out) - MOST_LINES} more were not copied")
    rows = made.rows
    copied = f", {made.copied} of them copied" if copy_media else ""
    console.say(
        f"{rows['media']} pictures{copied}, {rows['observations']} observations, {rows['individuals']} individuals, "
        f"{rows['encounters']} encounters, {rows['decisions']} decisions in {target}. "
        f"{rows['quarantine']} quarantined files or rows are listed, not among the media. The package is valid."
    )
    if with_coordinates:
        console.say("It tells where the cameras stand: mind who gets it.")
    emit(
        as_json,
        {
            "folder": str(target),
            "media": rows["media"],
            "observations": rows["observations"],
            "individuals": rows["individuals"],
            "encounters": rows["encounters"],
            "decisions": rows["decisions"],
            "quarantined": rows["quarantine"],
            "copied": made.copied,
            "not_copied": [{"file": name, "reason": reason} for name, reason in made.left_out],
            "coordinates": with_coordinates,
            "valid": True,
        },
    )


def import_package_command(
    folder: Annotated[Path, typer.Argument(help="Package that `deer-reid export FOLDER` wrote.")],
    media: Annotated[
        Path | None,
        typer.Option(help="Folder that holds the folders of the drops, where the pictures did not come along."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Restore individuals, encounters and decisions of another home in this one, which must be empty."""
    from deer_reid_pipeline.steps.handover.restore import import_package

    console = Console(as_json)
    site = ready_site(console, may_begin=True)
    with Progress(console):
        made = import_package(site, folder, media)
    rows, pictures = made.rows, made.pictures
    console.say(
        f"{rows['individuals']} individuals, {rows['encounters']} encounters, {rows['decisions']} decisions, "
        f"{rows['pictures']} pictures restored; they are what the package says, compared table by table."
    )
    if pictures.missing:
        console.say(
            f"Warning: {pictures.missing} pictures were not found: `deer-reid process FOLDER` of their drop finds them "
            "again and decides nothing anew"
        )
    console.say("Vectors did not come along: `deer-reid reembed` makes them, then new pictures can be matched.")
    emit(
        as_json,
        {
            "individuals": rows["individuals"],
            "encounters": rows["encounters"],
            "decisions": rows["decisions"],
            "reviews": rows["reviews"],
            "releases": rows["releases"],
            "media": rows["pictures"],
            "media_found": pictures.found,
            "media_missing": pictures.missing,
            "crops": made.crops,
            "quarantined": rows["quarantine"],
            "drops": list(made.drops),
            "coordinates": made.coordinates,
        },
    )


def _export_table(path: Path, as_json: bool) -> None:
    from deer_reid_pipeline.exports import write_observations
    from deer_reid_pipeline.store.decisions import all_results

    console = Console(as_json)
    site = ready_site(console)
    with site.database.session() as session:
        rows = all_results(session)
    write_observations(path, rows)
    console.say(f"{len(rows)} detections written to {path}.")
    emit(as_json, {"rows": len(rows), "output": str(path)})
