"""Every measurement, one after another: `python -m bench [--rounds 5]`; the figures go to bench/results.json."""

from __future__ import annotations

import argparse

from bench import build, serve


def main() -> None:
    """Run both halves."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for half in (build, serve):
        half.main(["--rounds", str(options.rounds)])


if __name__ == "__main__":
    main()
