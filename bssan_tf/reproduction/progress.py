"""What a reproduction says while it is made: a bar over the whole plan, and the messages of all its runs, each once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from bssan_tf.reproduction.trainings import Step


@contextmanager
def steps(total: int, progress: bool) -> Iterator[Step]:
    """A bar over the whole plan, which gives the time left."""
    with tqdm(total=total, desc="reproduction", unit="step", disable=not progress) as bar:

        @contextmanager
        def step(what: str, share: int) -> Iterator[None]:
            bar.set_description(what)
            yield
            bar.update(share)

        yield step


@contextmanager
def told_once() -> Iterator[None]:
    """Log each message once, whatever the number of runs that it is of, and not into the line of a bar."""

    def first_time() -> Callable[[logging.LogRecord], bool]:
        known: set[str] = set()

        def is_new(record: logging.LogRecord) -> bool:
            new = (message := record.getMessage()) not in known
            known.add(message)
            return new

        return is_new

    with logging_redirect_tqdm():
        filters = [(handler, first_time()) for handler in logging.getLogger().handlers]
        for handler, is_new in filters:
            handler.addFilter(is_new)
        try:
            yield
        finally:
            for handler, is_new in filters:
                handler.removeFilter(is_new)
