"""Extraction and scoring on a cluster of Ray, of two nodes, one of which is killed: the bytes of one process.

The tests skip where Ray is not installed, but for those of what is told then.
"""

import os
import pickle
import socket
import subprocess
import sys

import numpy as np
import pytest
from feature_fixtures import arrays, extract, spoil, tiny_extractor, write_boxes, write_pictures
from scoring_fixtures import make, make_captions, make_pictures

from bssan_tf.config.presets import preset
from bssan_tf.config.schema import Config
from bssan_tf.errors import UserError
from bssan_tf.features.describer import Describer
from bssan_tf.features.faster_rcnn.detector import Detector
from bssan_tf.features.on_ray import require_same_weights
from bssan_tf.features.regions import Extractor
from bssan_tf.features.store_writer import StoreWriter
from bssan_tf.runs.data import extract_part
from bssan_tf.scoring import matrix, planning, score_matrices
from bssan_tf.tools.ray_cluster import PACKAGE, Home, ray_cluster

QUICK = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 300, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster():
    """Of two nodes, as processes of this machine; `ray_cluster` uses it."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'bssan_tf[ray]'")
    from ray.cluster_utils import Cluster

    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # else beside other tests they starve
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        made = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": QUICK}
        )
        made.add_node(num_cpus=1)
        ray.init(address=made.address, log_to_driver=False)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def many_blocks(monkeypatch):
    """Blocks of four pictures."""
    monkeypatch.setattr(planning, "BLOCK_BYTES", 1)


def kill_a_node_at(cluster, monkeypatch, owner, name, call):
    """At the `call`-th call of a method, the second node dies, as at a power cut; another joins after the test."""
    done, calls = getattr(owner, name), []

    def spied(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        return done(*arguments)

    monkeypatch.setattr(owner, name, spied)
    return calls


@pytest.mark.parametrize("killed", [False, True], ids=["whole", "a node is killed"])
def test_extraction_has_the_bytes_of_one_process(cluster, tmp_path, monkeypatch, killed):
    corpus, extractor = write_pictures(tmp_path / "photos", 90), tiny_extractor(tmp_path)
    write_boxes(tmp_path / "boxes.npz", corpus)
    spoil(corpus.image_paths[17])
    options = {"boxes": tmp_path / "boxes.npz", "skip_bad_images": True}
    here = extract(corpus, tmp_path / "here", extractor, **options)
    if killed:
        written = kill_a_node_at(cluster, monkeypatch, StoreWriter, "write", 3)
    there = extract(corpus, tmp_path / "there", extractor, engine="ray", **options)
    assert arrays(tmp_path / "here") == arrays(tmp_path / "there")
    np.testing.assert_array_equal(there.bad_rows, [17])
    np.testing.assert_array_equal(there.bad_rows, here.bad_rows)
    if killed:
        assert not cluster.worker_nodes
        rows = [row for _, start, values in written for row in range(start, start + len(values["sizes"]))]
        assert rows == list(range(90))  # each once
        cluster.add_node(num_cpus=1)


@pytest.mark.parametrize("killed", [False, True], ids=["whole", "a node is killed"])
@pytest.mark.usefixtures("many_blocks")
def test_scores_are_those_of_one_process(cluster, tmp_path, monkeypatch, killed):
    config, scorer = make()
    pictures, tokens = make_pictures(config, 23), make_captions()
    here = score_matrices(scorer, pictures, tokens)
    if killed:
        blocks = kill_a_node_at(cluster, monkeypatch, matrix.tqdm, "update", 2)
    there = score_matrices(scorer, pictures, tokens, out=tmp_path / "scores.npy", engine="ray")
    assert set(there) == {"w2r", "o2w", "score"}
    for part, scores in here.items():
        np.testing.assert_array_equal(there[part], scores)
    if killed:
        assert len(blocks) == 6
        assert not cluster.worker_nodes
        cluster.add_node(num_cpus=1)


def test_a_resumed_matrix_scores_what_is_missing(cluster, tmp_path, monkeypatch, many_blocks):
    config, scorer = make("w2r")
    pictures, tokens, whole = make_pictures(config, 23), make_captions(), matrix.scored_on_ray
    asked = []

    def stopped(fast, shown, blocks):
        blocks = list(blocks)
        asked.append(len(blocks))
        yield next(whole(fast, shown, blocks))
        raise KeyboardInterrupt

    options = {"parts": ["score"], "out": tmp_path / "a.npy", "engine": "ray"}
    monkeypatch.setattr(matrix, "scored_on_ray", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            score_matrices(scorer, pictures, tokens, **options)
    assert asked == [6, 5]
    monkeypatch.setattr(matrix, "scored_on_ray", whole)
    here = score_matrices(scorer, pictures, tokens, parts=["score"])["score"]
    np.testing.assert_array_equal(score_matrices(scorer, pictures, tokens, **options)["score"], here)


def test_weights_that_a_node_lacks(cluster, tmp_path):
    corpus, extractor = write_pictures(tmp_path / "photos", 3), tiny_extractor(tmp_path)
    assert extractor.model
    (tmp_path / "tiny.npz").unlink()
    with pytest.raises(UserError, match=r"--backbone-weights .*tiny\.npz: no such file"):
        extract(corpus, tmp_path / "store", extractor, engine="ray")
    np.savez(tmp_path / "tiny.npz", other=np.zeros(3))
    with pytest.raises(UserError, match=r"on node .* the weights are .*; photos and weights must be the same"):
        extract(corpus, tmp_path / "store", extractor, engine="ray")


def test_a_photo_that_only_a_node_cannot_read(cluster, tmp_path, monkeypatch):
    corpus, extractor = write_pictures(tmp_path / "photos", 3), tiny_extractor(tmp_path)
    spoil(corpus.image_paths[1])
    monkeypatch.setattr(Describer, "read", lambda *_: "a picture")  # here, not on the nodes
    with pytest.raises(UserError, match=r"a node has .*photo001\.jpg: can't be read .*, but here it is read"):
        extract(corpus, tmp_path / "store", extractor, engine="ray", skip_bad_images=True)


def test_the_command_on_a_cluster_of_its_own(cluster, matcher_work, tmp_path, project):
    """Extraction and search by the real command line; what is told is one line more."""
    write_pictures(tmp_path / "photos", 5)
    command = [sys.executable, project / "search.py", "a red circle", "--images", "photos", "--quiet"]
    command += ["--run", matcher_work / "runs" / "mine"]
    said, errors = {}, {}
    for engine, flags in {"here": [], "ray": ["--engine", "ray"]}.items():
        found = subprocess.run(
            [*map(str, command), "--cache", engine, *flags], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert found.returncode == 0, found.stderr
        said[engine] = found.stdout.replace(f"{engine}/", "")
        told = [line for line in found.stderr.splitlines() if "pictures in" not in line]
        errors[engine] = [line for line in told if not line.startswith("--engine ray: 1 node, ")]
        assert len(told) - len(errors[engine]) == (engine == "ray")
    assert said["ray"] == said["here"]
    assert errors["ray"] == errors["here"]
    stores = [next((tmp_path / engine).rglob("manifest.json")).parent for engine in said]
    assert arrays(stores[0]) == arrays(stores[1])


@pytest.mark.parametrize("address", ["ray://localhost:10001", "http://localhost"])
def test_an_address_that_is_none(monkeypatch, address):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'bssan_tf[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(UserError, match=r"no cluster at .*//localhost.* \(is none of HOST:PORT"), ray_cluster():
        raise AssertionError("connected")


def test_a_cluster_without_cpus(cluster, monkeypatch):
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"GPU": 1.0}}])
    with pytest.raises(UserError, match="--engine ray: no node of the cluster has a CPU to give"), ray_cluster():
        raise AssertionError("entered")


def test_gpus_are_taken_one_for_an_actor(cluster, tmp_path, monkeypatch):
    """As far as Ray's own checks of the arguments."""
    import ray

    asked = {}
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": 3.0, "CPU": 8.0})
    real = ray.data.Dataset.map_batches

    def map_batches(blocks, actor, **options):
        real(blocks, actor, **options)  # its checks; it runs nothing yet
        asked.update(options)
        return real(blocks, actor, **{**options, "num_gpus": 0})

    monkeypatch.setattr(ray.data.Dataset, "map_batches", map_batches)
    corpus, extractor = write_pictures(tmp_path / "photos", 3), tiny_extractor(tmp_path)
    extract(corpus, tmp_path / "there", extractor, engine="ray")
    extract(corpus, tmp_path / "here", extractor)
    assert arrays(tmp_path / "here") == arrays(tmp_path / "there")
    assert asked["num_gpus"] == 1
    assert asked["compute"].max_size == 3


