"""The entry point: `python -m experiments.run [-m] [overrides]`.

It plans and checks one run or a sweep before anything starts. `hydra/launcher` says where the runs are executed.
"""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys

from experiments.errors import INTERRUPTED, UserError, nobody_reads, of_the_system, print_errors
from experiments.project import CONFIG_DIR, check_python

try:
    import hydra
except ModuleNotFoundError:
    check_python("hydra")
    raise
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

try:
    from experiments.config.compose import register_resolvers
    from experiments.config.hydra_internals import split_arguments
    from experiments.launchers.base import Command
    from experiments.planning.command import check_command
except UserError as error:  # another version of Hydra
    sys.exit(print_errors(error.problems))

# Hydra answers commands with these flags itself; every other command goes through a launcher.
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


def run_elsewhere(config: DictConfig) -> None:
    """Do one job of a launcher that is not ours (e.g. hydra/launcher=submitit_slurm), by our local launcher.

    RuntimeError if the job's command fails.
    """
    overrides = list(HydraConfig.get().overrides.task)
    command = [sys.executable, "-P", "-m", "experiments.run", *overrides, "hydra/launcher=local"]
    code = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
    if code:
        raise RuntimeError(f"the run ended with {code}; python -m experiments.runs list")


def main() -> int:
    """Return the command's exit code: 0 done, 1 a run failed, 2 the user can mend it, 130 interrupted."""
    gc.disable()  # a launcher enables it once all is planned: whatever is composed until then stays in use
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting: `main` decides
    register_resolvers()
    arguments, command = sys.argv[1:], Command(run_elsewhere)
    try:
        if not any(argument.split("=")[0] in HYDRA_QUESTIONS for argument in arguments):
            overrides, flags = split_arguments(arguments)
            # One run is a sweep of one run, so there is one way from overrides to a launch. Hydra's parser wants all
            # overrides on the same side of the flags.
            command.standby.guess(arguments)
            sys.argv[1:] = ["--multirun", *check_command(overrides), *flags]
        hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")(command)()
    except UserError as error:
        return refuse(command, *error.problems)
    except (HydraException, OmegaConfBaseException) as error:
        return refuse(command, str(error))
    except yaml.YAMLError as error:
        problem = f"a file of conf/ must be YAML, but is not: {' '.join(str(error).split())}; mend it"
        return refuse(command, problem)
    except BrokenPipeError:
        return nobody_reads()
    except OSError as error:  # before the first run, or in the middle of a sweep
        code = print_errors([of_the_system(error)])
        print("python -m experiments.runs list shows what was started, if anything.", file=sys.stderr)
        return code
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        return refuse(command, of_the_system(OSError(errno.EAGAIN, str(error))))
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        command.standby.close()
    return 0


def refuse(command: Command, *problems: str) -> int:
    """Print the problems and, if it is true, that nothing was started; return the exit code."""
    code = print_errors(problems)
    if not command.launched:
        print("nothing was started.", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
