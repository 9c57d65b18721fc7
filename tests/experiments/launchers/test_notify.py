"""launchers/notify.py: somebody is told once, by a command or a URL whose secret no file and no message has."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.launchers.notify import check_notify, ended, failed, for_jobs, send, tell_from_job
from experiments.store.rundir import RunDir

SECRET = "5ec4e7"


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that gets a line for each message sent to notify=TELL_ME."""
    file = tmp_path / "told"
    monkeypatch.setenv("TELL_ME", f'cat >> {file}; echo >> {file}; test -n "$R1Z_MESSAGE"')
    return file


def make(folder: Path, name: str, *events: str) -> RunDir:
    run = RunDir(folder / "runs" / name)
    run.create("seed: 1\n", {})
    for event in events:
        run.record(event, **({"cause": "no memory"} if event == "failed" else {"step": 2}))
    return run


def test_a_command_gets_the_message(told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(tmp_path, "a-1", "finished"), make(tmp_path, "b-2", "finished"), make(tmp_path, "c-3", "failed")]
    check_notify("TELL_ME")
    send("TELL_ME", failed(runs[2]))
    send("TELL_ME", ended(runs))
    assert told.read_text().splitlines() == [
        "c-3 failed: no memory; the other runs go on",
        f"3 runs ended: 2 finished, 1 failed; in {tmp_path / 'runs'}",
    ]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("target", [f"echo {SECRET}; exit 3", f"nowhere://{SECRET}"])
def test_what_can_t_be_sent_is_said_without_the_secret(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], target: str
) -> None:
    monkeypatch.setenv("TELL_ME", target)
    send("TELL_ME", "done")
    printed, errors = capfd.readouterr()
    assert "notify: the message could not be sent" in errors and SECRET not in printed + errors


@pytest.mark.parametrize(
    ("notify", "expected"),
    [
        (f"https://{SECRET}@host/", "but is a URL, which would stay in your shell's history; do: export NOTIFY_URL="),
        (3, "or a command, but is neither"),
        ("NO_SUCH_VARIABLE", "but there is no NO_SUCH_VARIABLE; do: export NO_SUCH_VARIABLE="),
    ],
)
def test_who_can_t_be_told_is_refused_at_once(notify: object, expected: str) -> None:
    with pytest.raises(UserError) as refused:
        check_notify(notify)
    assert expected in str(refused.value) and SECRET not in str(refused.value)


def test_of_jobs_one_tells_the_failure_and_one_the_end(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, last = (make(tmp_path, f"{name}-{name}", "submitted") for name in "abc")
    for name, value in for_jobs("TELL_ME", [first, second, last]).items():
        monkeypatch.setenv(name, value)
    first.record("failed", cause="no memory")
    tell_from_job(first)
    second.record("failed", cause="no disk")
    tell_from_job(second)
    last.record("finished", step=2)
    tell_from_job(last)
    tell_from_job(second)
    assert told.read_text().splitlines() == [
        "a-a failed: no memory; the other runs go on",
        f"3 runs ended: 2 failed, 1 finished; in {tmp_path / 'runs'}",
    ]
    assert for_jobs(None, [first]) == {}
