"""A page in the browser: search photos with a sentence, and see why one was found.

In: a run, and a folder of photos or none. Out: a server on this machine with a search over the folder, the page of
attention of the photo that is clicked, and a form for a photo and a sentence of one's own.
"""

import argparse
import errno
import functools
import html
import importlib.util
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image

from bssan_tf import cli
from bssan_tf.datasets.picture_folder import pictures_in
from bssan_tf.errors import UserError
from bssan_tf.features.pictures import read_picture
from bssan_tf.runs.folder import find_run

logger = logging.getLogger(__name__)

TOP = 20  # photos of a search
SIDE = 320  # pixels of a thumbnail's longer side
KEPT = 200  # thumbnails in memory, of 0.3 MB at most
MOST_LETTERS = 1000  # of a sentence
MOST_UPLOAD = "50mb"
DAY = 24 * 3600  # seconds for which uploads and thumbnails are kept at most
FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # no address is asked for them
CSS = """
#why iframe, #own iframe { display: block; width: 100%; height: min(60rem, 92vh); border: 0; border-radius: .5rem; }
#grid:not(:has(img)) { display: none; }
#grid .grid-wrap { height: auto; min-height: 0; max-height: none; }
#grid .grid-container { grid-template: none / repeat(auto-fill, minmax(min(10rem, 40%), 1fr)); }
.told { min-height: 1.5em; overflow-wrap: anywhere; }
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.Parser(prog="python -m bssan_tf.app", description=__doc__.partition("\n")[0])
    parser.add_argument("--run", help="run folder (default: the latest)")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="photos to search (default: uploads only)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=port, default=7860, help="port to listen on (default: 7860)")
    parser.add_argument(
        "--top", type=cli.count, metavar="N", default=TOP, help=f"photos that a search shows (default: {TOP})"
    )
    cli.add_moved_flags(parser, "objects", "detector_weights", "backbone_weights", "cache")
    return parser


def port(text: str) -> int:
    """A port, for argparse."""
    found = cli.count(text)
    if found > 65535:
        raise argparse.ArgumentTypeError(f"{text}: must be a port, 1 to 65535")
    return found


def main(arguments: Optional[list] = None) -> None:
    """Parse, get ready, say what is served and where, serve until interrupted."""
    options = build_parser().parse_args(arguments)
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the app needs Gradio: pip install '.[app]'")
    run = find_run(options.run, pretrained=True, photos=bool(options.images))
    if options.images:
        pictures_in(options.images, tell=False)
    refuse_taken(options.host, options.port)  # all of this before anything slow
    cli.load_tensorflow()
    from bssan_tf.matching.matcher import Matcher

    answers = Answers(Matcher(run, cli.moved_files(options), progress=True), options.images, options.top)
    with tempfile.TemporaryDirectory(prefix="bssan_tf-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}  # read when Gradio is imported
        os.environ |= {"NO_PROXY": "*", "no_proxy": "*"}  # Gradio asks its own server whether it is up
        served = page(answers)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the folder goes, too
        host = f"[{options.host}]" if ":" in options.host else options.host
        try:
            serve(served, host, options.port, folder)
            print(f"run: {run.path}")
            print(f"photos: {answers.told}" + (f", {options.images}" if options.images else ""))
            others = "" if options.host in ("127.0.0.1", "localhost", "::1") else "; others may see all that it shows"
            print(f"http://{host}:{options.port}{others} (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
        finally:
            served.close(verbose=False)


def refuse_taken(host: str, port: int) -> None:
    """UserError for an address on which this machine can't listen."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a port is taken a minute after its use
            tried.bind(address)
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES):
            problem = "is taken" if error.errno == errno.EADDRINUSE else "is not for this user"
            raise UserError(f"--port {port}: {problem}; name another") from None
        raise UserError(f"--host {host}: is no address of this machine ({error}); leave it out") from None


class Answers:
    """What the page's parts call, one at a time; bad input is answered by a line.

    Attributes:
        index: the folder's `PhotoIndex`, or None.
        told: the folder and the number of its photos, in words.
    """

    def __init__(self, matcher, folder: Optional[Path] = None, top: int = TOP):
        self.matcher, self.top, self._lock = matcher, top, threading.Lock()
        self.index = matcher.index(folder) if folder else None
        self.told, self._outside = "only those that are uploaded", set()
        if folder:
            root = folder.resolve()
            self._outside = {path for path in self.index.paths if root not in path.resolve().parents}
            self.told = f"{len(self.index) - len(self._outside):,} in {root.name}"
            if self._outside:
                self.told += f" (left out, as links to files elsewhere: {len(self._outside)})"
        word = matcher.tokenizer.words[-1]  # the first answers build graphs, which takes seconds
        matcher.explain(np.full((8, 8, 3), 128, np.uint8), word)
        if folder:
            self.index.search(word)

    def search(self, sentence: str) -> tuple:
        """The best photos for a sentence.

        Returns:
            Pairs of a thumbnail and a text for the grid; what `why_of_hit` needs of them, the sentence and the paths;
            a line.
        """
        from bssan_tf.features.describer import decoding_pool  # needs TensorFlow, which --help does not

        start = time.perf_counter()
        hits, problem = self._told(lambda: self.index.search(sentence, self.top + len(self._outside)))
        if problem:
            return [], (sentence, []), problem
        hits = [hit for hit in hits if hit.found not in self._outside][: self.top]
        with decoding_pool() as pool:
            small = list(pool.map(thumbnail_of, (hit.found for hit in hits)))
        hits, small = [hit for hit, image in zip(hits, small) if image], list(filter(None, small))
        grid, paths = list(zip(small, map(caption_of, hits))), [hit.found for hit in hits]
        seconds = time.perf_counter() - start
        told = f"Photos: {self.told}. The best {len(paths)}, in {seconds:.2f} s; click one to see why."
        return grid, (sentence, paths), told if paths else f"Photos: {self.told}. None matches."

    def why_of_hit(self, found: tuple, place: int) -> tuple:
        """The page of the photo at a place in the grid, as `search` returned it, and a line."""
        sentence, paths = found
        if not 0 <= place < len(paths):
            return "", "Search first, then click a photo."
        return self.why(paths[place], sentence)

    def why(self, photo: Optional[str], sentence: str) -> tuple:
        """The page of a photo's file beside a sentence, in a frame, and a line with the scores."""
        if not photo:
            return "", "Choose a photo first."
        page, problem = self._told(lambda: self._why(photo, sentence))
        return page or ("", problem.replace(str(photo), Path(photo).name))

    def _why(self, photo, sentence: str) -> tuple:
        found = self.matcher.explain(photo, sentence)
        scores = ", ".join(f"{name} {value:.3f}" for name, value in found.scores.items())
        return framed(found.page()), f"{Path(photo).name}: {scores}"

    def _told(self, answer) -> tuple:
        """The answer and None, or None and what is wrong in a line."""
        try:
            with self._lock:
                return answer(), None
        except UserError as error:
            problem = str(error)
        except Exception as error:
            if (problem := cli.shortage(error)) is None:
                raise  # Gradio tells it in the page, and its traceback in the terminal
        logger.info("%s", problem)
        return None, " ".join(problem.splitlines())


