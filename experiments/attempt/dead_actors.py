"""Which Ray actors of this process's job have died, and how, as Ray's control store says.

Ray has a public list of living named actors only; not all of ours have names. ray._private.state.actors has all, with
the reason of each death. Read in Ray 2.60.0; another version is asked for nothing, and the log says so.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

READ_IN = "2.60.0"
ANSWER_SECONDS = 1.0
# The reasons (ray.protobuf's ActorDiedErrorContext.Reason) of deaths that somebody asked for.
INTENDED = ("RAY_KILL", "OUT_OF_SCOPE", "REF_DELETED")


def is_known() -> bool:
    """Return whether this version of Ray is the one whose deaths are understood; if not, print that."""
    import ray

    if ray.__version__ != READ_IN:
        print(f"Ray must be {READ_IN} for its dead actors to be named, but is {ray.__version__}: they are not watched")
    return bool(ray.__version__ == READ_IN)


class Asked:
    """The question which actors have died, asked in a thread: a control store that is gone takes Ray half a minute."""

    def __init__(self) -> None:
        self._answer: Future[list[tuple[str, int]]] | None = None

    def dead(self) -> list[tuple[str, int]]:
        """Return what `dead_actors` does; [] if there is no answer in ANSWER_SECONDS: the next call waits for it, too.

        [] as well if Ray can't be asked: it may be going down.
        """
        answer = self._answer = self._answer or self._ask()
        try:
            dead = answer.result(timeout=ANSWER_SECONDS)
        except TimeoutError:
            if not answer.done():
                return []
            dead = []  # the error is Ray's
        except Exception:
            dead = []
        self._answer = None
        return dead

    @staticmethod
    def _ask() -> Future[list[tuple[str, int]]]:
        answer: Future[list[tuple[str, int]]] = Future()

        def ask() -> None:
            try:
                answer.set_result(dead_actors())
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()
        return answer


def dead_actors() -> list[tuple[str, int]]:
    """Return (name, process id) of the actors of this job that died without being asked to, the first death first.

    The list is empty before this process has connected to a cluster, and after it has left.
    """
    import ray
    from ray._private import state

    if not ray.is_initialized():
        return []
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    dead = [actor for actor in state.actors(job_id=job, actor_state_name="DEAD").values() if _unasked(actor)]
    # An actor goes with the one that made it: that one comes first, whichever was seen to end first.
    dead.sort(key=lambda actor: (_reason(actor) == "OWNER_DIED", actor["EndTime"]))
    return [(_name(actor), int(actor["Pid"])) for actor in dead]


def _unasked(actor: dict[str, Any]) -> bool:
    """Return whether an actor's process or node died; not an actor whose constructor raised: veRL reports that."""
    cause = actor["DeathCause"]
    if cause is None or not cause.HasField("actor_died_error_context"):
        return False
    message = cause.actor_died_error_context.error_message
    return _reason(actor) not in INTENDED and "INTENDED_" not in message


def _reason(actor: dict[str, Any]) -> str:
    context = actor["DeathCause"].actor_died_error_context
    return str(type(context).Reason.Name(context.reason))


def _name(actor: dict[str, Any]) -> str:
    kind, name = str(actor["ActorClassName"]).rpartition(".")[2], str(actor["Name"])
    return name if not kind or kind in name else f"{kind} {name}".strip()
