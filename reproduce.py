"""`python reproduce.py ...`: see `bssan_tf/commands/reproduce.py`."""

from bssan_tf import cli
from bssan_tf.commands import reproduce

if __name__ == "__main__":
    cli.run(reproduce.main)
