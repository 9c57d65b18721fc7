"""Record the calls of SLURM's programs: wrappers on the PATH note each call when it has returned."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

from tests.slurm.cluster import Cluster

PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr")


class Calls:
    """The wrappers in a folder. Start the process to watch with `environment`."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.log = folder / "calls.txt"
        self.log.touch()
        path = cluster.environment["PATH"]
        for program in PROGRAMS:
            if found := shutil.which(program, path=path):
                wrapper = folder / "bin" / program
                wrapper.parent.mkdir(exist_ok=True)
                note = f'echo {program} "$(date +%s.%N)" >> {self.log}'
                wrapper.write_text(f'#!/bin/bash\n{found} "$@"\ncode=$?\n{note}\nexit $code\n')
                wrapper.chmod(0o755)
        self.environment = {**cluster.environment, "PATH": f"{folder / 'bin'}{os.pathsep}{path}"}

    def made(self) -> list[tuple[str, float]]:
        """Return (program, when it returned) of each call, in order."""
        return [(program, float(when)) for program, when in map(str.split, self.log.read_text().splitlines())]

    def counted(self) -> dict[str, int]:
        """Return how often each program was called."""
        return dict(Counter(program for program, _ in self.made()))
