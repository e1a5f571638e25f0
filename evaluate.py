"""`python evaluate.py ...`: see `bssan_tf/commands/evaluate.py`."""

from bssan_tf import cli
from bssan_tf.commands import evaluate

if __name__ == "__main__":
    cli.run(evaluate.main)
