"""The one exception that means: the user can put this right."""


class UserError(Exception):
    """A mistake a user can mend, or several of them at once.

    Every message is an instruction: what must be, what is, what to do. Commands print it without a traceback and
    exit with code 2; nothing has been started when it is raised.
    """

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
