"""The inputs of a run get to where its command finds them: in the way that was asked for, or in the usual one.

Knows which runs cannot have an overlay because of what else they ask for. The invariant: who asked for one and did not
get it is told why.
"""

from __future__ import annotations

from functools import partial

from isolate.cas.store import BlobStore
from isolate.clock import Clock
from isolate.monitor import Monitor
from run_isolated.fetching import fetched, load
from run_isolated.inputs import Inputs
from run_isolated.mapper import How
from run_isolated.overlaid import CannotOverlay, Mounts, Overlaid
from run_isolated.spec import RunSpec
from run_isolated.stopping import Check, go_on
from run_isolated.ways import OVERLAY
from run_isolated.workdir import WorkDir


async def placed(
    root: str,
    spec: RunSpec,
    store: BlobStore,
    work: WorkDir,
    mounts: Mounts,
    clock: Clock,
    monitor: Monitor,
    check: Check = go_on,
) -> tuple[Inputs | Overlaid, str]:
    """Fetch the tree whose hash is `root` for a run in `work`; raises IsolateError.

    Also returns what became of the wish for an overlay: "overlay", or the way taken instead, and why; "" without one.
    """
    cache_dir, policy, verify = spec.content_cache_dir, spec.cache_policy, spec.verify_inputs
    how, became, refusal = spec.mapping, "", None
    get = load if verify else fetched  # it was not found in the cache
    if how == OVERLAY:
        try:
            _check(spec)
            loading = partial(Overlaid.load, store, root, work, cache_dir, policy, clock, monitor, mounts)
            overlaid = await loading(verify=verify, check=check)
        except CannotOverlay as reason:
            refusal = reason
            how, became, get = How.LINK.value, f"{How.LINK.value}: {reason}", load
            monitor.problem(f"No overlay for this run, files are linked or copied: {reason}")
        else:
            return overlaid, OVERLAY
    keep = not spec.leak_temp_dir
    getting = partial(get, store, root, work.run, cache_dir, policy, clock, monitor, How(how))
    inputs = await getting(verify=verify, keep=keep, check=check)
    if refusal is not None and refusal.came is not None and refusal.before is not None:
        inputs.transfer, inputs.before = inputs.transfer.after(refusal.came), refusal.before
    return inputs, became


def _check(spec: RunSpec) -> None:
    """Raise CannotOverlay for a run whose tree must be there when its command is not."""
    if spec.leak_temp_dir:
        raise CannotOverlay("the tree is to be kept for inspection, and an overlay ends with its command")
    if spec.named_caches:
        raise CannotOverlay("named caches are moved into the tree")
    if spec.outputs:
        raise CannotOverlay("outputs are taken from the tree when the command is over")
