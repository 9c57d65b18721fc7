"""Is this the Python that the project was installed for?"""

import sys
from importlib.util import find_spec


def check_python(package: str) -> None:
    """SystemExit with code 2, and a line that says what to do, where one of the project's packages is not installed."""
    if find_spec(package) is None:
        print(
            f"error: Python must be the project's own, but {sys.executable} has no {package}; "
            "do: make install, then: source .venv/bin/activate",
            file=sys.stderr,
        )
        sys.exit(2)
