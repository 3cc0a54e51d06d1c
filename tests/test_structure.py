"""The shape of the source: which module imports which, how long functions are, how much there is of it.

Read from the syntax trees of `src/`, so nothing is imported. Imports are of three kinds, by where they are
written: at a module's top level, within a function, and under `if TYPE_CHECKING`.

Cycles: imports at top level must have none. With imports within functions the only cycles allowed go through
`data/tracks.py`, whose methods `to_layer`, `save`, `to_xarray` and `plot` import what they call. Imports
for annotations never run; they count in which package may know which, not in cycles.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
PACKAGE = "napari_face_landmarks"
CORE = ("data", "video", "detection", "pfld", "parts", "clnf", "tracking")
OUTER = ("io", "runs", "cli", "napari_plugin")
WINDOWS = {"napari", "qtpy", "magicgui", "pyqtgraph", "superqt", "vispy", "PyQt5", "PyQt6", "PySide6"}
CONVENIENCE = "data.tracks"
"""The one module whose methods import from layers above it, when they are called."""
LAYERS = (
    ("errors",),
    ("files", "ibug", "jit", "opencv", "priority", "processes", "settings", "versions"),
    ("video",),
    ("data",),
    ("detection",),
    ("pfld",),
    ("parts",),
    ("clnf",),
    ("models",),
    ("tracking",),
    ("correction", "quality"),
    ("io",),
    ("measures", "visualization"),
    ("runs",),
    ("benchmark", "evaluation"),
    ("training",),
    ("demo",),
    ("cli", "napari_plugin"),
    ("__main__",),
)
"""Packages and modules of the top level; each imports from those before it only."""
KERNELS = {"kernel", "exact_kernel"}
KERNEL_MODULES = {"clnf.numba_engine", "clnf.reference", "benchmark.ablation_engine"}
"""Functions of arrays that share the kernels' parameters."""
MOST_LINES = 80
MOST_PARAMETERS = 8
MOST_SOURCE = 34_000
MOST_MISFIT = 6


@dataclass(frozen=True)
class Import:
    """One module that another one imports: `when` is "top", "function" or "annotation"."""

    target: str
    when: str


@cache
def sources() -> dict[str, Path]:
    """Return the file of each module, by its name without the package's: "" for the package itself."""
    found = {}
    for path in sorted((SRC / PACKAGE).rglob("*.py")):
        parts = path.relative_to(SRC / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(sources()[module].read_text(encoding="utf-8"))


def _statements(node: ast.AST, when: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, when
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from _statements(ast.Module(child.body, []), "annotation")
            yield from _statements(ast.Module(child.orelse, []), when)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and when == "top":
            yield from _statements(child, "function")
        else:
            yield from _statements(child, when)


def _absolute(module: str, statement: ast.ImportFrom) -> str:
    if not statement.level:
        return statement.module or ""
    anchor = [PACKAGE, *(module.split(".") if module else [])]
    if sources()[module].name != "__init__.py":
        anchor.pop()
    anchor = anchor[: len(anchor) - statement.level + 1]
    return ".".join([*anchor, *([statement.module] if statement.module else [])])


@cache
def imports(module: str) -> frozenset[Import]:
    """Return what a module imports: modules of the package without its name, others by their first part."""
    found = set()
    for statement, when in _statements(tree(module), "top"):
        if isinstance(statement, ast.Import):
            targets = [alias.name for alias in statement.names]
        else:
            base = _absolute(module, statement)
            targets = [f"{base}.{alias.name}" for alias in statement.names]
        for target in targets:
            parts = target.split(".")
            if parts[0] != PACKAGE:
                found.add(Import("Python's io" if parts[0] == "io" else parts[0], when))
                continue
            name = ".".join(parts[1:])
            if name not in sources():  # a name in a module, not a module
                name = name.rpartition(".")[0]
            assert name in sources(), f"{module} imports {target}"
            found.add(Import(name, when))
    return frozenset(each for each in found if each.target != module)


def top(module: str) -> str:
    return module.partition(".")[0]


def a_cycle(*when: str) -> list[str]:
    """Return one cycle among the modules' imports of these kinds, or nothing."""
    graph = {
        module: {
            each.target
            for each in imports(module)
            if each.when in when and not (module == CONVENIENCE and each.when == "function")
        }
        & sources().keys()
        for module in sources()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield the functions of what users run, kernels excepted; training is for who makes models."""
    for module in sources():
        if top(module) == "training":
            continue
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not any(
                ast.unparse(each) in KERNELS for each in node.decorator_list
            ):
                yield module, node


def n_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_the_imports_are_found() -> None:
    assert Import("video.reader", "top") in imports("video")
    assert Import("io.formats", "function") in imports(CONVENIENCE)
    assert Import("tracking", "annotation") in imports("")
    assert Import("numpy", "top") in imports(CONVENIENCE)
    assert {top(module) for module in sources()} == {"", *(name for layer in LAYERS for name in layer)}


@pytest.mark.slow
def test_no_cycle_of_imports_when_modules_load() -> None:
    assert not a_cycle("top")


def test_no_cycle_of_imports_within_functions_but_through_the_convenience_methods() -> None:
    assert not a_cycle("top", "function")


def test_only_the_convenience_methods_of_tracks_know_what_is_above_the_core() -> None:
    found = {
        (module, each.target, each.when)
        for module in sources()
        if top(module) in CORE
        for each in imports(module)
        if top(each.target) in OUTER
    }
    assert {each for each in found if each[0] != CONVENIENCE or each[2] == "top"} == set()


def test_each_package_imports_from_the_layers_before_it_only() -> None:
    height = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    upward = {
        (module, each.target)
        for module in sources()
        if module
        for each in imports(module)
        if each.when == "top"
        and each.target in sources()
        and top(each.target) != top(module)
        and height.get(top(each.target), -1) >= height[top(module)]
    }
    assert upward == set()


def test_windows_are_imported_by_the_plugin_and_the_demo_that_opens_one_only() -> None:
    importing = {
        module: sorted({each.when for each in imports(module) if each.target in WINDOWS})
        for module in sources()
        if top(module) != "napari_plugin"
    }
    assert {module: when for module, when in importing.items() if when} == {"cli.demo": ["function"]}


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{module}.{node.name}": lines
        for module, node in functions()
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > MOST_LINES
    }
    assert long == {}


def test_no_function_takes_more_than_eight_parameters() -> None:
    many = {
        f"{module}.{node.name}": n_parameters(node)
        for module, node in functions()
        if module not in KERNEL_MODULES and n_parameters(node) > MOST_PARAMETERS
    }
    assert many == {}


def test_no_two_modules_share_the_name_of_a_class() -> None:
    homes = defaultdict(list)
    for module in sources():
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_a_field_of_the_result_is_spelled_in_few_places() -> None:
    spelling = [name for name, path in sources().items() if "misfit" in path.read_text(encoding="utf-8")]
    assert len(spelling) <= MOST_MISFIT, spelling


@pytest.mark.xfail(strict=True, reason="46,500 lines, 33,300 without comments, docstrings and blank ones")
def test_there_is_little_source() -> None:
    assert (
        sum(len(path.read_text(encoding="utf-8").splitlines()) for path in sources().values()) < MOST_SOURCE
    )
