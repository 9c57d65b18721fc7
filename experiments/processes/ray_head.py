"""A Ray cluster that outlives an attempt: `python -m experiments.processes.ray_head FOLDER PARENT OPTIONS`.

Starting Ray takes as long as two steps of a small model, so the runs of a local sweep share one cluster, one after the
other. It ends when the launcher that started it ends, in whatever way; PARENT is the launcher's process id.

OPTIONS are ray.init's, as JSON. FOLDER gets Ray's session and, when the cluster is up, the file `address`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

from experiments.processes import endings, ray_python, ray_token, reaping
from experiments.store.files import write_atomically

ADDRESS = "address"
POLL_SECONDS = 0.2


def worker_python(folder: Path) -> str:
    """Return the path of the Python with which Ray starts its processes: a script in the folder, which runs ray_python.

    If nothing in the folder may be executed (noexec), return the plain Python.
    """
    # A copy, because the project may be edited while the cluster runs.
    copy = shutil.copyfile(ray_python.__file__, folder / "ray_python.py")
    script = folder / "python"
    command = shlex.join([sys.executable, "-S", "-E", str(copy), sys.executable])
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    script.chmod(0o700)
    return str(script) if os.access(script, os.X_OK) else sys.executable


def main() -> None:
    """Start the cluster, write its address, and wait until the parent is gone, a daemon ends, or SIGTERM comes."""
    folder, parent, options = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides when the cluster goes
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # the runs that share a cluster are on the CPU
    import ray

    failed = True
    try:
        if Path(os.environ.get(ray_token.PATH, "")).name == ray_token.NAME:
            ray_token.write_token(folder / ray_token.NAME)
        sys.executable = worker_python(folder)  # Ray starts its daemons and workers with it
        ray.init(address="local", _temp_dir=str(folder), log_to_driver=False, **options)
        write_atomically(folder / ADDRESS, ray.get_runtime_context().gcs_address)
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
        daemons = endings.daemons_of(os.getpid())
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
            for pid, name, code in endings.ended(daemons):
                endings.note(folder, pid, code, name)
                return
        failed = False
    except SystemExit as end:  # it was told to end
        failed = bool(end.code)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ray.shutdown()
        reaping.reap(folder)
        if not failed or os.getppid() != parent:
            reaping.drop_folder(folder)  # else the launcher does so, when it has read the log and the note


if __name__ == "__main__":
    main()
