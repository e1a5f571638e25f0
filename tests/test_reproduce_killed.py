"""The real reproduce.py, killed in the middle of its trainings: what was finished is used again, the rest goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_corpus import TINY, write_corpus

PROJECT = Path(__file__).parent.parent
MINUTES = 5


@pytest.mark.large
def test_a_killed_reproduction_goes_on(tmp_path):
    flags = write_corpus(tmp_path / "photos")
    command = [
        sys.executable, str(PROJECT / "reproduce.py"), "table1", "figure5", "figure7", "--name", "mine", "--seeds",
        "0", "1", "--preset", "improved", *flags, *TINY, "--all-pairs", "0", "--epochs", "1",
    ]  # fmt: skip
    options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [tmp_path / "runs" / f"mine-improved-bssan-{seed}" for seed in (0, 1)]
    first = subprocess.Popen(command, **options, start_new_session=True)
    try:
        until = time.monotonic() + 60 * MINUTES
        while not (runs[1] / "config.json").exists():
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        os.killpg(first.pid, signal.SIGKILL)  # and its training
        first.wait()
    kept = (runs[0] / "best.keras").stat().st_mtime_ns
    again = subprocess.run(command, **options, timeout=60 * MINUTES, check=False)
    assert again.returncode == 0, again.stderr
    assert (runs[0] / "best.keras").stat().st_mtime_ns == kept
    assert again.stdout.strip().endswith("reproduction/mine/index.md")
    folder = tmp_path / "reproduction" / "mine"
    page = (folder / "index.md").read_text()
    for run in runs:
        assert (run / "metrics.json").exists()
        assert (run / "command.txt").read_text().splitlines()[0] in page
    assert len((runs[1] / "command.txt").read_text().splitlines()) <= 2  # begun, and gone on with
    for name in ("figure5.png", "figure5.pdf", "figure7-1.png", "figure7-3.pdf"):
        assert (folder / name).stat().st_size > 1000
    assert "| W2R | LSTM | 8 | 1024 |" in page
    assert not list((folder / "measured").glob("*.npy*"))
