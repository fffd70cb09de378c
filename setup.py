"""Metadata of the isolate toolkit; settings of the development tools are in pyproject.toml."""

from __future__ import annotations

import ast
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
PACKAGES = [
    "isolate",
    "isolate.cas",
    "run_isolated",
    "swarming",
    "swarming.bot",
    "server",
    "server.pages",
    "server.stores",
]
COMMANDS = ("isolate", "isolateserver", "run_isolated", "swarming", "swarming-server", "swarming-bot")
DEV = [
    "hypothesis",
    "mypy",
    "pytest",
    "pytest-asyncio",
    "pytest-benchmark",
    "ruff",
    "setuptools>=70",  # the wheel test builds without network
    "types-aiofiles",
    "wheel",
]


def version() -> str:
    """Return `isolate.__version__` without importing the package, whose dependencies may not be there yet."""
    for node in ast.parse((HERE / "isolate/__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise SystemExit("isolate/__init__.py has no __version__")


setup(
    name="isolate-toolkit",
    version=version(),
    description="Content-addressed isolates, and a scheduler for running them on a fleet",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=PACKAGES,
    package_data={"server.stores": ["sql/*.sql"], "server.pages": ["*.html", "*.css", "*.js"]},
    # The older spellings. Installed beside the commands, so each steps aside when imported: see isolate/bin.
    scripts=[f"isolate/bin/{name}.py" for name in ("isolate", "isolateserver", "run_isolated", "swarming")],
    entry_points={"console_scripts": [f"{name} = isolate.entry:{name.replace('-', '_')}" for name in COMMANDS]},
    install_requires=[
        "aiofiles>=23.2",
        "aiohttp>=3.10",
        "blake3>=1.0",
        "click>=8.1.7",
        "fastcdc>=1.6",
        "msgspec>=0.18.6",
        "rich>=13.7",
        "zstandard>=0.23",
    ],
    extras_require={"fast": ["uvloop>=0.19"], "dev": DEV},
    classifiers=["Programming Language :: Python :: 3.11", "Typing :: Typed"],
)
