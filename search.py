"""`python search.py ...`: see `bssan_tf/commands/search.py`."""

from bssan_tf import cli
from bssan_tf.commands import search

if __name__ == "__main__":
    cli.run(search.main)
