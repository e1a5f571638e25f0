"""The app in a real browser, as a person uses it, and what its server gives away.

Pictures of what was seen are kept in the tests' folders, or in BSSAN_SCREENSHOTS.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from app_fixtures import SENTENCE, make_work
from browser import browser, chromium_here, screenshots

from bssan_tf import app

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'gradio>=6.31,<7' (it needs Pillow < 13)")
OF_GRADIO = [[{"type": "string", "value": "Method not implemented."}]]  # its warning, at every upload
BOX, OWN_BOX = "#query textarea, #query input", "#sentence textarea, #sentence input"
PHONE = {"width": 360, "height": 740, "touch": True}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return make_work(tmp_path_factory.mktemp("app"))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def heed_ctrl_c() -> None:
    """What a process begins with that was started in the background ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def started(project, folder, *arguments):
    """The app as a process: its address, what it says as it starts, and the process; it ends by Ctrl-C."""
    port = free_port()
    command = [sys.executable, "-m", "bssan_tf.app", "--port", str(port), *map(str, arguments)]
    misleading = {"GRADIO_ALLOWED_PATHS": "/", "http_proxy": "http://127.0.0.1:9"}  # neither must count
    environment = {**os.environ, "TMPDIR": str(folder), **misleading}
    with open(folder / "app.log", "w") as log:
        process = subprocess.Popen(
            command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=log, text=True,
            start_new_session=True, preexec_fn=heed_ctrl_c,
        )  # fmt: skip
    late = threading.Timer(120, process.kill)
    late.start()
    try:
        said = []
        for line in process.stdout:
            said.append(line.rstrip("\n"))
            if line.startswith("http"):
                break
        late.cancel()
        assert said, (folder / "app.log").read_text()
        yield f"http://127.0.0.1:{port}", said, process
    finally:
        late.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def running(project, work, tmp_path_factory):
    """The app's address and log."""
    folder = tmp_path_factory.mktemp("served")
    with started(project, folder, "--run", work / "grid", "--images", work / "some", "--top", 5) as found:
        address, said, process = found
        assert said == [
            f"run: {work / 'grid'}",
            f"photos: 6 in some (left out, as links to files elsewhere: 1), {work / 'some'}",
            f"{address} (Ctrl-C ends it)",
        ]
        yield address, folder / "app.log"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert (folder / "app.log").read_text().endswith("stopped; what was finished is kept\n")
    assert not list(folder.glob("bssan_tf-*"))  # uploads and thumbnails


@pytest.fixture
def served(running):
    return running[0]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    chromium_here()
    with browser(tmp_path_factory.mktemp("chromium") / "profile") as found:
        yield found


@pytest.fixture
def shown(chromium, running):
    """Open the app; afterwards nothing has complained, and nothing but the app was asked for anything."""

    def show(**how):
        chromium.open(served, **how)
        there = f"document.querySelector('{BOX}') !== null && !document.body.innerText.includes('Loading...')"
        chromium.wait(lambda: chromium.js(there), "the app has loaded")
        return chromium

    served, log = running
    before = len(log.read_text())
    yield show
    assert "Traceback" not in log.read_text()[before:]
    assert [problem for problem in chromium.problems if [problem] != OF_GRADIO] == []
    assert not [url for url in chromium.requests if not url.startswith((f"{served}/", f"blob:{served}/"))]


def lines(tab) -> list[str]:
    return tab.js("[...document.querySelectorAll('.told')].map(one => one.textContent)")


def ask(tab, box: str, sentence: str) -> None:
    def focused() -> bool:
        tab.click(box)  # again where the page has moved meanwhile, as it does while it loads
        return tab.js(f"document.activeElement.matches('{box}')")

    tab.wait(focused, "the box has the focus")
    tab.js("document.activeElement.select()")
    tab.type(sentence)
    tab.press("Enter")


def photos(tab) -> list[str]:
    return tab.js("[...document.querySelectorAll('#grid img')].filter(one => one.naturalWidth).map(one => one.alt)")


def framed(tab, frame: str, selector: str) -> list[str]:
    """Texts of elements of the page in a frame; none before it is there."""
    inside = f"document.querySelector('{frame} iframe')?.contentDocument?.querySelectorAll('{selector}') ?? []"
    return tab.js(f"[...({inside})].map(one => one.textContent)")


