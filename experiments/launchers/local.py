"""hydra/launcher=local: execute runs on this machine, as many at once as it has room for, with their progress."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from experiments.attempt.execution import interrupt
from experiments.errors import INTERRUPTED, UserError
from experiments.launchers.notify import Teller
from experiments.launchers.places import Machine, Place, Places, threads_for
from experiments.launchers.progress import Progress
from experiments.launchers.retries import Retries
from experiments.launchers.summary import print_figures, print_summary
from experiments.launchers.turn import Turn, record_failure
from experiments.planning.content import code_version
from experiments.planning.cost import check_disk, disk_needed
from experiments.planning.plan import PlannedRun, freeze, launched
from experiments.processes.standby import Standby
from experiments.store.code_copy import snapshot
from experiments.store.events import Event
from experiments.store.failures import DISK_FULL, RESUMES, Failure, of_an_error

POLL_SECONDS = 0.25
PATIENCE_SECONDS = 15.0  # how long interrupted attempts may take to end by themselves


def run_all(
    runs: Sequence[PlannedRun],
    standby: Standby,
    code: Path | None = None,
    at_once: int = 1,
    here: Machine | None = None,
    retries: int = 0,
    notify: str | None = None,
) -> int:
    """Execute the runs that are not done, as many at once as asked; return the command's exit code.

    `code`: the copy of the code to execute (see store/code_copy.py); None: copy the code as it is now. `here`: what the
    machine has, as the plan read it. `retries`: how often a run that failed by what passes is tried again (retries.py).
    `notify`: who is told of the first failure and of the end (notify.py); nobody is told of an interrupt.

    Ctrl-C interrupts the runs in progress, which can be resumed, and skips the rest (exit code 130). A run that another
    launcher has started, or that was cancelled while it waited for its turn, is passed over.
    """
    signal.signal(signal.SIGINT, interrupt)
    todo = [run for run in runs if run.action not in ("skip", "wait")]
    codes: list[int] = []
    if todo:
        check_disk(todo[0].folder.path, sum(disk_needed(run.config) for run in todo))
        configs = [run.config for run in todo]
        code = code or snapshot(todo[0].folder.path.parent, configs, code_version())
        todo = [freeze(run) for run in todo]
        for run in todo:
            run.folder.record(Event.LAUNCHED, **launched("local", run, code))
        here = here or Machine()
        places, cores = Places(at_once, here.gpus, peaks=here.peaks), threads_for(at_once, here)
        try:
            standby.prepare(configs)
            with Progress(todo) as progress:
                teller = Teller(notify, [run.folder for run in todo])
                codes = Queue(code, progress, standby, places, cores, Retries(retries), teller).work(todo)
        finally:
            standby.close()
    print_summary(runs)
    if todo:
        print_figures(runs)
        teller.of_the_end(INTERRUPTED in codes)
    return INTERRUPTED if INTERRUPTED in codes else int(any(codes))


class Queue:
    """The runs of a launch that wait for their turn, and those under way."""

    def __init__(
        self,
        code: Path,
        progress: Progress,
        standby: Standby,
        places: Places,
        cores: int,
        retries: Retries | None = None,
        teller: Teller | None = None,
    ) -> None:
        self.code, self.progress, self.standby, self.places, self.cores = code, progress, standby, places, cores
        self.retries, self.teller = retries or Retries(0), teller
        self.turns: list[Turn] = []
        self.told = ""

    def work(self, runs: Sequence[PlannedRun]) -> list[int]:
        """Execute the runs, in order where they can't be at once; return the exit codes of the executed runs.

        Until the last one has ended, `runs clean` leaves the checkpoints of all of them alone.
        """
        with contextlib.ExitStack() as wanted:
            for run in runs:
                wanted.enter_context(run.folder.wanted())
            return self._work(runs)

    def _work(self, runs: Sequence[PlannedRun]) -> list[int]:
        waiting, codes = deque(runs), list[int]()
        try:
            while waiting or self.turns:
                while waiting and (place := self._place_for(waiting[0])) is not None:
                    codes += self._begin(waiting.popleft(), place)
                for turn in [turn for turn in self.turns if turn.poll() is not None]:
                    code = self._end(turn)
                    again = self.retries.again(turn.run.folder) if code not in (0, INTERRUPTED) else None
                    if again is None:
                        codes.append(code)
                        if self.teller and code not in (0, INTERRUPTED) and (waiting or self.turns):
                            self.teller.of_a_failure(turn.run.folder)
                    else:
                        self.progress.note(f"{turn.run.name}: {again}")
                        waiting.append(turn.run)
                self.progress.update()
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            codes.append(INTERRUPTED)
        finally:
            codes += self._interrupt()
        return codes

    def _place_for(self, run: PlannedRun) -> Place | None:
        """Take a place for a run and return it; None if it must wait.

        What it waits for is said once, if it is not another run of this launch.
        """
        if not self.retries.is_due(run.folder):
            return None
        place = self.places.take(run.config, run.name, alone=run.name in self.retries.alone)
        if isinstance(place, Place):
            return place
        if not self.turns and place != self.told:
            self.told = place
            self.progress.note(f"{run.name}: waits for {place}")
        return None

    def _begin(self, run: PlannedRun, place: Place) -> list[int]:
        """Give a run its turn at the place that was taken for it; return its exit code if it has no turn."""
        row = self.progress.row(run)
        try:
            turn: Turn | str | Failure = _full_disk(run) or Turn.begin(
                run, place, self.cores, self.code, self.standby, row
            )
        except OSError as error:  # its folder can't be used
            turn = of_an_error(error)
        if isinstance(turn, Failure):
            row.begin(run)
            record_failure(run, turn, row)
            row.end()
            self.places.give_back(place)
            return [1]
        if isinstance(turn, str):
            row.pass_over(turn)
            self.places.give_back(place)
            return []
        self.turns.append(turn)
        return []

    def _end(self, turn: Turn) -> int:
        self.turns.remove(turn)
        self.places.give_back(turn.place)
        return turn.code_at_end or 0

    def _interrupt(self) -> list[int]:
        """End what is under way: all at the same time, and by force what has not ended after PATIENCE_SECONDS."""
        codes = []
        for turn in self.turns:
            self.progress.note(f"{turn.run.name}: interrupted, going down (it can be resumed)")
            turn.interrupt()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.turns:
            for turn in self.turns if time.monotonic() > deadline else ():
                turn.kill()
            for turn in [turn for turn in self.turns if turn.poll() is not None]:
                codes.append(self._end(turn))
            time.sleep(0.05)
        return codes


def _full_disk(run: PlannedRun) -> Failure | None:
    """Return the failure of a run if the disk has no room for it: the runs before it may have filled the disk."""
    try:
        check_disk(run.folder.path, disk_needed(run.config))
    except UserError as error:
        return Failure(DISK_FULL, str(error), f"make room and {RESUMES}")
    return None
