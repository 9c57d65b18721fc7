"""In the jobs of tests that need no veRL: what `python -m experiments.attempt` trains with.

Python imports this at its start from the PYTHONPATH that the tests' setup lines extend. Everything but the training is
real: the script, the supervising process, the attempt with its lock and events. What a run does is chosen by its seed.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

STEP_SECONDS = 0.05


def train(job, in_this_process, watch):
    """Take the place of attempt.train: steps, metrics and checkpoints as veRL writes them, or an end of some kind."""
    from experiments.attempt import execution
    from experiments.store import warning
    from experiments.store.rundir import RunDir

    config, here, steps = job
    run = RunDir(here.path.parent.parent)
    behaviours = json.loads(Path(os.environ["STANDIN"]).read_text())
    behaviour, _, value = behaviours.get(str(config["seed"]), "train").partition(":")

    def warned():
        return warning.deadline(here.path) is not None

    prefixes = ("SLURM_", "SBATCH_", "CUDA", "ROCR", "RAY_")
    seen = {name: value for name, value in os.environ.items() if name.startswith(prefixes)}
    reward = config["reward"]["custom_reward_function"]["path"]
    seen = {
        "environment": seen,
        "code": execution.__file__,
        "reward": reward,
        "save_freq": config["trainer"]["save_freq"],
    }
    write_atomically(here.path / "seen.json", seen)
    while behaviour == "stuck" and not warned():
        time.sleep(STEP_SECONDS)
    for step in range(run.checkpoint_step() + 1, steps + 1):
        if behaviour == "stuck":
            return
        time.sleep(STEP_SECONDS)
        row = {
            "step": step,
            "data": {"training/global_step": step, "critic/score/mean": 0.5, "response_length/mean": 50},
        }
        with open(here.metrics, "a") as metrics:
            metrics.write(json.dumps(row) + "\n")
        while behaviour == "until warned" and step == 3 and not warned():
            time.sleep(STEP_SECONDS)
        if step % 2 == 0 or step == steps or warned():
            folder = run.checkpoints / f"global_step_{step}"
            (folder / "actor").mkdir(parents=True, exist_ok=True)
            (folder / "data.pt").touch()
            (run.checkpoints / "latest_checkpointed_iteration.txt").write_text(str(step))
            run.record("checkpoint", step=step)
        if warned():
            return
        if step == 3:
            end(behaviour, value, run)


def write_atomically(path, value):
    """Write JSON for a test that waits for the file."""
    path.with_suffix(".new").write_text(json.dumps(value))
    path.with_suffix(".new").rename(path)


def end(behaviour, value, run):
    """End the third step in the way that was asked for."""
    if behaviour == "raise":
        raise ValueError("the loss is not what it was")
    if behaviour == "exit":
        os._exit(int(value))
    if behaviour == "signal once" and len(run.attempts()) == 1:
        os.kill(os.getpid(), signal.Signals[value])
    if behaviour == "signal":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.Signals[value])
    if behaviour == "memory":
        hoard = []
        while True:
            hoard.append(b"x" * 50_000_000)
            time.sleep(0.02)
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while behaviour in ("deaf", "hang") or (behaviour == "once" and len(run.attempts()) == 1):
        time.sleep(STEP_SECONDS)


if "experiments.attempt" in sys.orig_argv:
    # The interpreter starts with the arguments of this process: argv is set after this module.
    from experiments.attempt import __main__, execution

    execution.train = train
    execution.verl_config = lambda config, run, here, steps, variables: (config, here, steps)
    execution.replace_flash = lambda verl: None  # no model is loaded, and there is no config of veRL's to look into
    sys.argv = ["attempt", *sys.orig_argv[sys.orig_argv.index("experiments.attempt") + 1 :]]
    code = __main__.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