def hover_in(tab, frame: str, selector: str, place: int) -> None:
    """Move the pointer to an element of the page in a frame."""
    found = f"document.querySelector('{frame} iframe')"
    tab.js(f"{found}.scrollIntoView({{block: 'start', behavior: 'instant'}})")
    x, y = tab.js(
        f"(() => {{ const f = {found}, a = f.getBoundingClientRect();"
        f" const b = f.contentDocument.querySelectorAll('{selector}')[{place}].getBoundingClientRect();"
        " return [a.x + b.x + b.width / 2, a.y + b.y + b.height / 2] })()"
    )
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)


def differ(first: np.ndarray, second: np.ndarray) -> float:
    """The share of pixels that look different."""
    return float((np.abs(first.astype(int) - second).max(axis=2) > 16).mean())


def see_a_word(tab, frame: str, folder, name: str) -> None:
    """The page in a frame is that of SENTENCE, and a word under the pointer changes its picture."""
    tab.wait(lambda: framed(tab, frame, ".word .text"), "the page of the photo")
    words = [word.replace("unknown", "") for word in framed(tab, frame, ".word .text")]
    assert words == ["a", "red", "dog", "and", "a", "cat"]
    assert framed(tab, frame, ".scores b")
    tab.js("new Promise(done => setTimeout(done, 800))")  # scrolling there
    rest = tab.shot(folder / f"{name}.png", f"{frame} iframe")
    hover_in(tab, frame, ".word", 1)
    assert differ(rest, tab.shot(folder / f"{name}-red.png", f"{frame} iframe")) > 0.1
    assert "“red”" in framed(tab, frame, "figcaption")[0]


@pytest.mark.parametrize("how", [{"width": 1200}, {"width": 1200, "dark": True}, PHONE], ids=["light", "dark", "phone"])
def test_a_sentence_finds_photos_and_a_clicked_one_says_why(shown, tmp_path, request, how):
    tab, folder, name = shown(**how), screenshots(tmp_path), request.node.callspec.id
    tab.shot(folder / f"app-{name}.png")
    ask(tab, BOX, SENTENCE)
    tab.wait(lambda: len(photos(tab)) == 5, "five photos")
    assert all(re.fullmatch(r"-?\d+\.\d{3} · some-\d\.jpg", text) for text in photos(tab))
    scores = [float(text.split()[0]) for text in photos(tab)]
    assert scores == sorted(scores, reverse=True)
    assert "The best 5, in " in lines(tab)[0]
    tab.shot(folder / f"app-{name}-photos.png")
    clicked = photos(tab)[1].split(" · ")[1]
    tab.click("#grid button img", 1)
    see_a_word(tab, "#why", folder, f"app-{name}-why")
    tab.wait(lambda: len(lines(tab)) > 1, "the line of the photo")
    assert lines(tab)[1].startswith(f"{clicked}: score {scores[1]:.3f}")
    tab.shot(folder / f"app-{name}-page.png")


def test_the_keyboard_alone(shown):
    tab = shown()
    ask(tab, BOX, SENTENCE)
    tab.wait(lambda: len(photos(tab)) == 5, "five photos")
    for _ in range(3):  # the button of the box, then the photos
        tab.press("Tab")
    assert tab.js("document.activeElement.getAttribute('aria-label')") == "Thumbnail 2 of 5"
    tab.press("Enter")
    tab.wait(lambda: framed(tab, "#why", ".word .text"), "the page of the photo")
    tab.wait(lambda: len(lines(tab)) > 1, "its line")
    assert lines(tab)[1].startswith(photos(tab)[1].split(" · ")[1])


def upload(tab, path) -> None:
    given = tab.call("Runtime.evaluate", expression="document.querySelector('#photo input[type=file]')")
    tab.call("DOM.setFileInputFiles", files=[str(path)], objectId=given["result"]["objectId"])
    shown = f"document.querySelector('#photo').textContent.includes('{path.stem}')"
    tab.wait(lambda: tab.js(shown), "the file is there")


def to_upload(tab) -> None:
    tab.click("button[role=tab]", 1)
    tab.wait(lambda: tab.js(f"document.querySelector('{OWN_BOX}')?.offsetWidth > 0"), "the tab")


def test_a_photo_of_ones_own(shown, work, tmp_path):
    tab, folder = shown(), screenshots(tmp_path)
    to_upload(tab)
    tab.shot(folder / "app-upload.png")
    upload(tab, work / "other" / "other-0.jpg")
    ask(tab, OWN_BOX, SENTENCE)
    see_a_word(tab, "#own", folder, "app-upload-why")
    assert lines(tab)[-1].startswith("other-0.jpg: score ")
    tab.shot(folder / "app-upload-page.png")


