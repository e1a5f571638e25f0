"""What the documents say of the presets is what the presets are."""

import re
import shlex
from pathlib import Path

import pytest

import train

DOCS = Path(__file__).parent.parent / "docs"
PHOTOS = "--data flickr8k"


def flags_of_preset():
    """The flags of the second column of the table of the preset `improved`."""
    text = (DOCS / "decisions.md").read_text(encoding="utf-8").split("## The preset `improved`")[1].split("\n## ")[0]
    cells = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| ") and " | `--" in line]
    return [cell.strip("` ") for cell in cells]


def config_of(flags):
    return train.config_of(train.build_parser().parse_args(shlex.split(f"{PHOTOS} {flags}")))


@pytest.mark.parametrize("flags", flags_of_preset())
def test_each_flag_of_the_table_is_the_presets(flags):
    assert config_of(flags) == config_of("")


def test_the_table_has_every_part_that_paper_lacks():
    improved, paper = config_of(""), config_of("--preset paper")
    given = set(re.findall(r"--(?:no-)?([a-z0-9-]+)", " ".join(flags_of_preset())))
    differ = set()
    for key in ("data", "model", "training"):
        ours, theirs = vars(getattr(improved, key)), vars(getattr(paper, key))
        differ |= {train.flag_of(name)[2:] for name in ours if ours[name] != theirs[name]}
    assert differ - {"batch-size"} <= given
