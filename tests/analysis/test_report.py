"""The report: self-contained, safe, the same for the same runs, and as a browser sees it."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from analysis.report import main
from experiments.config.compose import compose_config
from tests.analysis.browser import Browser

MakeRun = Callable[..., Path]
HOSTILE = "</pre><script>document.title='taken'</script><img src=x onerror=alert(1)> & \"quoted\" </textarea>"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Collects what a page is made of, and checks that its elements close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.tags: Counter[str] = Counter()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.open += [tag] if tag not in VOID else []
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} has a handler {name}"
            if name == "id":
                self.ids[value or ""] += 1
            elif name in ("href", "src", "xlink:href"):
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def report(make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The report of a study with seeds, a killed run, a corner, damage and hostile texts."""
    for temperature in (0.6, 1.0):
        for seed in (1, 2):
            make(temperature=temperature, seed=seed)
    run = make(temperature=1.2, legs=((1, 31),), ending=None)
    dump = run / "attempts" / "1" / "rollouts" / "7.jsonl"
    dump.parent.mkdir()
    dump.write_text(json.dumps({"input": "numbers", "output": HOSTILE, "score": 0.1, "gts": {"target": "<b>"}}) + "\n")
    make(temperature=1.2, n=8, kl=0.01)
    (runs / "<b>notes").mkdir()
    out = tmp_path / "report.html"
    assert main(["--runs", str(runs), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"report: {out}\n"
    return out


def test_the_page_holds_all_there_is_to_say_and_nothing_from_elsewhere(report: Path) -> None:
    page = report.read_text()
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert not [name for name, count in reader.ids.items() if count > 1]
    assert all(link.startswith("#") and link[1:] in reader.ids for link in reader.links)
    assert not re.search(r"url\((?!#)|@import|<link", page)
    assert reader.tags["script"] == reader.tags["img"] == 0
    assert HOSTILE in "".join(reader.text), "what the model wrote is shown as text"
    text = " ".join(" ".join(reader.text).split())
    for part in (
        "6 runs (5 finished, 1 killed)",
        "temperature=1.2 seed 0: killed at step 31 of 60",
        "killed at step 31 of 60: drawn up to a cross; left out of the numbers and the claims",
        "The validation score is higher at temperature 1.0 than at 0.6.",
        "undecided",
        "differs from the baseline",
        "<b>notes: left out",
        "python -m analysis.report --runs",
    ):
        assert part in text, part
    assert reader.tags["caption"] == reader.tags["table"] >= 4
    assert page.count("aria-label") >= reader.tags["table"]


def test_the_same_runs_give_the_same_page(report: Path, runs: Path) -> None:
    first = report.read_bytes()
    assert main(["--runs", str(runs), "--out", str(report)]) == 0
    assert report.read_bytes() == first


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as open_:
        yield open_


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_on_a_phone_and_a_desk_in_light_and_dark(
    report: Path, browser: Browser, width: int, dark: bool
) -> None:
    browser.show(report, width, dark=dark)
    assert browser.run("document.title") == "R1-Zero ablations"
    assert browser.run("document.documentElement.scrollWidth") <= width, "but for figures and tables nothing scrolls"
    size = browser.run("(b => [b.width, b.height])(document.querySelector('svg').getBoundingClientRect())")
    assert size[0] >= 500 and 300 < size[1] < 1200
    seen = matplotlib.image.imread(browser.screenshot(report.with_suffix(".png")))
    assert seen.shape[:2] == (800, width)
    bright = float(np.median(seen[..., :3]))
    assert bright < 0.2 if dark else bright > 0.9, "the page itself is dark or light"
    text = seen[:200, :, :3].mean(axis=2)
    assert abs(text - bright).max() > 0.6, "the heading stands out"
    browser.run("document.querySelector('svg').scrollIntoView()")
    figure = matplotlib.image.imread(browser.screenshot(report.with_suffix(".png")))[..., :3]
    spread = figure.max(axis=2) - figure.min(axis=2)
    assert (spread > 0.3).sum() > 500, "the figure's colours are there"


def test_the_keyboard_reaches_everything_that_scrolls_or_opens(report: Path, browser: Browser) -> None:
    browser.show(report, 390)
    focus = "(e => [e.tagName, e.getAttribute('aria-label') || e.textContent, getComputedStyle(e).outlineStyle])"
    reached = []
    for _ in range(200):
        browser.press("Tab")
        element = browser.run(f"{focus}(document.activeElement)")
        if element[0] == "BODY":
            break
        reached.append(element)
    assert reached[0][:2] == ["A", "Skip to the results"]
    assert all(outline == "solid" for _, _, outline in reached), "focus is always seen"
    count = "document.querySelectorAll('{}').length".format
    assert len(reached) == browser.run(count('a[href], summary, [tabindex="0"]')) - browser.run(
        count('details:not([open]) [tabindex="0"]')
    )
    browser.show(report, 390)
    browser.press("Tab")
    browser.press("Enter")
    assert browser.run("location.hash") == "#main"
    browser.run("document.querySelector('summary').focus()")
    browser.press("Enter")
    assert browser.run("document.querySelector('details').open") is True


def test_the_page_says_how_to_make_it_and_its_runs_again(
    make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make(algorithm="gae", n=8, temperature=1.2, seed=7, steps=20)
    make(temperature=0.6, seed=1, steps=20)
    make(temperature=0.6, seed=2, steps=20)
    code = {"format": 1, "commit": "0123456789abcdef", "diff": "x", "versions": {"verl": "0.9.1", "torch": "2.9"}}
    (run / "code.json").write_text(json.dumps(code))
    out = tmp_path / "a report.html"
    arguments = ["--runs", str(runs), "--out", str(out), "--filter", "rollout.n!=3"]
    assert main(arguments) == 0
    reader = Reader()
    reader.feed(out.read_text())
    text = " ".join(" ".join(reader.text).split())
    assert "0123456789ab with local changes" in text and "verl 0.9.1, torch 2.9" in text
    line = next(part for part in reader.text if part.startswith("python -m analysis.report"))
    assert shlex.split(line) == ["python", "-m", "analysis.report", *arguments]
    commands = next(part for part in reader.text if part.startswith("python -m experiments.run"))
    seeds, alone = map(shlex.split, commands.splitlines())
    assert seeds[3] == "-m" and "rollout.temperature=0.6" in seeds and seeds[-1] == "seed=1,2"
    composed = compose_config(alone[3:])
    assert (composed.algorithm.adv_estimator, composed.rollout.n, composed.seed) == ("gae", 8, 7)
    assert (composed.rollout.temperature, composed.trainer.total_training_steps) == (1.2, 20)


def test_steps_without_texts_and_a_folder_in_place_of_a_file_get_one_message(
    report: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--runs", str(runs), "--out", str(tmp_path / "other.html")]
    assert main([*command, "--steps", "7"]) == 0
    capsys.readouterr()
    assert main([*command, "--steps", "7", "999"]) == 2
    assert capsys.readouterr().err == (
        "error: --steps must name steps whose texts were kept, but 999 is none; they are of steps 7 to 7\n"
    )
    assert main(["--runs", str(runs), "--out", str(tmp_path)]) == 2
    assert f"--out must be a file, but {tmp_path} is a folder" in capsys.readouterr().err


def test_mistakes_are_told_as_by_the_other_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--source", str(tmp_path / "nothing"), "--out", str(tmp_path / "r.html")]) == 2
    assert "no runs found" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()
