"""Stand in for `python` where Ray starts its processes: `ray_python.py PYTHON ARGUMENTS...` becomes PYTHON ARGUMENTS.

A Ray worker with an environment of its own begins as Ray's setup_worker.py, which sets the variables and becomes the
Python that the environment names. To do so it imports all of ray, and that takes longer than a process from the fork
server takes to begin. This file does the same in a tenth of the time. Read in Ray 2.60.0:
ray/_private/runtime_env/context.py. What this file does not know, it leaves to setup_worker.py.

Run as `python -S -E`; to start fast, it imports only a little of the standard library.
"""

import json
import os
import shlex
import sys

SETUP = "setup_worker.py"
LANGUAGE, CONTEXT = "--language=", "--serialized-runtime-env-context="
KNOWN = {"env_vars", "py_executable"}  # a context's fields that this file knows; all others must be empty


def worker(arguments: list[str]) -> tuple[list[str], dict[str, str]] | None:
    """Return the command that Ray's setup_worker.py would become, and the variables that it would set.

    None if these are not its arguments, or if they ask for more than this file knows.
    """
    if not arguments or os.path.basename(arguments[0]) != SETUP or f"{LANGUAGE}PYTHON" not in arguments:
        return None
    contexts = [argument.removeprefix(CONTEXT) for argument in arguments if argument.startswith(CONTEXT)]
    context = json.loads(contexts[0]) if contexts else {}
    variables, python = context.get("env_vars") or {}, context.get("py_executable")
    if not python or any(context[name] for name in context.keys() - KNOWN) or any("$" in v for v in variables.values()):
        return None
    left = [argument for argument in arguments[1:] if not argument.startswith((LANGUAGE, CONTEXT))]
    return [*shlex.split(python), *left], variables


def main() -> None:
    """Become the process that the arguments ask for."""
    command, variables = worker(sys.argv[2:]) or (sys.argv[1:], {})
    os.environ.update(variables)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
