"""What stands behind the parts of the app's page, and how the app refuses to start; the page: `test_app_browser.py`."""

import html
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from app_fixtures import SENTENCE, make_work
from PIL import Image

from bssan_tf import app
from bssan_tf.errors import UserError
from bssan_tf.matching.indexes import Hit
from bssan_tf.matching.matcher import Matcher


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return make_work(tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def answers(work):
    return app.Answers(Matcher.load(work / "grid"), work / "some", top=4)


def test_a_search_is_that_of_the_index(answers, work):
    grid, (sentence, paths), told = answers.search(SENTENCE)
    hits = [hit for hit in answers.matcher.index(work / "some").search(SENTENCE) if hit.found.name != "link.jpg"][:4]
    assert sentence == SENTENCE
    assert paths == [hit.found for hit in hits]
    assert [text for _, text in grid] == [f"{hit.score:.3f} · {hit.found.name}" for hit in hits]
    assert all(max(image.size) == app.SIDE for image, _ in grid)
    assert told.startswith("Photos: 6 in some (left out, as links to files elsewhere: 1). The best 4, in ")


def test_a_clicked_photo_is_explained(answers):
    _, found, _ = answers.search(SENTENCE)
    frame, told = answers.why_of_hit(found, 2)
    page = html.unescape(re.fullmatch(r'<iframe title="[^"]+" srcdoc="([^"]*)"></iframe>', frame)[1])
    assert page == answers.matcher.explain(found[1][2], SENTENCE).page()
    assert "Content-Security-Policy" in page
    assert told.startswith(f"{found[1][2].name}: score ")
    for place in (-1, 4):
        assert answers.why_of_hit(found, place) == ("", "Search first, then click a photo.")


@pytest.mark.parametrize("sentence", ["", " ?! "])
def test_a_sentence_without_a_word_is_told_in_a_line(answers, work, sentence):
    problem = f"{sentence!r}: has no word; give a sentence"
    assert answers.search(sentence) == ([], (sentence, []), f"query {problem}")
    assert answers.why(str(work / "some" / "some-0.jpg"), sentence) == ("", f"caption 1 {problem}")


def test_an_upload_that_is_no_picture_is_told_by_its_name(answers, tmp_path):
    upload = tmp_path / "upload"
    upload.mkdir()
    (upload / "dog.jpg").write_text("not a picture")
    frame, told = answers.why(str(upload / "dog.jpg"), SENTENCE)
    assert frame == ""
    assert told.startswith("dog.jpg: can't be read as a picture (")
    assert "\n" not in told
    assert answers.why(None, SENTENCE) == ("", "Choose a photo first.")


def test_memory_that_is_used_up_is_told_and_other_errors_are_not_hidden(answers, monkeypatch):
    def fail(error):
        monkeypatch.setattr(answers.matcher, "explain", lambda *_: (_ for _ in ()).throw(error))
        return answers.why("dog.jpg", SENTENCE)

    assert fail(MemoryError("32 GB"))[1].startswith("not enough memory (32 GB)")
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError())
    assert fail(UserError("two\nlines")) == ("", "two lines")  # and the lock is free


class FakeIndex(list):
    """Hits of a search, best first."""

    def __init__(self, hits):
        super().__init__(hits)
        self.paths = [hit.found for hit in hits]

    def search(self, sentence, top=10):
        return self[:top]


def fake(index):
    tokenizer = SimpleNamespace(words=["", "?", "dog"])
    return SimpleNamespace(index=lambda _: index, tokenizer=tokenizer, explain=lambda *_: None)


def test_photos_that_have_gone_are_left_out(tmp_path):
    for i, size in enumerate([(300, 200), (2, 1000)]):
        Image.new("RGB", size, "red").save(tmp_path / f"{i}.png")
    hits = [Hit(3.0, tmp_path / "gone.png"), Hit(2.0, tmp_path / "0.png"), Hit(1.0, tmp_path / "1.png")]
    grid, (_, paths), _ = app.Answers(fake(FakeIndex(hits)), tmp_path).search("a dog")
    assert [path.name for path in paths] == ["0.png", "1.png"]
    assert [image.size for image, _ in grid] == [(320, 213), (1, 320)]


def test_no_hit_is_told(tmp_path):
    grid, found, told = app.Answers(fake(FakeIndex([])), tmp_path).search("a dog")
    assert (grid, found) == ([], ("a dog", []))
    assert told.endswith("None matches.")


def test_a_probability_is_shown_where_a_hit_has_one():
    path = Path("dog.jpg")
    assert app.caption_of(Hit(1.5, path)) == "1.500 · dog.jpg"
    assert app.caption_of(SimpleNamespace(score=1.5, probability=0.873, found=path)) == "87%, 1.500 · dog.jpg"
    assert app.caption_of(SimpleNamespace(score=1.5, probability=None, found=path)) == "1.500 · dog.jpg"


# the app as if Gradio were there, or were not; nothing slow is loaded before what is wrong is told
START = """
import importlib.util, sys
from bssan_tf import app, cli
there = importlib.util.find_spec
importlib.util.find_spec = lambda name: {here} if name == "gradio" else there(name)
try:
    cli.run(app.main)
finally:
    assert "tensorflow" not in sys.modules and "gradio" not in sys.modules
"""


def start(here, *arguments):
    command = [sys.executable, "-c", START.format(here=here), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(app.__file__).parents[1])
    return done.returncode, done.stdout, done.stderr


def test_without_gradio_one_line_says_what_to_install():
    assert start(None) == (2, "", "error: the app needs Gradio: pip install '.[app]'\n")


def test_wrong_flags_are_told_in_one_line_before_anything_slow(work, tmp_path):
    run = ("--run", work / "grid")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert start(True, *run, "--port", port) == (2, "", f"error: --port {port}: is taken; name another\n")
    for arguments, problem in (
        (("--images", tmp_path), f"{tmp_path}: no pictures in it"),
        (("--host", "192.0.2.1"), "--host 192.0.2.1: is no address of this machine ("),
        (("--port", "65536"), "argument --port: 65536: must be a port, 1 to 65535"),
    ):
        code, out, line = start(True, *run, *arguments)
        assert (code, out) == (2, "")
        assert line.startswith(f"error: {problem}")
        assert line.count("\n") == 1


def test_a_name_that_is_no_address_is_refused():
    for host in ("nowhere.invalid", "a" * 70, "\ud800"):
        with pytest.raises(UserError, match="is no address of this machine"):
            app.refuse_taken(host, 7860)