def test_bad_input_is_told_in_a_line(shown, tmp_path):
    tab = shown()
    ask(tab, BOX, "?!")
    tab.wait(lambda: lines(tab)[0] == "query '?!': has no word; give a sentence", "the line")
    ask(tab, BOX, "<img src=x onerror=alert(1)> 犬")
    told = "query '<img src=x onerror=alert(1)> 犬': the run knows none of its words"  # text stays text
    tab.wait(lambda: lines(tab)[0].startswith(told), "the line")
    to_upload(tab)
    ask(tab, OWN_BOX, SENTENCE)
    tab.wait(lambda: lines(tab)[-1] == "Choose a photo first.", "the line")
    (tmp_path / "dog.jpg").write_text("not a picture")
    upload(tab, tmp_path / "dog.jpg")
    ask(tab, OWN_BOX, SENTENCE)
    tab.wait(lambda: lines(tab)[-1].startswith("dog.jpg: can't be read as a picture ("), "the line")
    assert framed(tab, "#own", "*") == []
    tab.shot(screenshots(tmp_path) / "app-bad.png")


def fetch(address: str, data: dict | None = None) -> tuple[int, bytes]:
    """Status and content of an answer."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, data and json.dumps(data).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def call(served: str, function: str, data: list, **more) -> str:
    """What a function of the page answers to data that no page has sent, as the server's events."""
    _, config = fetch(f"{served}/config")
    index = next(one["id"] for one in json.loads(config)["dependencies"] if function in str(one["api_name"]))
    session = {"session_hash": os.urandom(6).hex()}
    status, _ = fetch(f"{served}/gradio_api/queue/join", {"data": data, "fn_index": index, **session, **more})
    assert status == 200
    return fetch(f"{served}/gradio_api/queue/data?{urllib.parse.urlencode(session)}")[1].decode()


def test_no_other_file_is_served(served, work, project):
    told = call(served, "search", [SENTENCE])
    thumbnail = re.search(r'"url": ?"([^"]+)"', told)[1]
    status, content = fetch(thumbnail)
    assert status == 200
    assert content.startswith(b"\xff\xd8")  # a JPEG
    own, files = thumbnail.partition("/file=")[2], [
        "/etc/hostname", "file:///etc/hostname", f"{served}/config", str(project / "README.md"), "README.md",
        *map(str, (work / "some" / "link.jpg", work / "other" / "other-0.jpg", work / "grid" / "config.json")),
        str(work / "some" / "some-0.jpg"),  # the browser gets small pictures of the photos
    ]  # fmt: skip
    for file in [*files, f"{own}/../../../../../../../../../../../../../../etc/hostname"]:
        for route in ("gradio_api/file=", "gradio_api/file/"):
            for name in (file, urllib.parse.quote(file, safe="")):
                status, content = fetch(f"{served}/{route}{name}")
                assert status in (403, 404), file
                assert len(content) < 1000
    for route in ("static", "assets"):
        assert fetch(f"{served}/{route}/{'..%2f' * 20}etc%2fhostname")[0] in (403, 404)


def test_no_other_file_is_explained(served, work):
    for file in ("/etc/hostname", work / "some" / "some-0.jpg", work / "other" / "other-0.jpg", f"{served}/config"):
        photo = {"path": str(file), "meta": {"_type": "gradio.FileData"}}
        told = call(served, "explain", [photo, SENTENCE])
        assert '"success":false' in told
        assert "iframe" not in told
    found = [SENTENCE, [str(work / "other" / "other-0.jpg")]]  # what a page keeps is the server's, not the page's
    told = call(served, "choose", [found], event_data={"index": 0, "value": None})
    assert "Search first, then click a photo." in told


def test_without_a_folder_there_is_only_the_upload():
    def tabs(index):
        answers = SimpleNamespace(index=index, told="none")
        return [part["props"]["label"] for part in app.page(answers).config["components"] if part["type"] == "tabitem"]

    assert tabs(None) == ["Your photo"]
    assert tabs([]) == ["Search", "Your photo"]


def test_without_a_folder_and_ended_by_a_signal(project, work, tmp_path):
    with started(project, tmp_path, "--run", work / "grid", "--host", "0.0.0.0") as (address, said, process):
        port = address.rpartition(":")[2]
        told = f"http://0.0.0.0:{port}; others may see all that it shows (Ctrl-C ends it)"
        assert said[1:] == ["photos: only those that are uploaded", told]
        assert fetch(address)[0] == 200
        assert list(tmp_path.glob("bssan_tf-*"))
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("bssan_tf-*"))
