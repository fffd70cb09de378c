"""The layers of the architecture, read from the imports of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("isolate", "run_isolated", "swarming", "server")
ANY = {"isolate", "run_isolated", "swarming", "server", "bench", "tests"}

# What a module is, by the longest matching prefix.
LAYERS = {
    "isolate": "leaf",
    "isolate.errors": "leaf",
    "isolate.clock": "leaf",
    "isolate.cycles": "leaf",
    "isolate.monitor": "leaf",
    "isolate.paths": "leaf",
    "isolate.progress": "leaf",
    "isolate.http": "leaf",
    "isolate.locks": "leaf",
    "isolate.pace": "leaf",
    "isolate.plain_files": "leaf",
    "isolate.problem": "leaf",
    "isolate.retry": "leaf",
    "isolate.urls": "leaf",
    "isolate.cas": "storage",
    "isolate.checkout": "execution",
    "isolate.staging": "execution",
    "run_isolated": "execution",
    "swarming": "scheduling",
    "swarming.actions": "client",
    "swarming.client": "client",
    "swarming.board": "client",
    "swarming.collect": "client",
    "swarming.completing": "client",
    "swarming.listing": "client",
    "swarming.live": "client",
    "swarming.naming": "client",
    "swarming.orders": "client",
    "swarming.outputs": "client",
    "swarming.patience": "client",
    "swarming.report": "client",
    "swarming.reproduce": "client",
    "swarming.session": "client",
    "swarming.show": "client",
    "swarming.summary": "client",
    "swarming.trigger": "client",
    "swarming.why": "client",
    "swarming.bot": "bot",
    "server": "server",
}
TOOLKIT_FALLBACK = "toolkit"  # every other module of `isolate`
ROOTS = {
    "isolate.ending",
    "isolate.entry",
    "isolate.bars",
    "isolate.terminal",
    "isolate.sources",
    "isolate.streams",
    "isolate.steps",
    "isolate.tree_commands",
    "run_isolated.pyz_main",
    "run_isolated.pyz_start",
    "server.app",
    "swarming.bot.life",
    "swarming.commands",
    "swarming.flags",
    "swarming.task_commands",
}
ROOT_NAMES = {"cli", "config", "__main__"}

MAY_IMPORT = {
    "leaf": {"leaf"},
    "storage": {"leaf", "storage"},
    "toolkit": {"leaf", "storage", "toolkit"},
    "execution": {"leaf", "storage", "toolkit", "execution"},
    "scheduling": {"leaf", "scheduling"},
    "client": {"leaf", "storage", "toolkit", "execution", "scheduling", "client"},
    "bot": {"leaf", "storage", "toolkit", "execution", "scheduling", "client", "bot"},
    "server": {"leaf", "storage", "scheduling", "server"},
}
ALSO = {
    ("scheduling", "isolate.cas.digest"),
    ("server", "isolate.entries"),
    ("server", "isolate.isolated"),
    ("isolate.errors", "isolate.cas.digest"),  # for type checking only: errors carry the blob they are about
}

# Libraries that one module keeps to itself, so that replacing one is a change in one place.
OWNERS = {
    "blake3": {"isolate.cas.digest"},
    "hashlib": {"isolate.cas.digest"},
    "zlib": {"isolate.cas.codec"},
    "zstandard": {"isolate.cas.codec"},
    "aiofiles": {"isolate.cas.files"},
    "fastcdc": {"isolate.cas.chunker"},
    "rich": {
        "isolate.bars",
        "isolate.terminal",
        "swarming.board",
        "swarming.session",
        "swarming.show",
    },  # last two: types
    "uvloop": {"server.cli", "server.runtime"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[:2] != ("isolate", "bin"):
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def layer_of(module: str) -> str:
    if module in ROOTS or module.rpartition(".")[2] in ROOT_NAMES:
        return "root"
    best = max((name for name in LAYERS if module == name or module.startswith(name + ".")), key=len)
    return TOOLKIT_FALLBACK if best == "isolate" and module != "isolate" else LAYERS[best]


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node.lineno, full if full in MODULES else str(node.module)


def broken_rule(module: str, imported: str) -> str | None:
    """Return why `module` may not import `imported`, or None."""
    top = imported.partition(".")[0]
    if top in OWNERS and module not in OWNERS[top]:
        return f"only {', '.join(sorted(OWNERS[top]))} may import {top}"
    if top == "aiohttp" and not (module == "isolate.http" or module.startswith("server.")):
        return "only isolate.http (client) and server.* may import aiohttp"
    if top not in ANY or layer_of(module) == "root":
        return None
    if top in {"bench", "tests"}:
        return "nothing that is installed may import bench or tests"
    layer, target = layer_of(module), layer_of(imported)
    if target == "root":
        return f"{imported} is a root: only other roots import it"
    if target not in MAY_IMPORT[layer] and not {(layer, imported), (module, imported)} & ALSO:
        return f"{layer} may import {', '.join(sorted(MAY_IMPORT[layer]))}; {imported} is {target}"
    return None


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_its_layer_allows(module: str) -> None:
    broken = [
        f"{MODULES[module].relative_to(ROOT)}:{line}: {reason}"
        for line, imported in imports_of(MODULES[module])
        if (reason := broken_rule(module, imported))
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("module", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_package_files_hold_only_a_docstring(module: str) -> None:
    body = ast.parse(MODULES[module].read_text()).body
    extra = [ast.unparse(node) for node in body[1:] if not ast.unparse(node).startswith("__version__ =")]
    assert isinstance(body[0], ast.Expr), f"{module} needs a docstring"
    assert not extra, f"{module}/__init__.py holds more than its docstring: {extra}"


CLOCK_DOORS = {"isolate.clock"}
FORBIDDEN_CALLS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow")}


@pytest.mark.parametrize("module", [name for name in MODULES if name not in CLOCK_DOORS and layer_of(name) != "root"])
def test_time_and_environment_are_arguments(module: str) -> None:
    """Architecture, decision 11: the clock and the environment have one door each."""
    found = []
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = (node.value.id, node.attr)
            if name in FORBIDDEN_CALLS or name in {("os", "environ"), ("os", "getenv")}:
                found.append(f"line {node.lineno}: {'.'.join(name)}")
    assert not found, f"{module}: pass it in instead: {found}"


@pytest.mark.parametrize(
    ("module", "imported", "legal"),
    [
        ("isolate.cas.cache", "isolate.scan", False),
        ("isolate.archive", "isolate.cas.store", True),
        ("server.app", "run_isolated.run", True),
        ("server.swarming_v1", "isolate.archive", False),
        ("server.inputs", "isolate.isolated", True),
        ("swarming.scheduler", "isolate.cas.digest", True),
        ("swarming.scheduler", "isolate.cas.store", False),
        ("swarming.bot.main", "run_isolated.run", True),
        ("isolate.scan", "isolate.cli", False),
        ("isolate.cas.cache", "aiohttp", False),
        ("isolate.scan", "blake3", False),
    ],
)
def test_the_rules_themselves(module: str, imported: str, *, legal: bool) -> None:
    assert (broken_rule(module, imported) is None) is legal
