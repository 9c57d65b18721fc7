"""The report: self-contained, safe, the same for the same runs, and as a browser sees it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.report import main

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


MEASURE = """<!doctype html>
<iframe src="report.html" style="width:%dpx;height:800px;border:0"></iframe><pre></pre>
<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const box = page.querySelector("svg").getBoundingClientRect();
  document.querySelector("pre").textContent = JSON.stringify({
    wide: page.documentElement.scrollWidth,
    title: page.title,
    svg: [box.width, box.height],
    back: getComputedStyle(page.body).backgroundColor,
  });
};
</script>"""


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_a_browser_shows_it_on_a_phone_and_a_desk_in_light_and_dark(
    report: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert browser, "this test needs a browser: apt-get install chromium"
    (report.parent / "measure.html").write_text(MEASURE % width)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--allow-file-access-from-files"]
    command += ["--dump-dom", f"file://{report.parent / 'measure.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"<pre>(\{.*?\})</pre>", done.stdout)
    assert found, done.stderr[-500:]
    seen = json.loads(found[1])
    assert seen["title"] == "R1-Zero ablations"
    assert seen["wide"] <= width, "nothing but figures and tables scrolls sideways"
    assert seen["svg"][0] >= 500 and 300 < seen["svg"][1] < 1200
    assert seen["back"] == ("rgb(24, 24, 23)" if dark else "rgb(255, 255, 255)")


def test_mistakes_are_told_as_by_the_other_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--source", str(tmp_path / "nothing"), "--out", str(tmp_path / "r.html")]) == 2
    assert "no runs found" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()
