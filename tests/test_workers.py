"""Several processes that train one model: the numbers of one process, a kill of any, clear words for bad starts."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from training_fixtures import PHOTOS, write_features

from bssan_tf.errors import UserError
from bssan_tf.tools import workers
from bssan_tf.tools.keras_callbacks import read_history
from bssan_tf.tools.workers import Team, workers_strategy

THREE_STEPS = {"steps_per_epoch": 3, "epochs": 2, "optimizer": "sgd", "learning_rate": 0.1, "clip_norm": 0.1}


def free_ports(count):
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("localhost", 0))
        return [probe.getsockname()[1] for probe in probes]


def tf_config(ports, index, kind="worker"):
    addresses = [f"localhost:{port}" for port in ports]
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": kind, "index": index}})


def start(project, folder, run, flags, devices="workers", environment=None, kill_at=None):
    """A process of worker.py; of `devices` alone where it is no worker."""
    number = len(list(folder.glob("*.log")))
    arguments = [folder / "corpus", folder / run, devices, json.dumps(flags), folder / f"{run}-{number}.npz"]
    arguments = [sys.executable, project / "tests" / "worker.py", *arguments, *(kill_at or ())]
    environment = {**os.environ, "PYTHONPATH": str(project), "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})}
    log = (folder / f"{number}.log").open("w+")
    process = subprocess.Popen([str(one) for one in arguments], stdout=log, stderr=log, env=environment)
    return process, log, folder / f"{run}-{number}.npz"


def finish(started):
    """Exit codes and what each has said."""
    found = []
    for process, log, _ in started:
        try:
            code = process.wait(150)
        finally:
            process.kill()
        log.seek(0)
        found.append((code, log.read()))
        log.close()
    return found


def two(project, folder, run, flags, kill=None, others=None):
    """Two workers; `kill` (which, at which step); `others`, the flags of the second."""
    ports = free_ports(2)
    return [
        start(
            project,
            folder,
            run,
            others if others and index else flags,
            environment={"TF_CONFIG": tf_config(ports, index)},
            kill_at=kill[1:] if kill and kill[0] == index else None,
        )
        for index in range(2)
    ]


def arrays(path):
    with np.load(path) as found:
        return {name: found[name] for name in found.files if name != "chief"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("workers")
    write_features(made / "corpus", pictures=32)
    return made


@pytest.fixture(scope="module")
def whole(project, folder):
    """Two epochs by two workers, uninterrupted."""
    started = two(project, folder, "whole", THREE_STEPS)
    for number, (code, said) in enumerate(finish(started)):
        assert code == 0, said
        assert f"metrics: {number == 0}" in said
    return [path for _, _, path in started]


@pytest.mark.smoke
@pytest.mark.large
def test_two_workers_train_as_one(project, folder, whole):
    """Losses and weights after three steps, and after three more."""
    process, log, out = start(project, folder, "one", THREE_STEPS, devices="cpu")
    ((code, said),) = finish([(process, log, out)])
    assert code == 0, said
    one, *others = map(arrays, (out, *whole))
    for other in others:
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_allclose(other[name], value, atol=1e-5, err_msg=name)
    with np.load(whole[0]) as chief, np.load(whole[1]) as other:
        assert (bool(chief["chief"]), bool(other["chief"])) == (True, False)
    rows = [read_history(folder / run / "history.csv") for run in ("one", "whole")]
    assert [len(some) for some in rows] == [2, 2]
    for alone, together in zip(*rows):
        assert alone.keys() == together.keys()
        for name in alone.keys() - {"pairs_per_s", "minutes"}:
            assert float(together[name]) == pytest.approx(float(alone[name]), abs=2e-5), name


@pytest.mark.large
@pytest.mark.parametrize(("killed", "by"), [(0, signal.SIGKILL), (1, signal.SIGTERM)])
def test_a_killed_worker_ends_all_and_the_same_command_goes_on(project, folder, whole, killed, by):
    run = f"killed-{killed}-{by}"
    found = finish(two(project, folder, run, THREE_STEPS, kill=(killed, 4, int(by))))
    assert found[killed][0] == -by
    code, said = found[1 - killed]
    assert code == 2, said
    last = said.strip().splitlines()[-1]
    assert "error: --devices workers: another worker has ended, its own last line says why" in last
    assert "Traceback" not in said
    assert len(read_history(folder / run / "history.csv")) == 1
    started = two(project, folder, run, THREE_STEPS)
    for code, said in finish(started):
        assert code == 0, said
    assert "going on after epoch 1 of 2" in said
    expected = arrays(whole[0])
    for _, _, path in started:
        for name, value in arrays(path).items():
            np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)
    rows = [read_history(folder / name / "history.csv") for name in (run, "whole")]
    assert [row["val_rsum"] for row in rows[0]] == [row["val_rsum"] for row in rows[1]]


@pytest.mark.large
def test_workers_are_alike_after_a_start_from_the_first_ones_data(project, folder):
    """As `improved` is on photos, in bfloat16: a CCA, norms that are fitted, dropout, in-batch negatives."""
    flags = {**PHOTOS, "mixed_precision": True, "hold_o2w_attention": True, "all_pairs": 1.0, "epochs": 2}
    flags |= {"negative_source": "batch", "negatives": 3, "schedule": "plateau"}
    started = two(project, folder, "alike", flags)
    for code, said in finish(started):
        assert code == 0, said
    one, other = (arrays(path) for _, _, path in started)
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)
    assert len(read_history(folder / "alike" / "history.csv")) == 2


@pytest.mark.large
def test_workers_that_differ_are_told_so_before_anything_is_written(project, folder):
    for code, said in finish(two(project, folder, "other", THREE_STEPS, others={**THREE_STEPS, "margin": 0.5})):
        assert code == 2, said
        told = "error: --devices workers: worker 1 has margin 0.5, worker 0 has 0.2; give all the same"
        assert said.strip().splitlines()[-1] == told
    assert not (folder / "other").exists()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ('{"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}', "cluster has several chiefs"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": ["x"], "index": 0}}', "the task is a "),
        ("", "is no JSON with cluster and task"),
        ("[]", "is no JSON with cluster and task"),
        ('{"cluster": {"worker": ["a:1"]}}', "task is missing"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}', "index is missing"),
        ('{"cluster": {"ps": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}', "cluster has ps,"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
            "is a chief, and the cluster has w",
        ),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "index is 1, and there are 1 of"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "0"}}', "index is '0', and there are 1"),
        (
            '{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}',
            "'a' is no address such as host1:88",
        ),
        ('{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}', "have the same address"),
    ],
)
def test_a_wrong_tf_config_is_refused(monkeypatch, config, told):
    monkeypatch.setenv("TF_CONFIG", config)
    workers_strategy.cache_clear()
    with pytest.raises(UserError, match=f"^TF_CONFIG: .*{told}.*; set it on every worker, each with its own task$"):
        workers_strategy()


def test_nobody_says_who_the_workers_are(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"^--devices workers: nothing says who the workers are; set TF_CONFIG, as \{"):
        workers_strategy()
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(
        UserError, match=r"^--devices workers: Slurm's variables can't be read \(.*\); start with srun$"
    ):
        workers_strategy()


def test_slurm_says_who_the_workers_are(monkeypatch):
    told = {"PROCID": "2", "STEP_NUM_TASKS": "11", "STEP_NODELIST": "n[1-10]", "STEP_TASKS_PER_NODE": "2,1(x9)"}
    told["JOB_ID"] = "258"
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    resolver = workers._resolver()
    others = [f"n{node}:9016" for node in range(2, 11)]  # in the order of ranks, not of names
    assert resolver.cluster_spec().as_dict() == {"worker": ["n1:9016", "n1:9017", *others]}
    assert (resolver.task_type, resolver.task_id) == ("worker", 2)
    assert resolver.num_accelerators() == {"GPU": 0}  # no more than there are


def test_a_taken_port_is_told(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("TF_CONFIG", tf_config([port], 0))
        workers_strategy.cache_clear()
        told = rf"port {port} of localhost:{port}: Address already in use; end what has it, or take another$"
        with pytest.raises(UserError, match=f"^--devices workers: {told}"):
            workers_strategy()


def test_a_team_of_one_agrees_with_itself():
    import tensorflow as tf

    team, values = Team(tf.distribute.get_strategy()), [np.arange(3.0)]
    assert (team.size, team.index, team.chief, team.replicas) == (1, 0, True, 1)
    assert team.gather("a") == ["a"]
    assert team.of_chief({"a": 1}) == {"a": 1}
    assert team.arrays_of_chief(values) is values
    assert team.first(lambda: 3) == 3
    team.agree({"a": 1})
    with pytest.raises(tf.errors.UnavailableError), team.together():  # is of something else
        raise tf.errors.UnavailableError(None, None, "")
