"""Reading `.wandb` files: against the official reader, cut off anywhere, damaged anywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.sources.wandb_log import NotALogError, read_log
from tests.analysis import wandb_format as form
from tests.analysis.wandb_server import KEY, WandbServer

REAL_RUN = """
import sys, wandb
run = wandb.init(project="lab", dir=sys.argv[1], id="abcd1234", name="the name", group="the group", tags=["a", "b"],
                 config={"seed": 1, "actor": {"optim": {"lr": 1e-4}}, "list": [1, 2], "none": None}, mode="offline",
                 settings=wandb.Settings(console="off", x_disable_stats=True))
for step in range(40):
    run.log({"loss": 1 / (step + 1), "count": step, "nan": float("nan"), "inf": float("inf"), "flag": step > 3,
             "text": "word", "deep": {"er": step * 1.5}, "käse/μ": -1e-9, "long" * 40: 7.0, "k" * 126: 1.25,
             **({"val": 0.5} if step % 10 == 0 else {})}, step=step)
run.config.update({"late": "x" * 40000})
run.finish()
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a run that the real client logged offline."""
    folder = tmp_path_factory.mktemp("wandb")
    environment = {**os.environ, "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    subprocess.run([sys.executable, "-c", REAL_RUN, str(folder)], check=True, env=environment, capture_output=True)
    (path,) = folder.glob("wandb/offline-run-*/run-abcd1234.wandb")
    return path


def official(path: Path) -> list[dict[str, Any]]:
    """Return the records that W&B's own reader prints."""
    package = importlib.util.find_spec("wandb")
    assert package is not None and package.origin is not None
    binary = Path(package.origin).parent / "bin" / "wandb-core"
    command = [binary, "leet", "inspect", "--no-observability", "--json", "--run-file", path, path.parent]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def numbers(row: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) or value in ("NaN", "Infinity"):
            found[f"{prefix}{key}"] = float(value)
    return found


def test_what_the_real_client_wrote_reads_as_the_official_reader_reads_it(real: Path) -> None:
    log, records = read_log(real), official(real)
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert len(log.rows) == len(rows) == 40
    for (step, row), theirs in zip(log.rows, rows, strict=True):
        assert step == theirs["_step"]
        assert repr(dict(sorted(row.items()))) == repr(dict(sorted(numbers(theirs).items())))  # repr: NaN is NaN
    assert log.rows[4][1]["deep.er"] == 6.0 and log.rows[4][1]["flag"] == 1.0 and "text" not in log.rows[4][1]
    assert (log.run_id, log.name, log.group, log.tags) == ("abcd1234", "the name", "the group", ["a", "b"])
    config = {key: value for key, value in log.config.items() if key != "_wandb"}
    assert config == {"seed": 1, "actor": {"optim": {"lr": 1e-4}}, "list": [1, 2], "none": None, "late": "x" * 40000}
    assert (log.exit_code, log.records, log.damage()) == (0, len(records), "")
    assert log.start > 1.7e9


ONLINE_RUN = """
import sys, wandb
settings = wandb.Settings(console="off", x_disable_stats=True, init_timeout=60)
run = wandb.init(project="abl", entity="lab", dir=sys.argv[1], id="abcd1234", config={"seed": 1}, settings=settings)
for step in range(40):
    run.log({"loss": 1 / (step + 1), "nan": float("nan"), **({"val": 0.5} if step % 10 == 0 else {})}, step=step)
run.finish()
"""


def test_the_file_of_an_online_run_holds_the_rows_that_the_server_got(tmp_path: Path) -> None:
    with WandbServer([]) as server:
        quiet = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", "WANDB_MODE": "online"}
        environment = {**os.environ, **quiet, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        command = [sys.executable, "-c", ONLINE_RUN, str(tmp_path)]
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=120)
    (path,) = tmp_path.glob("wandb/run-*/run-abcd1234.wandb")
    log = read_log(path)
    assert len(log.rows) == 40 and (log.exit_code, log.damage()) == (0, "")
    sent = [numbers(json.loads(row)) for row in server.streamed]
    assert repr([dict(sorted(row.items())) for _, row in log.rows]) == repr([dict(sorted(row.items())) for row in sent])
    assert (log.run_id, log.project, log.config["seed"]) == ("abcd1234", "abl", 1)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1))
