"""The report's HTML. Every string is escaped where it enters the page, so that what models wrote stays plain text."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

from analysis.design.ablations import Ablation
from analysis.design.arms import Arm
from analysis.pages.rendering import Drawn, render_study
from analysis.pages.study import Finding, Study
from analysis.pages.tables import CLAIM_COLUMNS, FITTED, RUN_COLUMNS, claim_rows, family_text, run_rows
from analysis.records.knobs import ALGORITHM, ALGORITHMS
from analysis.records.record import RunRecord
from analysis.records.rollouts import Rollouts, find_rollouts
from experiments.algorithm_names import ESTIMATOR
from experiments.errors import UserError

SAMPLES_A_STEP, LONGEST_TEXT = 2, 1500
ROWS_AN_ARM = 12  # how many steps of an arm the table of a figure's numbers shows
# {option of a run's command line: the config key that tells its value}.
ASKED = {
    "algorithm": "algorithm",
    "model": "model.name",
    "task": "task.name",
    "hardware": "hardware.name",
    "temperature": "temperature.schedule",
    "rollout.temperature": "rollout.temperature",
    "rollout.n": "rollout.n",
    "kl.coef": "kl.coef",
    "trainer.total_training_steps": "trainer.total_training_steps",
}
COORDINATES = re.compile(r'\s(?:d|x|y)="[^"]*"')
TOO_FINE = re.compile(r"(?<=\.\d\d)\d+")  # of a figure's coordinates: a hundredth of a point is seen by nobody
SWIPE = "<p class='swipe' aria-hidden='true'>Swipe sideways to see all of it \u2192</p>"  # on a phone
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #555; --line: #d5d5d5; --back: #fff; --box: #f6f6f4;
  --good: #00664b; --bad: #a33b00; --open: #555; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9e9e6; --soft: #b3b3ae; --line: #44443f; --back: #181817;
  --box: #232321; --good: #5fd0ab; --bad: #ff9d6b; --open: #b3b3ae; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--back); }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
a { color: inherit; } :focus-visible { outline: 3px solid #56b4e9; outline-offset: 2px; }
.skip { position: absolute; left: -99rem; } .skip:focus { position: static; }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; list-style: none; }
.swipe { display: none; color: var(--soft); font-size: .85rem; margin: .2rem 0; }
@media (max-width: 40rem) { .swipe { display: block; } .scroll { border-right: 3px dashed #56b4e9; } }
figure { margin: 1rem 0; } figure svg { display: block; width: 100%; min-width: 34rem; height: auto; }
.paper { background: #fff; border-radius: .4rem; } .scroll { overflow-x: auto; }
figcaption, .note { color: var(--soft); font-size: .9rem; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th[scope=row] { min-width: 7rem; }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.supported { color: var(--good); font-weight: 600; } .contradicted { color: var(--bad); font-weight: 600; }
.undecided { color: var(--open); }
pre { background: var(--box); padding: .7rem; border-radius: .4rem; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: .85rem; margin: .3rem 0 1rem; } summary { cursor: pointer; padding: .3rem 0; }
"""


def page(study: Study, command: str, steps: Sequence[int] | None = None) -> str:
    """Return the page; the same study gives the same text. `steps`: of which steps it shows sample texts.

    Raises UserError if no run kept the texts of one of these steps.
    """
    check_steps(study, steps or ())
    parts = [
        f"<section id='{finding.ablation.name}'>{section(finding, drawn, steps)}</section>"
        for finding, drawn in zip(study.findings, render_study(study, ("svg",), captions=False), strict=True)
    ]
    links = "".join(
        f"<li><a href='#{finding.ablation.name}'>{escape(finding.ablation.title)}</a></li>"
        for finding in study.findings
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>R1-Zero ablations</title><style>{STYLE}</style></head><body>"
        "<a class='skip' href='#main'>Skip to the results</a>"
        f"<header><h1>R1-Zero ablations</h1>{glance(study)}<nav aria-label='Contents'><ul>{links}"
        "<li><a href='#left-out'>Left out</a></li><li><a href='#reproduce'>Reproduce</a></li></ul></nav></header>"
        f"<main id='main'>{''.join(parts)}{left_out(study)}{reproduce(study, command)}</main></body></html>\n"
    )


def glance(study: Study) -> str:
    """Return the study in a few lines: runs by state, steps, verdicts."""
    states = Counter(record.state for record in study.records)
    runs = ", ".join(f"{count} {state}" for state, count in states.most_common())
    trained = sum(record.history.last_step() for record in study.records)
    verdicts = Counter(verdict.verdict for finding in study.findings for verdict in finding.verdicts)
    lines = [f"{len(study.records)} runs ({runs}), {trained:,} training steps."]
    if verdicts:
        lines.append("Claims: " + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()) + ".")
        lines.append(family_text(study.tested()))
    return "".join(f"<p>{escape(line)}</p>" for line in lines if line)


