"""What a run executes: its command, of the request or of its tree, with its directory and its environment.

Knows no process and no store. The invariant: nothing of the runner's own directories is in it but by a parameter.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from run_isolated.account import switched
from run_isolated.command import Command, environment, inner_path, prepare, substitute, working_directory
from run_isolated.command_group import MARK
from run_isolated.spec import RunSpec
from run_isolated.workdir import WorkDir

if TYPE_CHECKING:  # a plain command has no tree, and does not pay for what concerns them
    from run_isolated.inputs import Inputs
    from run_isolated.overlaid import Overlaid


def command_of(spec: RunSpec, inputs: Inputs | Overlaid | None, work: WorkDir) -> Command:
    """Return what to execute; raises CannotRun, InternalFailure."""
    words, relative_cwd = list(spec.command), spec.relative_cwd
    if inputs is not None and not spec.raw_command:
        words, relative_cwd = [*inputs.command, *words], inputs.relative_cwd or ""
    out_dir = None if spec.server is None else work.out
    layers = None if inputs is None else inputs.layers
    for path in spec.outputs:
        working_directory(work.run, os.path.dirname(inner_path(path)), layers)
    changes = {key: substitute(value, out_dir, spec.bot_file) for key, value in spec.env.items()}
    env = environment(spec.base_env, changes, spec.env_prefixes, work.run, work.temp)
    if spec.switch_to_account is not None:
        env = switched(env, spec.switch_to_account, work.path / "luci_context.json")
    return prepare(words, relative_cwd, env | {MARK: str(work.path)}, work.run, out_dir, spec.bot_file, layers)
