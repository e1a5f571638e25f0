"""The page in a real browser, as a person uses it: pointer, keyboard and finger, dark and light, wide and narrow.

Pictures of what was seen are kept in the tests' folders, or in BSSAN_SCREENSHOTS.
"""

import json

import numpy as np
import pytest
from browser import browser, screenshots
from page_fixtures import BOXES, LABELS, LONG, SHORT, explanation

from bssan_tf.drawing.figures import HEAT, heat_maps

PHONE = {"width": 360, "height": 740, "touch": True}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium") / "profile") as started:
        yield started


@pytest.fixture
def shown(chromium, tmp_path):
    """Open the page of explanations; afterwards nothing has complained, and nothing but the file was asked for."""

    def show(first, against=None, **how):
        path = tmp_path / "page.html"
        first.save_page(path, against)
        chromium.open(path, **how)
        opened.append(path.as_uri())
        return chromium

    opened = []
    yield show
    assert chromium.problems == []
    assert chromium.requests == opened[-1:]


def shares(tab, selector: str) -> list[float]:
    """How high the bars of words or objects are, of their full height."""
    told = f"[...document.querySelectorAll('{selector}')].map(one => Number(one.style.getPropertyValue('--share')))"
    return tab.js(told)


def differ(first: np.ndarray, second: np.ndarray) -> float:
    """The share of pixels that look different."""
    return float((np.abs(first.astype(int) - second).max(axis=2) > 16).mean())


def active(tab) -> str:
    return tab.js("document.activeElement.querySelector('.text').firstChild.textContent")


@pytest.mark.parametrize("dark", [False, True])
def test_a_word_under_the_pointer_shows_where_it_looked(shown, tmp_path, dark):
    found, folder, name = explanation(), screenshots(tmp_path), "dark" if dark else "light"
    tab = shown(found, dark=dark)
    rest = tab.shot(folder / f"{name}.png", ".photo")
    tab.hover(".word", 1)
    dog = tab.shot(folder / f"{name}-dog.png", ".photo")
    tab.shot(folder / f"{name}-page.png")
    assert "“dog”" in tab.js("document.querySelector('figcaption').textContent")
    np.testing.assert_allclose(shares(tab, ".object"), found.beta[:3, 1] / max(0.4, found.beta[:3, 1].max()), atol=1e-4)
    tab.hover(".word", 4)
    snow = tab.shot(folder / f"{name}-snow.png", ".photo")
    assert differ(rest, dog) > 0.5
    assert differ(dog, snow) > 0.2
    tab.leave()
    assert differ(rest, tab.shot(folder / f"{name}.png", ".photo")) == 0
    ground = np.array(tab.shot(folder / f"{name}-whole.png")[2, 2], int)
    assert (ground.mean() < 60) == dark
    assert (ground.mean() > 220) != dark


@pytest.mark.parametrize("grid", [(14, 14), (7, 10)])
def test_heat_is_that_of_the_png(shown, grid):
    found = explanation(grid=grid)
    tab = shown(found)
    tab.hover(".word", 2)
    size = (8 * grid[0], 8 * grid[1])
    pixels = tab.js(
        "(() => { const c = document.querySelector('canvas');"
        " return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data] })()"
    )
    pixels = np.reshape(pixels, (*size, 4))
    expected = HEAT(heat_maps(found.alpha[2].reshape(1, -1), grid, size)[0])[..., :3] * 255
    assert np.ptp(expected) > 100
    assert np.abs(pixels[..., :3] - expected).mean() < 1
    assert np.abs(pixels[..., :3] - expected).max() < 8  # a colour beside the right one
    assert tab.js("getComputedStyle(document.querySelector('canvas')).opacity") == "0.3"


def test_a_box_under_the_pointer_shows_which_words_it_looked_at(shown, tmp_path):
    whole = {"boxes": np.float32([*BOXES[:3], [0, 0, 1, 1]]), "valid": np.ones(4, bool)}  # lies below the others
    found = explanation(**whole, labels=[*LABELS[:3], "scene"])
    tab = shown(found)
    assert shares(tab, ".word") == [0] * 5
    rest = tab.shot(screenshots(tmp_path) / "words.png", ".words")
    for selector, place in ((".box", 2), (".object", 1), (".box", 0)):
        p = place
        tab.hover(selector, place)
        expected = found.beta[p] / max(0.4, found.beta[p].max())
        np.testing.assert_allclose(shares(tab, ".word"), expected, atol=1e-4)
        lit = tab.js("[...document.querySelectorAll('.word')].map(word => word.classList.contains('lit'))")
        assert lit == (found.beta[p] > 0.2).tolist()
        assert tab.js("document.querySelector('.photo .name').textContent") == LABELS[p]
    assert differ(rest, tab.shot(screenshots(tmp_path) / "words-box.png", ".words")) > 0.02
    tab.shot(screenshots(tmp_path) / "box-page.png")


def test_the_keyboard_alone(shown, tmp_path):
    tab, folder = shown(explanation()), screenshots(tmp_path)
    rest = tab.shot(folder / "keys-rest.png", ".photo")
    tab.press("Tab")
    assert active(tab) == "a"
    assert tab.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.press("ArrowRight")
    assert active(tab) == "dog"
    dog = tab.shot(folder / "keys-dog.png", ".photo")
    assert differ(rest, dog) > 0.5
    tab.press("Tab")
    assert active(tab) == LABELS[0]
    assert max(shares(tab, ".word")) > 0.2
    tab.press("ArrowRight")
    tab.press("ArrowRight")
    tab.press("ArrowRight")  # there is no fourth
    assert active(tab) == LABELS[2]
    tab.press("Enter")  # keeps it
    tab.hover(".word", 1)
    tab.leave()
    assert tab.js("document.querySelector('.object:nth-child(3)').getAttribute('aria-pressed')") == "true"
    assert max(shares(tab, ".word")) > 0.2
    tab.press("Escape")
    assert max(shares(tab, ".word")) == 0
    tab.press("Tab")  # leaves the page's last group
    assert tab.js("document.activeElement === document.body")


