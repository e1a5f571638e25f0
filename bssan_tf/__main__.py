"""`python -m bssan_tf COMMAND ...`, and `bssan COMMAND ...` where the package is installed."""

from __future__ import annotations

import importlib
import sys

from bssan_tf import cli
from bssan_tf.commands import NAMES


def main() -> None:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        print(f"usage: bssan {{{','.join(NAMES)}}} ...\n\nbssan COMMAND --help says what a command takes.")
    elif name in NAMES:
        sys.argv[:2] = [f"bssan {name}"]  # which help, errors and hints then say
        cli.run(importlib.import_module(f"bssan_tf.commands.{name}").main)
    else:
        print(f"error: {name or 'no command'}: must be one of {', '.join(NAMES)}; see --help", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
