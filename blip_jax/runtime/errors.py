"""The one exception for what a person can mend."""


class UserError(ValueError):
    """Bad input: its message is one line that names what was wrong and what would be right.

    The command line prints the message alone on stderr and exits with status 2.
    """
