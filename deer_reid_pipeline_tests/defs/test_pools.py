"""Which assets compute vectors: found by following the names in their code, from the asset to `Site.embedder`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import dagster as dg

from deer_reid_pipeline.definitions import defs

PACKAGE = Path(__file__).resolve().parents[2] / "deer_reid_pipeline"
LOADS_A_MODEL = "embedder"
"""Every module of `steps` gets its network as `site.embedder(recipe)`."""

Name = tuple[str, str]
"""Module of this package, and what is defined in it."""


@cache
def parsed(module: str) -> ast.Module | None:
    """A module of this package; None where there is none of this name."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if module.startswith(PACKAGE.name) and file.is_file():
            return ast.parse(file.read_text(encoding="utf-8"))
    return None


@cache
def imported(module: str) -> dict[str, tuple[str, str | None]]:
    """Names that a module imports anywhere: module, and what of it; None is the module itself."""
    found: dict[str, tuple[str, str | None]] = {}
    tree = parsed(module)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                found[alias.asname or alias.name] = (inside, None) if parsed(inside) else (node.module, alias.name)
        elif isinstance(node, ast.Import):
            found.update({alias.asname: (alias.name, None) for alias in node.names if alias.asname})
    return found


@cache
def defined(module: str) -> dict[str, ast.AST]:
    """What a module defines at its top level: functions, classes and values."""
    found: dict[str, ast.AST] = {}
    tree = parsed(module)
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            if isinstance(target, ast.Name):
                found[target.id] = node
    return found


def resolved(module: str, name: str) -> Name | None:
    """Where a name of a module is defined in this package; None where it is not."""
    if name in defined(module):
        return module, name
    source, what = imported(module).get(name, ("", None))
    return resolved(source, what) if what and parsed(source) else None


def used(name: Name) -> Iterator[Name]:
    """What a function, class or value names, in this package."""
    module = name[0]
    for node in ast.walk(defined(module)[name[1]]):
        if isinstance(node, ast.Name):
            found = resolved(module, node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            source, what = imported(module).get(node.value.id, ("", ""))
            found = resolved(source, node.attr) if what is None else None
        else:
            continue
        if found:
            yield found


def loads_a_model(name: Name) -> bool:
    if not name[0].startswith(f"{PACKAGE.name}.steps."):
        return False
    nodes = ast.walk(defined(name[0])[name[1]])
    return any(isinstance(node, ast.Attribute) and node.attr == LOADS_A_MODEL for node in nodes)


def way_to_a_model(start: Name) -> list[Name]:
    """Names that lead from one to where a model is loaded; empty where none does."""
    ways, seen = [[start]], {start}
    while ways:
        way = ways.pop(0)
        if loads_a_model(way[-1]):
            return way
        for name in used(way[-1]):
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return []


def test_whatever_computes_vectors_is_in_the_pool() -> None:
    ways, pools = {}, {}
    for each in defs.assets or ():
        assert isinstance(each, dg.AssetsDefinition)
        function = each.op.compute_fn.decorated_fn  # type: ignore[union-attr]
        for key in each.keys:
            pools[key.to_user_string()] = each.op.pool
            ways[key.to_user_string()] = way_to_a_model((function.__module__, function.__name__))
    computing = {asset for asset, way in ways.items() if way}
    assert computing >= {
        "resnet50_embeddings",
        "deer_matches",
        "deer_profiles",
        "finetuned_embeddings",
        "validation_report",
        "benchmark_report",
    }
    assert not computing & {"image_drops", "similarity_distribution", "assignment_report", "false_positive_report"}
    outside = {asset: [".".join(name) for name in ways[asset]] for asset in computing if pools[asset] != "gpu"}
    assert outside == {}, "each of these loads a model by this way, so it takes pool='gpu'"
