"""The exception for errors that the user can correct."""

DIVERGED = "has it diverged?"  # what to ask where weights or scores are NaN


class UserError(ValueError):
    """Bad input; its message is one line: what is wrong, then what to do.

    The command line prints only the message on stderr and exits with status 2.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # those of libraries have several
