"""What Ray has been asked for and could not give: an actor or a placement group that waits, and says nothing itself.

Ray has no public function for this. Read in Ray 2.60.0: ray.autoscaler.v2.sdk asks the control store, as `ray status`
does. Where another version answers differently, nothing is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

MOST = 3  # requests that are named
SHOWN = ("CPU", "GPU")  # what a user can change; a node also offers memory and its own name


def ray_waits() -> str | None:
    """Return in words what Ray waits for and what is free; None if it waits for nothing or can't be asked."""
    try:
        import ray
        from ray._private import state
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.autoscaler.v2.sdk import get_cluster_resource_state

        if not ray.is_initialized():
            return None
        found = get_cluster_resource_state(GcsClient(ray.get_runtime_context().gcs_address))
        waiting = [_group(request.requests) for request in found.pending_gang_resource_requests]
        waiting += [
            f"{request.count} x {_amounts(request.request.resources_bundle)}"
            for request in found.pending_resource_requests
        ]
        if not waiting:
            return None
        names = Counter(str(actor["ActorClassName"]) for actor in _pending(state))
    except Exception:  # Ray may be going down, or be another version
        return None
    actors = f" (actors that are not there: {', '.join(names)})" if names else ""
    offered = "; ".join(_free(node) for node in found.node_states)
    more = f" and {len(waiting) - MOST} more" if len(waiting) > MOST else ""
    return f"Ray waits for {' and '.join(waiting[:MOST])}{more}{actors}, and has free: {offered}"


def _pending(state: Any) -> Iterable[dict[str, Any]]:
    return state.actors(actor_state_name="PENDING_CREATION").values()  # type: ignore[no-any-return]


def _group(requests: Any) -> str:
    """Return the bundles of a placement group, which must all be on one node."""
    bundles = Counter(_amounts(request.resources_bundle) for request in requests)
    return f"a placement group of {' and '.join(f'{count} x {what}' for what, count in bundles.items())}"


def _amounts(resources: Any) -> str:
    return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in sorted(resources.items())) + "}"


def _free(node: Any) -> str:
    total, left = dict(node.total_resources), dict(node.available_resources)
    return ", ".join(f"{left.get(name, 0):g} of {total.get(name, 0):g} {name}s" for name in SHOWN)
