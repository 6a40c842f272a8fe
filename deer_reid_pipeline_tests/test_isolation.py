"""Which package may import which: the arrow of docs/architecture.md, and what stays importable without what."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "deer_reid_pipeline"
ALLOWED = {
    "reid": {"reid"},
    "sample": {"sample"},
    "vision": {"vision", "reid", "sample"},
    "ingest": {"ingest", "reid"},
    "store": {"store", "reid"},
    "training": {"training", "vision", "reid"},
    "scale_out": {"scale_out", "vision", "reid"},
    "launcher": {"launcher"},
    "steps": {"steps", "ingest", "store", "training", "scale_out", "vision", "reid", "sample"},
    "defs": {"defs", "steps", "store", "training", "reid"},
    "commands": {"commands", "defs", "steps", "store", "training", "reid"},
}
FORBIDDEN_LIBRARIES = {
    "reid": {"dagster", "sqlalchemy", "torch", "PIL", "psycopg2"},
    "sample": {"dagster", "sqlalchemy", "torch", "psycopg2"},
    "vision": {"dagster", "sqlalchemy", "psycopg2"},
    "ingest": {"dagster", "sqlalchemy", "torch", "PIL", "psycopg2"},
    "store": {"dagster", "torch", "PIL"},
    "training": {"dagster", "sqlalchemy", "psycopg2"},
    "scale_out": {"dagster", "sqlalchemy", "psycopg2"},
    "launcher": {"torch", "sqlalchemy", "PIL", "psycopg2"},
    "steps": {"dagster"},
    "defs": {"torch", "sqlalchemy", "PIL"},
    "commands": {"torch", "sqlalchemy", "PIL", "dagster"},
}


def imports_of(path: Path) -> set[str]:
    """Absolute module names imported anywhere in a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_imports_run_one_way(folder: str) -> None:
    wrong = []
    for path in (PACKAGE / folder).rglob("*.py"):
        for name in imports_of(path):
            parts = name.split(".")
            if parts[0] in FORBIDDEN_LIBRARIES[folder]:
                wrong.append(f"{path.name}: {name}")
            inside = parts[0] == PACKAGE.name and len(parts) > 1 and (PACKAGE / parts[1]).is_dir()
            if inside and parts[1] not in ALLOWED[folder]:
                wrong.append(f"{path.name}: {name}")
    assert wrong == []


@pytest.mark.parametrize("module", ["deer_reid_pipeline.reid.matching", "deer_reid_pipeline.vision.embedder"])
def test_science_and_vision_import_without_dagster_and_sql(module: str) -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['dagster', 'sqlalchemy', 'psycopg2', 'pgvector']))"
    done = subprocess.run([sys.executable, "-c", f"{blocked}; import {module}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_engine_imports_with_torch_numpy_and_pillow_alone() -> None:
    """What `make gpu-check` runs on, but for torchvision; a name that is None in sys.modules cannot be imported."""
    absent = ["pydantic", "safetensors", "efficientnet_pytorch", "efficientnet_lite_pytorch", "openvino", "filelock"]
    modules = ["vision.embedder", "vision.engine.settling", "vision.engine.stream", "vision.engine.gpu_check"]
    names = ", ".join(f"{PACKAGE.name}.{name}" for name in [*modules, "training.network"])
    # Imported first, because torch itself may look for some of them.
    code = f"import torch, sys; sys.modules.update(dict.fromkeys({absent})); import {names}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_line_starts_without_loading_torch() -> None:
    code = "import sys, deer_reid_pipeline.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
