"""Score slowly into files, to be killed: a process of test_score_file.py.

python tests/slow_scoring.py OUT.npy PART...
"""

import sys
import time

import scoring_fixtures

from bssan_tf.scoring import matrix


def slow(block):
    """The same with a pause before each block of pictures."""

    def paused(*arguments):
        time.sleep(0.05)
        return block(*arguments)

    return paused


if __name__ == "__main__":
    for constant in scoring_fixtures.SMALL:
        setattr(*constant)
    matrix.Pictures.block = slow(matrix.Pictures.block)
    scoring_fixtures.score_in_blocks(sys.argv[1], sys.argv[2:])
