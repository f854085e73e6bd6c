"""Imports point one way, and the core knows no ratatouille."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = [
    {"registry"},
    {"lib", "runs"},
    {"networks", "datasets", "hparams_registry", "model_selection", "protocols"},
    {"algorithms"},
    {"engine"},
    {"jobs", "tables", "command_launchers"},
    {"planning", "pruning"},
    {"sweep", "launching", "preflight", "testing", "costs", "verification"},
    {"scripts"},
]
# facades, and helpers that need nothing of their layer: file -> what it may import all the same
EXCEPTIONS = {
    "lib/misc.py": {"algorithms", "engine"},
    "networks/letters.py": {"engine"},
    "engine/execute.py": {"jobs"},
    "command_launchers/workers.py": {"scripts"},
}


def level(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def imported(path: Path) -> set[str]:
    names = set()
    tree = ast.parse(path.read_text())
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n)]
    skipped = {id(child) for node in typing for child in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize(
    "path", sorted((ROOT / "domainbed").rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_imports_point_down(path):
    relative = path.relative_to(ROOT / "domainbed")
    own = relative.parts[0].removesuffix(".py")
    names = imported(path)
    assert not any(name.startswith("ratatouille_algorithms") for name in names)
    if own == "__init__":
        return
    for name in names:
        parts = name.split(".")
        if parts[0] == "domainbed" and parts[1] in set().union(*LAYERS):
            allowed = EXCEPTIONS.get(relative.as_posix(), set())
            assert level(parts[1]) <= level(own) or parts[1] in allowed, name
