"""Writes slow_tests.txt, the tests that `-m "not slow"` leaves out, from the times of a run.

python -m pytest tests -n auto --junit-xml=times.xml
python tests/slow_tests.py times.xml [--seconds 4]

Tests that have the marker `slow` in their file need no line. A time counts what the test sets up.
"""

import argparse
import pathlib
import xml.etree.ElementTree

LIST = pathlib.Path(__file__).with_suffix(".txt")


def times(path: str) -> dict[str, float]:
    """Returns the seconds of each test of a JUnit file, by its name in pytest."""
    cases = xml.etree.ElementTree.parse(path).getroot().iter("testcase")
    return {
        f"{case.get('classname').replace('.', '/')}.py::{case.get('name')}": float(case.get("time"))
        for case in cases
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", help="JUnit XML of a run")
    parser.add_argument("--seconds", type=float, default=4.0, help="longer tests are slow")
    arguments = parser.parse_args()
    slow = sorted(name for name, t in times(arguments.file).items() if t > arguments.seconds)
    LIST.write_text("".join(f"{name}\n" for name in slow))
    print(f"{len(slow)} tests take more than {arguments.seconds:g} s: {LIST}")


if __name__ == "__main__":
    main()
