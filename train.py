"""`python train.py ...`: see `bssan_tf/commands/train.py`."""

from bssan_tf import cli
from bssan_tf.commands import train

if __name__ == "__main__":
    cli.run(train.main)