def test_what_travels_is_opened_anew(tmp_path, monkeypatch):
    """Extractors and detectors, without their networks; shipped weights by no path of this machine."""
    corpus = write_pictures(tmp_path / "photos", 2)
    for extractor, boxes in ((tiny_extractor(tmp_path), "grid"), (Extractor("slim"), Detector())):
        describer = Describer(corpus, extractor, boxes, 10, 4)
        sent = pickle.dumps(describer)
        assert str(PACKAGE).encode() not in sent
        require_same_weights(opened := pickle.loads(sent))
        wanted = np.ones(2, bool)
        for (_, here), (_, there) in zip(describer.described(wanted), opened.described(wanted)):
            assert here.keys() == there.keys()
            for name, value in here.items():
                np.testing.assert_array_equal(there[name], value)


def test_an_address_that_does_not_answer(monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'bssan_tf[ray]'")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"localhost:{probe.getsockname()[1]}")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    refusal = r"--engine ray: no cluster at localhost:\d+ \(.*refused\); set RAY_ADDRESS"
    with pytest.raises(UserError, match=refusal), ray_cluster():
        raise AssertionError("connected")


def test_an_engine_is_of_one_call_and_divides_the_work_itself(tmp_path):
    config = preset("improved", "tiny", data="scenes").replace(engine="ray", cache=str(tmp_path)).resolved()
    with pytest.raises(UserError, match=r"--shard 1/2: --engine ray divides the work itself; leave one out"):
        extract_part(config.data, "1/2")
    assert Config.from_json(config.to_json()).data.engine is None


def test_without_ray(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    corpus = write_pictures(tmp_path / "photos", 3)
    with pytest.raises(UserError, match=r"--engine ray: Ray can't be imported .*pip install 'bssan_tf\[ray\]'"):
        extract(corpus, tmp_path / "store", tiny_extractor(tmp_path), engine="ray")
    config, scorer = make("w2r")
    with pytest.raises(UserError, match="--engine ray: Ray can't be imported"):
        score_matrices(scorer, make_pictures(config), make_captions(), engine="ray")


def test_a_node_with_other_packages_or_without_the_folder(monkeypatch, tmp_path):
    here = Home.here()
    here.require_same_packages()
    with pytest.raises(UserError, match=r"node .* has numpy .*, not 0\.1; give all nodes the same"):
        here._replace(packages={**here.packages, "numpy": "0.1"}).require_same_packages()
    monkeypatch.chdir(tmp_path)
    here.enter()
    assert os.getcwd() == here.folder
    with pytest.raises(UserError, match=r"/no/such/folder is not on node .*; start in a folder that all nodes share"):
        here._replace(folder="/no/such/folder").enter()
