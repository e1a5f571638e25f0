"""Several processes, on one machine or many, that train one model together.

In: who they are, by TF_CONFIG or by Slurm's variables. Out: TensorFlow's strategy for them, and values that all have.
All call the same methods in the same order; who is not there yet is waited for.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)

WORKERS = "workers"  # of --devices
FLAG = f"--devices {WORKERS}"
PORT, PORTS = 8888, 64  # of the first task of a node under Slurm, and how far those of two jobs lie apart
_MOST_TASKS = 1024  # of a node, under Slurm
_JOBS = {"worker", "chief"}
_GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.FailedPreconditionError,
    tf.errors.DeadlineExceededError,
)


@functools.cache
def workers_strategy() -> tf.distribute.Strategy:
    """MultiWorkerMirroredStrategy over the workers of TF_CONFIG, or of a step of Slurm; waits until all are there.

    UserError where neither tells who they are, TF_CONFIG is wrong or half set, or this worker's port is taken.
    """
    resolver = _resolver()
    spec, own = resolver.cluster_spec(), (resolver.task_type, resolver.task_id)
    address, count = spec.task_address(*own), sum(len(spec.job_tasks(job)) for job in spec.jobs)
    _check_port(address)
    logger.info("worker %s, %s %d: %d workers; waiting for all of them", address, *own, count)
    try:
        with _ended_by_signals():
            return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except RuntimeError as error:  # TensorFlow runs already
        raise UserError(f"{FLAG}: {_line(error)}; start anew, in a process of its own") from None
    except tf.errors.OpError as error:
        raise UserError(
            f"{FLAG}: the workers did not come together ({_line(error)}); start all of them again"
        ) from None


def _resolver() -> tf.distribute.cluster_resolver.ClusterResolver:
    if "TF_CONFIG" in os.environ:
        _check_config(os.environ["TF_CONFIG"])
        return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if "SLURM_PROCID" not in os.environ:
        remedy = 'set TF_CONFIG, as {"cluster": {"worker": ["host1:8888", "host2:8888"]}, "task": {"type": "worker", '
        raise UserError(f'{FLAG}: nothing says who the workers are; {remedy}"index": 0}}}}, or start with srun')
    try:  # its own order of hosts is n1, n10, n2, and it needs GPUs: both are told anew below
        found = tf.distribute.cluster_resolver.SlurmClusterResolver(gpus_per_node=_MOST_TASKS, auto_set_gpu=False)
        tasks, rank, job = found._task_configuration, int(os.environ["SLURM_PROCID"]), os.environ.get("SLURM_JOB_ID")
        first = PORT + int(job or 0) % 256 * PORTS  # another training may run on the node
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise UserError(f"{FLAG}: Slurm's variables can't be read ({_line(error)}); start with srun") from None
    addresses = [f"{host}:{first + i}" for host, count in tasks.items() for i in range(count)]
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": addresses}),
        task_type="worker",
        task_id=rank,
        num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},  # which Slurm gave to this task
        rpc_layer="grpc",
    )


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """TensorFlow's wait for the others lets no KeyboardInterrupt through, and from then on it would ignore SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_config(text: str) -> None:
    """UserError where this is no TF_CONFIG of a training by workers."""

    def refuse(problem: str) -> None:
        raise UserError(f"TF_CONFIG: {problem}; set it on every worker, each with its own task")

    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        kind, index = task["type"], task["index"]
        jobs = {job: list(addresses) for job, addresses in cluster.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        missing = f"{error.args[0]} is missing" if isinstance(error, KeyError) else "is no JSON with cluster and task"
        refuse(missing)
    if others := sorted(jobs.keys() - _JOBS):
        refuse(f"the cluster has {', '.join(others)}, where only worker and chief can be")
    if len(jobs.get("chief", ())) > 1:
        refuse("the cluster has several chiefs")
    if not isinstance(kind, str) or kind not in jobs:
        refuse(f"the task is a {kind}, and the cluster has {', '.join(sorted(jobs)) or 'nobody'}")
    if type(index) is not int or not 0 <= index < len(jobs[kind]):
        refuse(f"the task's index is {index!r}, and there are {len(jobs[kind])} of {kind}")
    addresses = [address for some in jobs.values() for address in some]
    for address in addresses:
        host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
        if not (host and port.isdecimal() and 0 < int(port) < 65536):
            refuse(f"{address!r} is no address such as host1:8888")
    if len(set(addresses)) < len(addresses):
        refuse("two workers have the same address")


def _check_port(address: str) -> None:
    """UserError where another process has the port: TensorFlow would tell it in many lines, or end the process."""
    port = int(address.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"{FLAG}: port {port} of {address}: {error.strerror}; end what has it, or take another"
            ) from None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


class Team:
    """The workers of a strategy; where it is of this process alone, a team of one.

    Attributes:
        size, index: number of the workers, and which of them this one is.
        chief: whether it is the first, which alone writes.
        replicas: devices of this worker.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self.strategy = strategy
        resolver = getattr(strategy, "cluster_resolver", None)
        spec = resolver.cluster_spec() if resolver else None
        self.size, self.index = 1, 0
        if spec:
            tasks = [(job, i) for job in sorted(spec.jobs) for i in range(len(spec.job_tasks(job)))]  # chief first
            self.size, self.index = len(tasks), tasks.index((resolver.task_type, resolver.task_id))
        self.chief = self.index == 0
        self.replicas = strategy.num_replicas_in_sync // self.size

    def gather(self, value) -> list:
        """A JSON value of each worker, in their order."""
        if self.size == 1:
            return [value]
        own = np.frombuffer(json.dumps(value).encode(), np.uint8).astype(np.float32)
        lengths = self._sum(np.eye(self.size, dtype=np.float32)[self.index] * len(own)).astype(int)
        table = np.zeros((self.size, lengths.max()), np.float32)
        table[self.index, : len(own)] = own
        return [json.loads(row[:n].astype(np.uint8).tobytes()) for row, n in zip(self._sum(table), lengths)]

    def of_chief(self, value=None):
        """The chief's JSON value; what others give is not looked at."""
        return self.gather(value if self.chief else None)[0]

    def arrays_of_chief(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The chief's arrays, as float32; others give some of the same shapes, whose values are not looked at."""
        return (
            arrays if self.size == 1 else [self._sum(array if self.chief else np.zeros_like(array)) for array in arrays]
        )

    def first(self, task: Callable):
        """The chief does a task before all others do."""
        if not self.chief:
            self.gather(None)
            return task()
        done = task()
        self.gather(None)
        return done

    def agree(self, values: Mapping[str, object]) -> None:
        """UserError, on all workers, where one has another value than the chief."""
        first, *others = self.gather({name: json.dumps(value, sort_keys=True) for name, value in values.items()})
        for number, other in enumerate(others, start=1):
            if differing := [name for name in first if first[name] != other.get(name)]:
                name = differing[0]
                told = f"worker {number} has {name} {other.get(name)!s:.60}, worker 0 has {first[name]:.60}"
                raise UserError(f"{FLAG}: {told}; give all the same")

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """One line where others have ended. What the last whole epoch saved is kept."""
        try:
            yield
        except _GONE as error:
            if self.size == 1:
                raise
            remedy = "if it was killed, start the same command again on all; what was finished is kept"
            told = f"another worker has ended, its own last line says why ({type(error).__name__})"
            raise UserError(f"{FLAG}: {told}; {remedy}") from None

    def _sum(self, array: np.ndarray) -> np.ndarray:
        parts = iter([array])  # of this worker's first device

        def part(_):
            return tf.constant(next(parts, np.zeros_like(array)), tf.float32)

        values = self.strategy.experimental_distribute_values_from_function(part)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None).numpy()
