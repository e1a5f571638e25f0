"""`python visualize.py ...`: see `bssan_tf/commands/visualize.py`."""

from bssan_tf import cli
from bssan_tf.commands import visualize

if __name__ == "__main__":
    cli.run(visualize.main)