def test_a_file_cut_anywhere_yields_its_whole_records(real: Path, share: float) -> None:
    data = real.read_bytes()
    whole = read_log(real)
    cut = real.with_name("cut.wandb")
    cut.write_bytes(data[: int(share * len(data))])
    log = read_log(cut)
    assert repr(log.rows) == repr(whole.rows[: len(log.rows)])  # repr: NaN is NaN
    assert log.records <= whole.records and log.lost_records == 0 and log.skipped_bytes == 0
    assert log.records == whole.records or log.exit_code is None
    assert log.cut_off == (log.damage() != "")


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flips=st.integers(1, 255), length=st.integers(1, 5000))
def test_a_file_damaged_anywhere_yields_sound_records_and_tells_the_loss(
    real: Path, place: float, flips: int, length: int
) -> None:
    data = bytearray(real.read_bytes())
    whole = read_log(real)
    first = 7 + int(place * (len(data) - 7))
    for position in range(first, min(first + length, len(data))):
        data[position] ^= flips
    damaged = real.with_name("damaged.wandb")
    damaged.write_bytes(data)
    log = read_log(damaged)
    sound = {step: repr(row) for step, row in whole.rows}
    assert all(repr(row) == sound[step] for step, row in log.rows), "what is read is what was written"
    assert log.damage() and log.records < whole.records
    if not log.cut_off and log.exit_code is not None:
        assert log.lost_records == whole.records - log.records
    lost = re.search(r"damaged, (at least )?(\d+) record", log.damage())
    if lost and not log.cut_off:
        missing = whole.records - log.records
        assert 0 < int(lost[2]) <= missing and (lost[1] or int(lost[2]) == missing), "no loss is told as none"


rows_of_numbers = st.lists(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=200),
        st.floats() | st.integers(-(2**70), 2**70) | st.booleans() | st.text(max_size=200) | st.none(),
        max_size=8,
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(rows=rows_of_numbers, nested=st.booleans(), step=st.integers(0, 1 << 31))
def test_any_keys_and_values_are_read(
    tmp_path_factory: Any, rows: list[dict[str, Any]], nested: bool, step: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.wandb"
    path.write_bytes(form.framed(form.history_record(step + place, row, nested) for place, row in enumerate(rows)))
    log = read_log(path)
    expected = []
    for place, row in enumerate(rows):
        texts = ("NaN", "Infinity", "-Infinity")
        kept = {k: float(v) for k, v in row.items() if isinstance(v, bool | int | float) or v in texts}
        expected.append((step + place, {**kept, "_step": float(step + place)}))
    assert repr([(at, sorted(row.items())) for at, row in log.rows]) == repr(
        [(at, sorted(row.items())) for at, row in expected]
    )
    assert log.damage() == ""


def test_numbers_that_no_float_holds_are_infinite(tmp_path: Path) -> None:
    path = tmp_path / "x.wandb"
    path.write_bytes(form.framed([form.history_record(1, {"a": 10**400, "b": -(10**400), "c": 1})] * 2))
    assert read_log(path).rows == [(1, {"a": float("inf"), "b": float("-inf"), "c": 1.0, "_step": 1.0})] * 2


def test_no_log_and_just_begun(tmp_path: Path) -> None:
    path = tmp_path / "x.wandb"
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(NotALogError, match=r"x\.wandb must begin as a \.wandb file does"):
        read_log(path)
    for content in (b"", b":W&B"):
        path.write_bytes(content)
        assert read_log(path).cut_off
    path.write_bytes(form.framed([]))
    assert read_log(path).damage() == ""
    path.write_bytes(form.framed([form.exit_record()]) + bytes(5000))
    assert read_log(path).damage() == "the file ends within a record; 1 records are sound"


def test_records_that_are_no_protobuf_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.wandb"
    row = form.history_record(1, {"loss": 0.5})
    path.write_bytes(form.framed([b"\xff\xff\xff", row, b"\x12\xff\x01ab", row]))
    log = read_log(path)
    assert log.rows == [(1, {"loss": 0.5, "_step": 1.0})] * 2
    assert log.skipped_bytes > 0