def section(finding: Finding, drawn: Sequence[Drawn], steps: Sequence[int] | None) -> str:
    """Return the part of the page on one ablation."""
    ablation, curves, summary = finding.ablation, finding.curves, finding.summary
    main, *others = drawn
    head, *rows = summary.rows()
    parts = [
        f"<h2>{escape(ablation.title)}</h2><p class='note'>{escape(ablation.settings())}</p>",
        figure(main, f"{ablation.name}-0", finding.notes),
    ]
    if finding.verdicts:
        parts.append(table("Claims", CLAIM_COLUMNS, claim_rows(finding.verdicts)))
    parts.append(table(f"Numbers: {summary.note()}", head, rows))
    if finding.fits.is_asked:
        head, *rows = finding.fits.rows()
        parts.append(table(f"Where it would end: {FITTED}", head, rows))
    for number, other in enumerate(others, 1):
        parts.append(f"<h3>{escape(other.title)}</h3>{figure(other, f'{ablation.name}-{number}', [])}")
        behind = table(f"{other.title}: numbers", *numbers_of(other))
        parts.append(f"<details><summary>Its numbers</summary>{behind}</details>")
    parts.append(samples(ablation, steps))
    runs = table("Runs", RUN_COLUMNS, run_rows(ablation, curves))
    parts.append(f"<details><summary>The {len(ablation.runs)} runs</summary>{runs}</details>")
    return "".join(parts)


def numbers_of(drawn: Drawn) -> tuple[list[str], list[list[str]]]:
    """Return (headers, rows) of what a figure shows, at most ROWS_AN_ARM an arm, to three digits."""
    head, *rows = csv.reader(drawn.numbers.splitlines())
    arms: dict[str, list[list[str]]] = {}
    for row in rows:
        arms.setdefault(row[0], []).append([row[0], *map(three_digits, row[1:])])
    few = []
    for own in arms.values():
        last = len(own) - 1
        few += [own[place] for place in sorted({round(i * last / (ROWS_AN_ARM - 1)) for i in range(ROWS_AN_ARM)})]
    return head, few


def three_digits(text: str) -> str:
    """Return a number with three digits behind the point at most; other texts as they are."""
    try:
        return text if text.isdecimal() else f"{float(text):.3f}".rstrip("0").rstrip(".")
    except ValueError:
        return text