def caption_of(hit) -> str:
    """What stands below a photo: the probability that it matches, where the run tells one, and the score."""
    probability = getattr(hit, "probability", None)
    shown = "" if probability is None else f"{probability:.0%}, "
    return f"{shown}{hit.score:.3f} · {hit.found.name}"


def thumbnail_of(path: Path) -> Optional[Image.Image]:
    """The `thumbnail` of a photo as it is now; None where it has gone or can't be read any more."""
    try:
        return thumbnail(path, path.stat().st_mtime_ns)
    except (UserError, OSError):
        return None


@functools.lru_cache(maxsize=KEPT)
def thumbnail(path: Path, changed: int) -> Image.Image:
    """A small upright picture of a photo; `changed` tells versions of a file apart. UserError: it can't be read."""
    pixels, (height, width) = read_picture(path, SIDE)
    scale = SIDE / max(height, width)
    return Image.fromarray(pixels).resize((max(1, round(width * scale)), max(1, round(height * scale))))


def framed(page: str) -> str:
    """A page as a frame, in which its own policy holds."""
    return f'<iframe title="why the photo and the sentence match" srcdoc="{html.escape(page)}"></iframe>'


def page(answers: Answers):
    """The page as `gr.Blocks`."""
    import gradio as gr

    def line(text: str) -> str:
        return f'<div class="told" role="status">{html.escape(text)}</div>'

    def search(sentence: str):
        grid, found, told = answers.search(sentence)
        return grid, found, line(told), "", ""

    def choose(found, event: gr.SelectData):  # Gradio reads this type, so annotations of this file are no strings
        shown, told = answers.why_of_hit(found, event.index)
        return shown, line(told)

    def explain(photo: str, sentence: str):
        shown, told = answers.why(photo, sentence)
        return shown, line(told)

    sentence = {"label": "Sentence", "placeholder": "a dog runs through the snow", "max_length": MOST_LETTERS}
    private = {"api_visibility": "private", "show_progress": "minimal"}
    with gr.Blocks(title="Photos and sentences", analytics_enabled=False, delete_cache=(3600, DAY)) as found:
        gr.Markdown("# Photos and sentences\nWhich photos match a sentence, and where each word looked.")
        if answers.index is not None:
            with gr.Tab("Search"):
                state = gr.State(("", []))  # stays on the server
                box = gr.Textbox(**sentence, submit_btn="Search", elem_id="query")
                told = gr.HTML(line(f"Photos: {answers.told}."))
                grid = gr.Gallery(
                    label="Photos, best first", show_label=False, columns=None, height="auto", object_fit="contain",
                    format="jpeg", allow_preview=False, buttons=[], elem_id="grid", interactive=False,
                )  # fmt: skip
                with gr.Column(elem_id="why"):
                    why_told, why = gr.HTML(line("")), gr.HTML()
            box.submit(search, box, [grid, state, told, why_told, why], **private)
            chosen = grid.select(choose, state, [why, why_told], **private)
            chosen.then(None, js="() => document.querySelector('#why').scrollIntoView({behavior: 'smooth'})")
        with gr.Tab("Your photo"):
            photo = gr.File(label="Photo", height=140, elem_id="photo")
            own_box = gr.Textbox(**sentence, submit_btn="Explain", elem_id="sentence")
            with gr.Column(elem_id="own"):
                own_told, own = gr.HTML(line("")), gr.HTML()
        own_box.submit(explain, [photo, own_box], [own, own_told], **private)
    return found


def serve(served, host: str, port: int, folder: str) -> None:
    """Start to serve a page in the background; files are served from `folder` alone."""
    import gradio as gr

    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells every request to the own server
    try:
        served.launch(
            server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, footer_links=[],
            run_history=False, allowed_paths=[folder], max_file_size=MOST_UPLOAD, enable_monitoring=False,
            ssr_mode=False, pwa=False, mcp_server=False, css=CSS,
            theme=gr.themes.Default(primary_hue="blue", font=FONTS[0], font_mono=FONTS[1]),
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--port {port}: can't be listened on ({error}); name another") from None


if __name__ == "__main__":
    cli.run(main)
