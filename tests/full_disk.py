"""Lets the disk run full, or the permission to write be withdrawn, while each verb runs.

python tests/full_disk.py [VERB ...] [--losses 10] [--seed 0]      as root, on Linux

Full disk: each verb writes to a small file system in memory with more and more space left, until
it is enough. Permission: the process is halted at moments drawn by chance, all it has
written is made read-only, and it goes on. Each time it must end with one line and status 2, or with
status 0 and all its results; a file that was there before must keep its content; and the same
command with space and permission must complete what a run left alone gives.
"""

# Root without the right to write to what is read-only.
BOUND = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
# Bytes that are free, or parts of the whole output.
SPACES = (0, 5_000, 20_000, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