def figure(drawn: Drawn, prefix: str, notes: Sequence[str]) -> str:
    """Return a figure with its caption; ids are made unique on the page."""
    text = drawn.files["svg"].decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = COORDINATES.sub(lambda found: TOO_FINE.sub("", found[0]), text)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = text.replace("<svg", "<svg aria-hidden='true' focusable='false'", 1)
    caption = "".join(f"<li>{escape(note)}</li>" for note in notes)
    caption = f"<figcaption><ul>{caption}</ul></figcaption>" if notes else ""
    label = escape(f"{drawn.title}; its numbers are in the tables below", quote=True)
    box = f"<div class='scroll paper' tabindex='0' role='img' aria-label='{label}'>{text}</div>"
    return f"<figure>{SWIPE}{box}{caption}</figure>"


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table that scrolls sideways on a narrow screen; verdicts are words, and coloured besides."""
    head = "".join(f"<th scope='col'>{escape(column)}</th>" for column in columns)
    body = []
    for row in rows:
        cells = [f"<th scope='row'>{escape(row[0])}</th>"]
        for cell in row[1:]:
            mark = f" class='{cell}'" if cell in ("supported", "contradicted", "undecided") else ""
            cells.append(f"<td{mark}>{escape(cell)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    label = escape(caption, quote=True)
    return (
        f"{SWIPE if len(columns) > 3 else ''}<div class='scroll' tabindex='0' role='region' aria-label='{label}'>"
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def sampled(arm: Arm) -> tuple[RunRecord, Rollouts]:
    """Return (the arm's first run that kept its sampled texts, these texts); its first run if no run kept any."""
    found = [(run, find_rollouts(run)) for run in arm.runs]
    return next(((run, rollouts) for run, rollouts in found if rollouts.files), found[0])


def check_steps(study: Study, steps: Sequence[int]) -> None:
    """Raise UserError if no run kept texts of one of the steps."""
    arms = [arm for finding in study.findings for arm in finding.ablation.arms]
    known = sorted({step for arm in arms for step in sampled(arm)[1].files}) if steps else []
    if missing := [str(step) for step in steps if step not in known]:
        there = f"they are of steps {known[0]} to {known[-1]}" if known else "no run kept any"
        raise UserError(f"--steps must name steps whose texts were kept, but {', '.join(missing)} is none; {there}")


def samples(ablation: Ablation, steps: Sequence[int] | None) -> str:
    """Return a few sampled texts of one run of each arm, at `steps` or else at its first, middle and last step."""
    parts = []
    for arm in ablation.arms:
        run, rollouts = sampled(arm)
        known = list(rollouts.files)
        if not known:
            continue
        wanted = steps or sorted({known[0], known[len(known) // 2], known[-1]})
        texts = []
        for step in [step for step in wanted if step in rollouts.files]:
            for row in rollouts.read(step, most=SAMPLES_A_STEP):
                text = str(row.get("input", "")) + row["output"]
                text = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} [...]"
                asked = json.dumps(row.get("gts"), ensure_ascii=False)
                texts.append(
                    f"<p class='note'>step {step}, score {escape(str(row.get('score')))}, asked {escape(asked)}</p>"
                )
                texts.append(f"<pre>{escape(text)}</pre>")
        title = escape(f"{arm.name}, seed {run.seed}")
        parts.append(f"<details><summary>{title}</summary>{''.join(texts)}</details>")
    return f"<h3>What the model wrote</h3>{''.join(parts)}" if parts else ""


def left_out(study: Study) -> str:
    """Return which runs are left out and why, and what could not be read."""
    reasons: dict[str, str] = {}
    for finding in study.findings:
        drawn = {run.name for run in finding.ablation.runs}
        reasons |= {run.name: reason for run, reason in finding.ablation.why_left_out() if run.name in drawn}
    rows = [[name, reason] for name, reason in reasons.items()]
    rows += [[name, f"in no figure: {reason}"] for reason, names in study.unseen.items() for name in names]
    rows += [["", warning] for warning in study.warnings]
    body = table("Left out, and damage", ("run", "what and why"), rows) if rows else "<p>Nothing: all is shown.</p>"
    return f"<section id='left-out'><h2>Left out</h2>{body}</section>"


def reproduce(study: Study, command: str) -> str:
    """Return the commands that make the page and its runs again, and the versions of code and packages."""
    rows = []
    for record in study.records:
        about = versions(record)
        packages = ", ".join(f"{name} {version}" for name, version in (about.get("versions") or {}).items())
        changed = " with local changes" if about.get("diff") else ""
        rows.append([record.name, f"{str(about.get('commit') or '-')[:12]}{changed}", packages or "-"])
    code = table("Code and packages", ("run", "commit", "packages"), rows)
    commands = run_commands([record for record in study.records if record.folder], study.varied())
    runs = (
        "<p>The runs. A run that is done is not repeated. All its settings are in config.yaml of its folder.</p>"
        f"<pre>{escape(chr(10).join(commands))}</pre>"
        if commands
        else "<p>The runs were not read from folders of this project. Their configs are where they were read from.</p>"
    )
    return (
        f"<section id='reproduce'><h2>Reproduce</h2><p>This page:</p><pre>{escape(command)}</pre>{runs}"
        f"<details><summary>Versions</summary>{code}</details></section>"
    )


def run_commands(records: Sequence[RunRecord], varied: Sequence[str]) -> list[str]:
    """Return commands that make the runs again: those that were typed, as far as they were recorded.

    For the other runs, commands that set their knobs and all that is `varied`: one command for all seeds of an arm.
    """
    typed = dict.fromkeys(launch.arguments for record in records for launch in record.launches if launch.arguments)
    commands = [shlex.join(["python", "-m", "experiments.run", *arguments]) for arguments in typed]
    seeds: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        if any(launch.arguments for launch in record.launches):
            continue
        known = [(option, record.config.get(key)) for option, key in ASKED.items()]
        if record.config.get(ALGORITHM) not in ALGORITHMS:  # an estimator that has no file in conf/algorithm/
            known[0] = (ESTIMATOR, record.config.get(ESTIMATOR))
        known += [(key, record.config.get(key)) for key in varied if key not in ASKED.values()]
        named = [tag for tag in record.tags if tag.startswith("experiment=")]
        options = tuple(f"{option}={value}" for option, value in known if value is not None)
        options = (*named, *options)
        own = seeds.setdefault(options, [])
        own += [seed for seed in [str(record.seed)] if seed not in own]
    return commands + [
        shlex.join(
            ["python", "-m", "experiments.run", *(["-m"] if len(own) > 1 else []), *options, f"seed={','.join(own)}"]
        )
        for options, own in seeds.items()
    ]


def versions(record: RunRecord) -> dict[str, Any]:
    """Return what a run's folder says of the code that ran, {} if the run was not read from a folder."""
    try:
        content = json.loads((record.folder / "code.json").read_text()) if record.folder else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
