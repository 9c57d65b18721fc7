"""The one exception that means: the user can put this right. And the exit codes of all commands."""

import errno
import os
import signal
import sys
from collections.abc import Iterable

USER_ERROR = 2
INTERRUPTED = 130  # the shell's code for Ctrl-C


class UserError(Exception):
    """A mistake that the user can mend, or several at once.

    Every message is an instruction: what must be, what is, what to do. Commands print it without a traceback and
    exit with code 2; nothing has been started when it is raised.
    """

    exit_code = USER_ERROR

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def of_the_system(error: OSError) -> str:
    """Return the problem that an error of the operating system tells of, as an instruction."""
    where = f" {error.filename}" if error.filename else ""
    if error.errno == errno.EAGAIN:
        return f"this user must be allowed more processes, but the system says: {error.strerror}; raise ulimit -u"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"this user must be allowed more open files, but the system says: {error.strerror}; raise ulimit -n"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"there must be room on the disk, but{where}: {error.strerror}; make room"
    return f"the runs' folders must be readable and writable, but{where}: {error.strerror}; mend that, or set runs_dir"


def print_errors(problems: Iterable[str]) -> int:
    """Print each problem on a line of its own, on standard error; return the exit code that tells of them."""
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return USER_ERROR


def nobody_reads() -> int:
    """Give up the output, whose reader has gone (`... | head`); return the exit code that a shell expects."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more when it ends
    return 128 + signal.SIGPIPE
