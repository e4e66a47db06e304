"""The exception for errors that the user can correct."""


class UserError(ValueError):
    """Bad input; its message is one line: what is wrong, then what to do.

    The command line prints only the message on stderr and exits with status 2.
    """
