"""Print what a pyproject.toml needs, with some of its extras: `requirements.py pyproject.toml gpu,ray`."""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: str) -> list[str]:
    """Dependencies and those of the extras, which are separated by commas.

    Raises:
        KeyError: there is no such extra.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    chosen = [name.strip() for name in extras.split(",") if name.strip()]
    return [*project["dependencies"], *(line for name in chosen for line in project["optional-dependencies"][name])]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2])))
