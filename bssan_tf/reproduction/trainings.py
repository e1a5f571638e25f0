"""The trainings of a plan, each in a process of its own, by the command that is shown for it.

A process for each, so that memory is given back and a run is what its command alone makes. What is finished is used
again, what was begun goes on by --resume.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bssan_tf.config.flags import flags_for
from bssan_tf.errors import UserError
from bssan_tf.reproduction.plan import Plan, Training
from bssan_tf.runs.folder import REPRODUCTION, RunFolder

Step = Callable[[str, int], AbstractContextManager]  # says what is done, and how much of the plan it is
TRAINING = 6  # share of the plan that a training is, where measuring a run is 1
_PACKAGE = Path(__file__).resolve().parents[2]  # the folder that bssan_tf lies in


def finished(run: RunFolder) -> bool:
    """Whether a training has come to its end."""
    return run.metrics_file.exists() and run.export.exists()


def train_all(plan: Plan, devices: str, lock: int, step: Step) -> None:
    """Train what is not finished; UserError if a training fails, whose log lies in `logs` of the plan's folder.

    Its process inherits the descriptor `lock`: it holds the lock also when this process is killed.
    """
    (plan.folder / "logs").mkdir(parents=True, exist_ok=True)
    for training in plan.distinct():
        if not finished(training.run):
            with step(f"training {training.name}", TRAINING):
                log = plan.folder / "logs" / f"{training.name}.txt"
                train(training, log, ["--devices", devices, "--quiet"], flags_for(plan.moved), lock)


def train(training: Training, log: Path, beside: Sequence[str], moved: Sequence[str] = (), lock: int = 1) -> None:
    """Begin a training, or go on with it; `beside` are flags of the call, `moved` say where files lie now."""
    run = training.run
    if run.config_file.exists():
        arguments = ["train", "--resume", str(run.path), *moved, *beside]
    else:
        arguments = ["train", "--name", training.name, *training.flags, *beside]
    paths = os.pathsep.join(filter(None, [str(_PACKAGE), os.environ.get("PYTHONPATH")]))
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(['python', '-m', 'bssan_tf', *arguments])}\n")
        file.flush()
        ended = subprocess.run(
            [sys.executable, "-m", "bssan_tf", *arguments],
            env={**os.environ, "PYTHONPATH": paths, REPRODUCTION: str(log.parent.parent)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            pass_fds=[lock],
            check=False,
        )
    if ended.returncode:
        said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise UserError(f"{run.path}: its training failed, see {log} ({said[-1][:200]}); mend that, and start again")