def test_names_for_those_who_do_not_see(shown):
    tab = shown(explanation(LONG))
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    named = {(node["role"]["value"], node.get("name", {}).get("value")) for node in nodes if "role" in node}
    wanted = {
        ("button", "dog"),
        ("button", "zyxcollar unknown"),
        ("group", "Words of the sentence"),
        ("image", "The photo"),
    }
    assert wanted | {("group", "Objects of the photo"), ("region", LONG)} <= named


@pytest.mark.parametrize("against", [None, LONG])
def test_a_phone(shown, tmp_path, against):
    other = against and explanation(against, seed=2)
    tab = shown(explanation(LONG, seed=1, labels=["a_very_long_name_of_a_class_" * 2, *LABELS[1:]]), other, **PHONE)
    assert tab.js("document.documentElement.scrollWidth") == 360
    rest = tab.shot(screenshots(tmp_path) / "phone.png", ".photo")
    tab.tap(".word", 3)
    tab.wait(lambda: tab.js("document.querySelector('.photo').classList.contains('heated')"), "the tap is seen")
    assert differ(rest, tab.shot(screenshots(tmp_path) / "phone-dog.png", ".photo")) > 0.5
    tab.tap(".object", 0)
    tab.wait(lambda: max(shares(tab, ".word")) > 0, "the second tap is seen")
    assert tab.js("document.querySelector('.photo').classList.contains('heated')") is False
    tab.shot(screenshots(tmp_path) / f"phone-page{'-two' if against else ''}.png")
    small = "[...document.querySelectorAll('button')].filter(b => b.getBoundingClientRect().height < 40).length"
    assert tab.js(small) == 0
    assert tab.js("document.documentElement.scrollWidth") == 360


def test_two_sentences_are_apart(shown, tmp_path):
    first = explanation(scores={"score": 1.5, "w2r": 1.0, "o2w": 0.5})
    tab = shown(first, explanation(LONG, seed=1, scores={"score": -1.0, "w2r": -0.25, "o2w": -0.75}))
    assert "Sentence A matches better, by 2.500." in tab.js("document.getElementById('hint').textContent")
    tab.hover(".case:nth-child(2) .word", 1)
    heated = "[...document.querySelectorAll('.photo')].map(photo => photo.classList.contains('heated'))"
    assert tab.js(heated) == [False, True]
    numbers = tab.js("[...document.querySelectorAll('.scores b')].map(one => one.textContent)")
    assert numbers == ["1.500", "1.000", "0.500", "−1.000", "−0.250", "−0.750"]
    tops = tab.js("[...document.querySelectorAll('.photo')].map(photo => photo.getBoundingClientRect().top)")
    assert tops[0] == tops[1]
    fills = "[...document.querySelectorAll('.score .fill')].map(one => [one.style.left, one.style.width])"
    assert tab.js(fills) == [["40%", "60%"], ["0%", "40%"]]
    tab.shot(screenshots(tmp_path) / "two.png")


@pytest.mark.parametrize("part", ["alpha", "beta"])
def test_a_run_with_one_part(shown, tmp_path, part):
    tab = shown(explanation(without=(part, "erasures")))
    tab.hover(".word", 1)
    tab.shot(screenshots(tmp_path) / f"without-{part}.png")
    assert tab.js("document.querySelector('.photo').classList.contains('heated')") is (part == "beta")
    assert tab.js("document.querySelectorAll('.object').length") == (0 if part == "beta" else 3)
    assert "“dog”" in tab.js("document.querySelector('figcaption').textContent")
    assert tab.js("document.querySelector('table')") is None


def test_the_erase_test_stands_beside_each_word(shown):
    found = explanation()
    tab = shown(found)
    numbers = tab.js("[...document.querySelectorAll('tbody .number')].map(one => one.lastChild.textContent)")
    expected = [value for one in found.erasures for value in (one.attended, one.elsewhere.mean())]
    assert numbers == [f"{value:.3f}".replace("-", "−") for value in expected]
    assert "elsewhere, mean of 20 random places" in tab.js("document.querySelector('caption').textContent")
    tab.hover("tbody tr", 2)  # the row of a word shows its map and its square, too
    box = "(r => [r.x, r.y, r.right, r.bottom])(document.querySelector('{}').getBoundingClientRect())"
    square, photo = (np.reshape(tab.js(box.format(name)), (2, 2)) for name in (".square", ".photo"))
    fractions = (square - photo[0]) / (photo[1] - photo[0])
    np.testing.assert_allclose(fractions.ravel(), found.erasures[2].square, atol=0.01)


def test_texts_of_users_do_nothing(shown):
    evil = "</script><script>document.title='hacked'</script><img/src=x/onerror=document.title='hacked'>"
    words = [evil, *SHORT.split()[1:]]
    tab = shown(explanation(words=words, labels=[evil, *LABELS[1:]]))
    for selector in (".word", ".object"):
        tab.hover(selector)
    assert tab.js("document.title") == " ".join(words)
    assert active_text(tab, ".word") == active_text(tab, ".object") == evil
    assert tab.js("document.querySelectorAll('script').length") == 2


def active_text(tab, selector: str) -> str:
    return tab.js(f"document.querySelector({json.dumps(selector + ' .text')}).textContent")
