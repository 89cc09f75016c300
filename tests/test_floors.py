"""The floors of the house: a folder imports only from folders below it, and no two files import each other."""

import ast
import functools
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up: a folder may import those that stand before it.
FLOORS = ("groundscore", "utils", "dataloaders", "model", "checkpoints", "inference", "evaluation", "training",
          "miniature", "dashboard", "benchmarks")  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of the floors and every entry point, by its full name."""
    paths = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))] + sorted(ROOT.glob("*.py"))
    paths = [path for path in paths if "groundscore/build" not in path.as_posix()]  # what pip leaves behind
    return {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
            for path in paths}  # fmt: skip


HEAVY = ("torch", "transformers", "deepspeed", "peft", "gradio")
MODULES = modules()


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, inside functions and for type checking too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            found |= {name} - {""}
    return found


def test_every_name_that_is_imported_from_ours_exists():
    missing = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in FLOORS:
                missing += [
                    f"{module}: {node.module}.{alias.name}"
                    for alias in node.names
                    if not exists(node.module, alias.name)
                ]

    assert missing == []


def exists(module: str, name: str) -> bool:
    """Whether a module of ours is there and has this name: as a module below it, or bound anywhere at its top level."""
    if f"{module}.{name}" in MODULES:
        return True
    return module in MODULES and name in bound_names(module)


@functools.cache
def bound_names(module: str) -> set[str]:
    """The names that a module defines, assigns or imports outside of functions and classes."""
    found = set()
    waiting = list(ast.parse(MODULES[module].read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        else:
            found |= {
                each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
            }
            waiting += [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt)]
    return found


def floor_of(module: str) -> int:
    folder = module.partition(".")[0]
    return FLOORS.index(folder) if folder in FLOORS else len(FLOORS)  # entry points stand on top


def test_imports_run_down_the_floors():
    upward = sorted(
        f"{module} imports {other}"
        for module, path in MODULES.items()
        for other in imported(path)
        if floor_of(other) > floor_of(module)
    )

    assert upward == []


def test_no_two_files_import_each_other():
    graph = {module: imported(path) - {module} for module, path in MODULES.items() if "." in module}
    inner = {module: {other for other in others if other in graph} for module, others in graph.items()}

    try:
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_ground_needs_no_torch():
    heavy = [
        module
        for module, path in MODULES.items()
        if module.startswith("groundscore")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(alias.name.partition(".")[0] in HEAVY for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in HEAVY)
    ]

    assert heavy == []
