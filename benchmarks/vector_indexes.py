"""Libraries of vector indexes beside each other, on drawn vectors of the first stage's size.

Run `python -m benchmarks.vector_indexes [--vectors N] [--json FILE]`. Of each library that is installed: seconds of
building, MiB of memory and of the file, ms a query and the share of the true best 100 that it finds, and seconds of
taking 1 % out and of adding 1 %. Each is measured in a process of its own. faiss-cpu comes with the package; usearch
and lancedb are to be installed for the comparison.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from bssan_tf import cli
from bssan_tf.config.settings import RERANK
from bssan_tf.matching.vector_index import nearest
from bssan_tf.scoring.first_stage import SIZE
from bssan_tf.tools.files import write_json

OWN = "SQfp16"  # the package's index, which its own function searches
QUERIES, GROUPS, BLOCK = 100, 2000, 100_000
COLUMNS = ("build_s", "memory_mb", "file_mb", "query_ms", "found", "remove_s", "add_s")


class Library(NamedTuple):
    """One way to keep vectors."""

    package: str
    build: Callable  # blocks of (keys, vectors), a folder -> an index
    search: Callable  # index, vector, count -> keys
    remove: Callable | None  # index, keys; None where it can't
    add: Callable  # index, keys, vectors
    save: Callable  # index, a folder -> bytes on the disk


def main(arguments: list[str] | None = None) -> None:
    """Measure each in a process of its own, print a table, write the numbers."""
    parser = cli.Parser(prog="python -m benchmarks.vector_indexes", description=__doc__.split("\n")[0])
    parser.add_argument("--vectors", type=cli.count, default=1_000_000, metavar="N", help="(1000000)")
    parser.add_argument("--only", choices=LIBRARIES, help="measure this one, here, and print its numbers alone")
    parser.add_argument("--json", type=cli.writable, metavar="FILE", help="write the numbers there, too")
    options = parser.parse_args(arguments)
    if options.only:
        print(*(f"{value:.6g}" for value in measure(LIBRARIES[options.only], options.vectors)))
        return
    print(f"{'':<22}" + "".join(f"{column:>12}" for column in COLUMNS))
    rows = {}
    for name, library in LIBRARIES.items():
        if importlib.util.find_spec(library.package) is None:
            print(f"{name:<22}  {library.package} is not installed")
            continue
        command = [sys.executable, "-m", "benchmarks.vector_indexes", "--only", name, "--vectors", str(options.vectors)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{name:<22}  ended with {done.returncode}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
            continue
        rows[name] = dict(zip(COLUMNS, map(float, done.stdout.split())))
        print(f"{name:<22}" + "".join(f"{value:12.4g}" for value in rows[name].values()), flush=True)
    if options.json:
        write_json(options.json, {"vectors": options.vectors, "size": SIZE, "rows": rows})


def drawn(count: int, seed: int) -> np.ndarray:
    """float32 (count, SIZE) of length 1, in groups, with a falling spectrum as photos' vectors have."""
    scale = (1 + np.arange(SIZE, dtype=np.float32)) ** -0.5
    groups = np.random.default_rng(0).normal(size=(GROUPS, SIZE)).astype(np.float32)
    rng = np.random.default_rng([1, seed])
    own = 0.7 * rng.standard_normal((count, SIZE), np.float32)
    vectors = (groups[rng.integers(GROUPS, size=count)] + own) * scale
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def blocks(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Keys and vectors, block by block, so that only the index holds all."""
    for start in range(0, count, BLOCK):
        some = min(BLOCK, count - start)
        yield np.arange(start, start + some), drawn(some, start)


def measure(library: Library, count: int) -> tuple[float, ...]:
    """The numbers of COLUMNS."""
    queries, more = drawn(QUERIES, -1 % 2**32), max(1, count // 100)
    best = np.zeros((QUERIES, 0)), np.zeros((QUERIES, 0), np.int64)
    for keys, vectors in blocks(count):
        products = np.concatenate([best[0], queries @ vectors.T], axis=1)
        found = np.concatenate([best[1], np.broadcast_to(keys, (QUERIES, len(keys)))], axis=1)
        kept = np.argpartition(-products, min(RERANK, products.shape[1] - 1), axis=1)[:, :RERANK]
        best = np.take_along_axis(products, kept, 1), np.take_along_axis(found, kept, 1)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        before, start = memory(), time.perf_counter()
        index = library.build(blocks(count), Path(folder))
        drawing = sum(timed(drawn, min(BLOCK, count), 0) for _ in range(3)) / 3 * -(-count // BLOCK)
        numbers = [time.perf_counter() - start - drawing, memory() - before, library.save(index, Path(folder)) / 2**20]
        library.search(index, queries[0], RERANK)
        start = time.perf_counter()
        answers = [library.search(index, query, RERANK) for query in queries]
        numbers.append(1000 * (time.perf_counter() - start) / QUERIES)
        numbers.append(np.mean([np.isin(true, found).mean() for true, found in zip(best[1], answers)]))
        gone = np.arange(0, count, 100)
        numbers.append(timed(library.remove, index, gone) if library.remove else float("nan"))
        numbers.append(timed(library.add, index, np.arange(count, count + more), drawn(more, count)))
    return tuple(numbers)


def timed(function: Callable, *given) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function(*given)
    return time.perf_counter() - start


def memory() -> float:
    """MiB of this process that are not files'."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["RssAnon"].split()[0]) / 1024


def size_of(path: Path) -> int:
    """Bytes of a file, or of all in a folder."""
    return path.stat().st_size if path.is_file() else sum(one.stat().st_size for one in path.rglob("*"))


def usearch(dtype: str = "f16") -> Library:
    """HNSW (Malkov and Yashunin, 2018)."""

    def build(parts, _):
        from usearch.index import Index

        index = Index(ndim=SIZE, metric="ip", dtype=dtype)
        for keys, vectors in parts:
            index.add(keys, vectors, threads=1)
        return index

    def save(index, folder):
        index.save(str(folder / "index"))
        return size_of(folder / "index")

    def search(index, vector, count):
        return np.array(index.search(vector, count).keys)

    return Library(
        "usearch",
        build,
        search,
        lambda index, keys: index.remove(keys),
        lambda index, *new: index.add(*new, threads=1),
        save,
    )


def faiss(description: str, probes: int | None = None, removes: bool = True) -> Library:
    """An index of faiss' factory."""

    def build(parts, _):
        import faiss

        index, sample = faiss.index_factory(SIZE, description, faiss.METRIC_INNER_PRODUCT), drawn(BLOCK, 0)
        index.train(sample)
        if probes:
            index.nprobe = probes
        else:
            index = faiss.IndexIDMap2(index)
        for keys, vectors in parts:
            index.add_with_ids(vectors, keys)
        return index

    def save(index, folder):
        import faiss

        faiss.write_index(index, str(folder / "index"))
        return size_of(folder / "index")

    def remove(index, keys):
        import faiss

        index.remove_ids(faiss.IDSelectorBatch(keys))

    def search(index, vector, count):
        if description == OWN:
            return nearest(index, vector[None], count)
        return index.search(vector[None], count)[1][0]

    return Library(
        "faiss",
        build,
        search,
        remove if removes else None,
        lambda index, keys, new: index.add_with_ids(new, keys),
        save,
    )


def lancedb() -> Library:
    """Its IVF_HNSW_SQ."""

    def rows(keys, vectors):
        import pyarrow as pa

        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), SIZE)
        return pa.table({"key": pa.array(keys), "vector": flat})

    def build(parts, folder):
        import lancedb

        table = None
        for part in parts:
            if table is None:
                table = lancedb.connect(folder / "lance").create_table("vectors", rows(*part))
            else:
                table.add(rows(*part))
        table.create_index(metric="dot", vector_column_name="vector", index_type="IVF_HNSW_SQ")
        return table

    def search(table, vector, count):
        found = table.search(vector).distance_type("dot").limit(count).nprobes(20).ef(2 * count)
        return found.select(["key"]).to_arrow()["key"].to_numpy()

    def remove(table, keys):
        table.delete(f"key IN ({', '.join(map(str, keys))})")

    return Library(
        "lancedb",
        build,
        search,
        remove,
        lambda table, *new: table.add(rows(*new)),
        lambda _, folder: size_of(folder / "lance"),
    )


LIBRARIES = {
    "faiss, all": faiss(OWN),
    "faiss, all, 8 bits": faiss("SQ8"),
    "faiss, HNSW": faiss("HNSW32_SQ8", removes=False),
    "faiss, IVF": faiss("IVF1024,SQfp16", probes=64),
    "usearch, HNSW": usearch(),
    "usearch, HNSW, 8 bits": usearch("i8"),
    "lancedb": lancedb(),
}

if __name__ == "__main__":
    cli.run(main)
