"""What every task on a bot gets: directories, an environment, the administrator's say, and the job for its runner.

Knows no server and no process. The invariant: `prepare` leaves nothing of the task before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from isolate.cas.digest import DEFAULT_NAMESPACE, Namespace
from run_isolated.spec import NamedCache, RunSpec
from swarming.bot import health
from swarming.bot.confinement import Confinement, strictest
from swarming.bot.hooks import Wishes
from swarming.bot.launch import RUNNER_COMMAND, Launch
from swarming.bot.protocol import Manifest
from swarming.bot.settings import Settings
from swarming.bot.workdir import WorkDirectory

NO_GRACE_S = 0.1  # of a task that asks for none; to run_isolated 0 would mean "for ever"


class TaskScript(Protocol):
    """The administrator's part in a task: `script.Script`. Nothing of it raises."""

    @property
    def settings(self) -> Settings: ...

    @property
    def wishes(self) -> Wishes: ...

    @property
    def cost_usd_hour(self) -> float | None: ...

    async def before_task(self, bot_file: Path, launch: Launch) -> Launch: ...

    async def refuse_launch(self, reason: str) -> None: ...

    async def after_task(
        self,
        *,
        failure: bool,
        internal_failure: bool,
        dimensions: Mapping[str, list[str]],
        summary: Mapping[str, object],
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Workplace:
    """What every task on this bot gets."""

    directory: WorkDirectory
    server: str
    bot_id: str
    base_env: Mapping[str, str]
    cost_usd_hour: float
    script: TaskScript
    confinement: Confinement = field(default_factory=Confinement.here)

    @property
    def usual(self) -> Launch:
        """How a runner is started unless a hook wants it otherwise."""
        return Launch(RUNNER_COMMAND, self.base_env)

    def prepare(self, manifest: Manifest, now: float) -> RunSpec:
        """Clear the directory, write what the task may read, and say what is to be run; `now` is the time of day."""
        directory, settings = self.directory, self.script.settings
        directory.clean()
        _write_private(directory.bot_file, {})
        _write_private(directory.context, luci_context(manifest, now))
        return RunSpec(
            root_dir=directory.work,
            cache_dir=directory.isolated_cache,
            base_env={**self.base_env, **self.task_env(manifest)},
            server=manifest.isolate_server or self.server,
            isolated=manifest.isolated,
            namespace=Namespace.parse(manifest.namespace or DEFAULT_NAMESPACE),
            command=manifest.command,
            raw_command=manifest.is_raw,
            relative_cwd=manifest.relative_cwd,
            env=manifest.env,
            env_prefixes=manifest.env_prefixes,
            outputs=manifest.outputs,
            hard_timeout_s=manifest.hard_timeout_s,
            grace_period_s=manifest.grace_period_s or NO_GRACE_S,
            bot_file=str(directory.bot_file),
            named_caches=[NamedCache(*cache) for cache in manifest.caches],
            named_cache_root=directory.named_caches,
            lower_priority=manifest.lower_priority,
            max_cache_size_bytes=settings.cache_bytes,
            max_cache_items=settings.cache_items,
            mapping=settings.mapping,
            min_free_space_bytes=health.min_free_bytes(directory.root, settings),
            limits=self.confinement.of(strictest(settings.limits, manifest.limits)),
            group_parent=self.confinement.parent,
        )

    def task_env(self, manifest: Manifest) -> dict[str, str]:
        """Return what a task finds in its environment besides what the bot had."""
        return {
            "SWARMING_HEADLESS": "1",
            "SWARMING_BOT_ID": self.bot_id,
            "SWARMING_TASK_ID": manifest.task_id,
            "SWARMING_SERVER": self.server,
            "LUCI_CONTEXT": str(self.directory.context),
        }

    def hourly_usd(self) -> float:
        """Return what an hour costs: what the hooks say, else what the operator said."""
        told = self.script.cost_usd_hour
        return self.cost_usd_hour if told is None else told


def luci_context(manifest: Manifest, now: float) -> dict[str, object]:
    """Return what a task may know of its surroundings: sections that would say nothing are absent, as in 2020."""
    sections: dict[str, object] = {}
    if manifest.hard_timeout_s:
        # The time counts from the start of the command, which inputs may delay: too early harms nobody.
        end = {"deadline": now + manifest.hard_timeout_s, "grace_period_secs": manifest.grace_period_s}
        sections["deadline"] = end
    if manifest.secret_bytes:
        sections["swarming"] = {"secret_bytes": manifest.secret_bytes}
    if manifest.realm:
        sections["realm"] = {"name": manifest.realm}
    return sections


def _write_private(path: Path, content: Mapping[str, object]) -> None:
    path.touch(mode=0o600)
    path.write_text(json.dumps(content), encoding="ascii")
