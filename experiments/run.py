"""The entry point: `python -m experiments.run [-m] [overrides]`.

One run or a sweep, planned and checked before anything starts; `hydra/launcher` says where it runs.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Sequence

from experiments.python import check_python

try:
    import hydra
except ModuleNotFoundError:
    check_python("hydra")
    raise
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments.command import check_command
from experiments.compose import CONFIG_DIR, register_resolvers
from experiments.errors import UserError
from experiments.launchers.base import PlannedLauncher
from experiments.launchers.standby import Standby

# Hydra's own questions (--cfg, --help, ...) are left to Hydra; everything else goes through a launcher.
HYDRA_QUESTIONS = (
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--shell-completion",
    "-sc",
)


def _run_elsewhere(config: DictConfig) -> None:
    """Do one job of a launcher that is not ours (hydra/launcher=submitit_slurm): our local one does it, where it is."""
    overrides = list(HydraConfig.get().overrides.task)
    command = [sys.executable, "-P", "-m", "experiments.run", *overrides, "hydra/launcher=local"]
    code = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
    if code:
        raise RuntimeError(f"the run ended with {code}; python -m experiments.runs list")


def main() -> int:
    """Return the command's exit code: 0 done, 1 a run failed, 2 the user can mend it, 130 interrupted."""
    gc.disable()  # a launcher enables it when all is planned: what is composed until then stays in use
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting: `main` decides
    register_resolvers()
    arguments = sys.argv[1:]
    questions = any(argument.split("=")[0] in HYDRA_QUESTIONS for argument in arguments)
    if not questions:
        # One run is a sweep of one: a single way from overrides to a launch. The overrides stand together, since
        # Hydra's parser takes them on one side of a flag only.
        overrides = get_args_parser().parse_intermixed_args(arguments).overrides
        flags = [argument for argument in arguments if argument not in (*overrides, "-m", "--multirun")]
        sys.argv[1:] = ["--multirun", *overrides, *flags]
    try:
        if not questions:
            Standby.guess(arguments)
            check_command(overrides)
        hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")(_run_elsewhere)()
    except UserError as error:
        return _refuse(error.problems)
    except (HydraException, OmegaConfBaseException) as error:
        return _refuse([str(error)])
    except yaml.YAMLError as error:
        return _refuse([f"a file of conf/ must be YAML, but is not: {' '.join(str(error).split())}; mend it"])
    except OSError as error:  # before the first run, or in the middle of a sweep
        where = f" {error.filename}" if error.filename else ""
        print(f"error: the runs' folder must be writable, but{where}: {error.strerror}; set runs_dir", file=sys.stderr)
        print("python -m experiments.runs list shows what was started, if anything.", file=sys.stderr)
        return UserError.exit_code
    except KeyboardInterrupt:
        return 130
    finally:
        Standby.forget()
    return 0


def _refuse(problems: Sequence[str]) -> int:
    print("\n".join(f"error: {problem}" for problem in problems), file=sys.stderr)
    if not PlannedLauncher.launched:
        print("nothing was started.", file=sys.stderr)
    return UserError.exit_code


if __name__ == "__main__":
    sys.exit(main())
