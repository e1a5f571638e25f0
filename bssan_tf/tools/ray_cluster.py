"""Ray (`pip install 'bssan_tf[ray]'`), for `--engine ray`: connected to a cluster, its errors in one line.

The cluster is that of $RAY_ADDRESS (`auto`: the one that `ray start` has begun on this machine), else one of this
machine alone, for this call. Its nodes get this package from here; they need the packages that it stands on.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from bssan_tf.errors import UserError
from bssan_tf.tools.streams import Said, stderr_held

FLAG = "--engine ray"
ADDRESS = "RAY_ADDRESS"
PACKAGES = ("tensorflow", "keras", "keras-hub", "numpy", "pillow")  # that numbers depend on
PACKAGE = Path(__file__).parents[1]

logger = logging.getLogger(__name__)


class Home(NamedTuple):
    """Where a command was given: what its tasks need of every node."""

    folder: str
    packages: dict[str, str]  # versions, "none" where one is not installed; a digest of this one's code

    @classmethod
    def here(cls) -> Home:
        """That of this process."""
        found = {}
        for name in PACKAGES:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "none"
        code = hashlib.sha256()
        for path in sorted(PACKAGE.rglob("*.py")):
            code.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
        return cls(os.getcwd(), {**found, "bssan_tf": code.hexdigest()[:8]})

    def require_same_packages(self) -> None:
        """UserError where this node has other versions."""
        own = self.here().packages
        if others := [
            f"{name} {own[name]}, not {wanted}" for name, wanted in self.packages.items() if own[name] != wanted
        ]:
            raise UserError(f"{FLAG}: node {socket.gethostname()} has {'; '.join(others)}; give all nodes the same")

    def enter(self) -> None:
        """Give relative paths the same meaning on this node; UserError where it lacks the folder."""
        try:
            os.chdir(self.folder)
        except OSError as error:
            problem = f"{self.folder} is not on node {socket.gethostname()} ({error.strerror})"
            raise UserError(f"{FLAG}: {problem}; start in a folder that all nodes share") from None


@contextlib.contextmanager
def ray_cluster(module: str = "ray") -> Iterator[ModuleType]:
    """Ray, connected until the end of the block, or longer where it was before; with its `module` imported.

    UserError without Ray, where no cluster answers, and for what goes wrong there; those of tasks as they were raised.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray tells its makers over the network
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it tells of what Ray Data does on purpose
    try:
        importlib.import_module(module)
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise UserError(f"{FLAG}: Ray can't be imported ({error}); pip install 'bssan_tf[ray]'") from None
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # it tells plans, and the traces of what is one line below
            handler.setLevel(logging.CRITICAL + 1)
    own = not ray.is_initialized()
    with _handler_kept(signal.SIGTERM), contextlib.ExitStack() as ending:
        if own:
            ending.callback(ray.shutdown)
            _connect(ray)
        try:
            cpus = cpus_of_nodes(ray)
            logger.info("%s: %d node%s, %g CPUs", FLAG, len(cpus), "s" * (len(cpus) != 1), sum(cpus))
            if not cpus:
                raise UserError(f"{FLAG}: no node of the cluster has a CPU to give; add one")
            yield ray
        except ray.exceptions.RayError as error:
            if raised := _raised(error):
                raise raised from None
            if lacking := re.search(r"No module named \W*([\w.]+)", str(error)):
                raise UserError(
                    f"{FLAG}: a node has no module {lacking[1]}; give all nodes the packages of this machine"
                ) from None
            if isinstance(error, (ray.exceptions.RayTaskError, ray.exceptions.UserCodeException)):
                raise  # a fault of this package, whose place it says
            raise UserError(f"{FLAG}: {_line(error)}; start again") from None


def cpus_of_nodes(ray: ModuleType) -> list[float]:
    """The CPUs of each living node that has any."""
    return [cpus for node in ray.nodes() if node["Alive"] and (cpus := node["Resources"].get("CPU"))]


def _connect(ray: ModuleType) -> None:
    named, said = os.environ.get(ADDRESS) or "local", Said()
    try:
        if place := re.fullmatch(r"([^:/]+):(\d+)", named):
            socket.create_connection((place[1], int(place[2])), timeout=10).close()  # Ray itself tries for minutes
        elif "://" in named:  # Ray Data can't run through Ray's client
            raise ValueError("is none of HOST:PORT, auto and local")
        with stderr_held() as said:
            modules = {"py_modules": [str(PACKAGE)]}
            ray.init(named, runtime_env=modules, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of no answer, other versions, a malformed address: OSError, RuntimeError, ...
        reason = "Ray wants its token: RAY_AUTH_MODE=token" if b"InvalidAuthToken" in said.text else _line(error)
        remedy = f"set {ADDRESS} to the address of a cluster with this Python and this Ray, or unset it"
        raise UserError(f"{FLAG}: no cluster at {named} ({reason}); {remedy}") from None


@contextlib.contextmanager
def _handler_kept(number: int) -> Iterator[None]:
    """`ray.init` sets a handler of its own."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if main:
            signal.signal(number, before)


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
