"""Where the project's folders are, and whether this Python is the one that the project was installed for."""

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGE_DIR = Path(__file__).resolve().parent
PROJECT_DIR = PACKAGE_DIR.parent
CONFIG_DIR = PROJECT_DIR / "conf"
SWEEPS_DIR = PROJECT_DIR / "sweeps"


def check_python(package: str) -> None:
    """Exit with code 2, and a line that says what to do, if one of the project's packages is not installed."""
    if find_spec(package) is None:
        print(
            f"error: Python must be the project's own, but {sys.executable} has no {package}; "
            "do: make install, then: source .venv/bin/activate",
            file=sys.stderr,
        )
        sys.exit(2)


def runs_option(name: str, runs_dir: Path) -> str:
    """Return what a printed command must say of the runs' folder, with a blank before it; "" for the default, runs."""
    return "" if runs_dir == Path("runs").absolute() else f" {name} {shlex.quote(str(runs_dir))}"
