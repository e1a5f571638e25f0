"""Ray (`pip install 'bssan_tf[ray]'`), for `--engine ray`: connected to a cluster, its errors in one line.

The cluster is that of $RAY_ADDRESS (`auto`: the one that `ray start` has begun on this machine), else one of this
machine alone, for this call. Its nodes get this package from here; they need the packages that it stands on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from bssan_tf.errors import UserError

FLAG = "--engine ray"
ADDRESS = "RAY_ADDRESS"
PACKAGES = ("tensorflow", "keras", "numpy", "pillow")  # that numbers depend on
PACKAGE = Path(__file__).parents[1]

logger = logging.getLogger(__name__)


class Home(NamedTuple):
    """Where a command was given: what its tasks need of every node."""

    folder: str
    packages: dict[str, str]  # versions

    @classmethod
    def here(cls) -> Home:
        """That of this process."""
        return cls(os.getcwd(), {name: version(name) for name in PACKAGES})

    def require_same_packages(self) -> None:
        """UserError where this node has other versions."""
        own = self.here().packages
        if others := [f"{name} {own[name]}" for name in PACKAGES if own[name] != self.packages[name]]:
            wanted = ", ".join(f"{name} {self.packages[name]}" for name in PACKAGES)
            raise UserError(f"{FLAG}: node {socket.gethostname()} has {', '.join(others)}; give all nodes {wanted}")

    def enter(self) -> None:
        """Give relative paths the same meaning on this node; UserError where it lacks the folder."""
        try:
            os.chdir(self.folder)
        except OSError as error:
            problem = f"{self.folder} is not on node {socket.gethostname()} ({error.strerror})"
            raise UserError(f"{FLAG}: {problem}; start in a folder that all nodes share") from None


@contextlib.contextmanager
def ray_cluster() -> Iterator[ModuleType]:
    """The module `ray`, connected until the end of the block, or longer where it was before.

    UserError without Ray, where no cluster answers, and for what goes wrong there; those of tasks as they were raised.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray tells its makers over the network
    try:
        import ray
    except ImportError as error:
        raise UserError(f"{FLAG}: Ray can't be imported ({error}); pip install 'bssan_tf[ray]'") from None
    own = not ray.is_initialized()
    if own:
        _connect(ray)
    try:
        nodes, cpus = sum(node["Alive"] for node in ray.nodes()), ray.cluster_resources().get("CPU", 0)
        logger.info("%s: %d node%s, %g CPUs", FLAG, nodes, "s" * (nodes != 1), cpus)
        yield ray
    except ray.exceptions.RayError as error:
        if raised := _raised(error):
            raise raised from None
        if lacking := re.search(r"No module named \S+", str(error)):
            raise UserError(f"{FLAG}: on a node: {lacking[0]}; install the packages of this machine there") from None
        if isinstance(error, (ray.exceptions.RayTaskError, ray.exceptions.UserCodeException)):
            raise  # a fault of this package, whose place it says
        raise UserError(f"{FLAG}: {_line(error)}; start again: what was finished is kept") from None
    finally:
        if own:
            ray.shutdown()


def _connect(ray: ModuleType) -> None:
    named = os.environ.get(ADDRESS, "local")
    try:
        if place := re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", named):
            socket.create_connection((place[1], int(place[2])), timeout=10).close()  # Ray itself tries for minutes
        modules = {"py_modules": [str(PACKAGE)]}
        ray.init(named, runtime_env=modules, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of no answer, other versions, a malformed address: OSError, RuntimeError, ...
        remedy = f"set {ADDRESS} to the address of a cluster with this Python and this Ray, or unset it"
        raise UserError(f"{FLAG}: no cluster at {named} ({_line(error)}); {remedy}") from None


def _raised(error: BaseException | None) -> UserError | None:
    """The UserError that a task has raised, in what Ray has made of it."""
    while error is not None:
        found = getattr(error, "cause", None) or error
        if isinstance(found, UserError):
            return UserError(str(found))
        error = error.__cause__ or error.__context__
    return None


def _line(error: BaseException) -> str:
    """The first line of a message."""
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)
