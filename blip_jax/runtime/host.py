"""What the system says of the processes of this machine."""

import os
import pathlib


def start_time(pid: int | str) -> str:
    """Returns when a process of this machine started, in ticks; "" if the system does not say.

    It tells a process from a later one with the same number.
    """
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError, ValueError):
        return ""


def is_running(pid: int | str, started: str = "") -> bool:
    """Returns whether a process of this machine is running.

    Args:
      started: its `start_time`; a later process with the same number is another one. "": unknown.
    """
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:  # another user's process
        pass
    return started in ("", start_time(pid))
