"""Runs of a W&B project: `--source wandb://entity/project`.

A run's rows are kept in a cache. The listing of the project tells whether the server has newer rows. The queries are
those of the official client (wandb 0.31, `Runs`, `HistoryPage` and, where rows are missing, that of
`wandb_exports`). The client can also ask for a sample of a run's
rows; this module always asks for all of them.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import unquote, urlsplit

from analysis.records.curves import with_task
from analysis.records.ending import settled
from analysis.records.history import History, Row, join
from analysis.records.record import RunRecord
from analysis.sources.filters import WANDB, select
from analysis.sources.graphql import NoAnswerError, Patience, Server, ServerError, find_server
from analysis.sources.history_cache import HistoryCache, Kept
from analysis.sources.trainers import Trainers, read_trainers
from analysis.sources.verl_config import planned_steps, with_knobs
from analysis.sources.wandb_exports import exported_rows, numbers
from analysis.sources.wandb_files import reached_state, run_name
from experiments.errors import UserError
from experiments.store.selection import Condition
from experiments.values import flatten

RUNS = """query Runs($project: String!, $entity: String!, $cursor: String, $perPage: Int = 50, $order: String,
    $filters: JSONString) {
  project(name: $project, entityName: $entity) {
    runCount(filters: $filters)
    runs(filters: $filters, after: $cursor, first: $perPage, order: $order) {
      edges { node { name displayName state config group tags createdAt heartbeatAt historyLineCount historyKeys
                     summaryMetrics } cursor }
      pageInfo { endCursor hasNextPage }
    }
  }
}"""
HISTORY = """query HistoryPage($entity: String!, $project: String!, $run: String!, $minStep: Int64!, $maxStep: Int64!,
    $pageSize: Int!) {
  project(name: $project, entityName: $entity) {
    run(name: $run) { history(minStep: $minStep, maxStep: $maxStep, samples: $pageSize) }
  }
}"""
RUNS_A_PAGE, ROWS_A_PAGE, THREADS = 200, 1000, 8


@dataclass(frozen=True)
class Listed:
    """A run, as the listing of the project shows it."""

    id: str
    name: str
    state: str
    config: Mapping[str, Any]
    tags: tuple[str, ...]
    group: str
    created: str
    last_step: int
    lines: int
    """The number of rows; W&B's step may rise by more than one from row to row."""
    stamp: str
    """A text that changes when the server gets rows or the run's state changes."""


@dataclass(frozen=True)
class WandbProject:
    """The runs of a project that were asked for. The rows of other runs are not requested."""

    entity: str
    project: str
    filters: Sequence[Condition] = ()
    cache: Path = field(default_factory=lambda: default_cache())
    server: Server | None = None
    trainers: Trainers | None = None
    url: str = ""
    """The address of the server; "" for the one that the environment or `wandb login` names."""
    wanted: Sequence[str] = ()
    """Names, ids, or beginnings of either; all runs if there are none."""

    @classmethod
    def parse(cls, spec: str, filters: Sequence[Condition] = (), wanted: Sequence[str] = ()) -> WandbProject:
        """Return the project that wandb://entity/project or an address pasted from a browser names.

        The address of a run names this run alone. UserError if the text has neither form.
        """
        address = not spec.startswith(WANDB)
        parts = urlsplit(spec if "://" in spec else f"https://{spec}")
        path = parts.path if address else spec.removeprefix(WANDB)
        names = [unquote(name).strip() for name in path.split("/") if name.strip()]
        if len(names) < 2 or (not address and len(names) > 2):
            raise UserError(
                f"--source must be {WANDB}ENTITY/PROJECT, but is {spec}; your entity is your user or team name, "
                "and the address of the project in the browser will do too"
            )
        run = names[3:4] if names[2:3] == ["runs"] else []
        host = parts.netloc if address else ""
        own = "" if host.removeprefix("www.") in ("", "wandb.ai", "api.wandb.ai") else f"{parts.scheme}://{host}"
        return cls(names[0], names[1], filters, wanted=(*wanted, *run), url=own)

    def read(self) -> tuple[list[RunRecord], list[str]]:
        """Return (the runs by name, one warning for each reason why some runs' rows could not be read in full).

        Raises UserError if the server lists no run that was asked for, or sends the rows of none.
        """
        server = self.server or (find_server(self.url) if self.url else find_server())
        with ThreadPoolExecutor(THREADS) as threads:
            answered = Event()
            reading = threads.submit(self._read_ahead, answered)
            try:
                listed = self._asked_for(self._list(server))
            except ServerError as error:
                raise UserError(str(error)) from None
            finally:
                answered.set()
            kept = reading.result()
            kept |= {run.id: self._cache_of(run.id).read() for run in listed if run.id not in kept}
            known: dict[str, list[Row] | None] = {
                run.id: there.rows for run in listed if (there := kept[run.id]) and there.stamp == run.stamp
            }
            stale = [run for run in listed if run.id not in known]
            patience = Patience(THREADS)
            answers = list(threads.map(lambda run: self._update(server, run, kept[run.id], patience), stale))
        known |= {run.id: rows for run, (rows, _) in zip(stale, answers, strict=True)}
        records = [make_record(run, rows, self.trainers) for run in listed if (rows := known[run.id]) is not None]
        problems: dict[str, list[str]] = {}
        for run, (_, problem) in zip(stale, answers, strict=True):
            if problem:
                problems.setdefault(problem, []).append(run.name)
        if not records:
            raise UserError(*(f"no runs found: {len(names)} are listed, but {why}" for why, names in problems.items()))
        warnings = [f"{named(names)}: {problem}" for problem, names in problems.items()]
        return sorted(records, key=lambda record: record.name), warnings

    def _asked_for(self, listed: list[Listed]) -> list[Listed]:
        """Return the listed runs that were asked for. The listing tells all that a filter can be about."""
        kept = {record.name for record in select([make_record(run) for run in listed], self.wanted, self.filters)}
        return [run for run in listed if run.name in kept]

    def _read_ahead(self, answered: Event) -> dict[str, Kept | None]:
        """Return {id: what the cache holds of this run}, for as many runs as can be read until the server answers."""
        importlib.import_module("pyarrow.parquet")  # it takes half a second, and is needed even if nothing is cached
        kept: dict[str, Kept | None] = {}
        for path in (self.cache / self.entity / self.project).glob("*.parquet"):
            if answered.is_set():
                break
            kept[path.stem] = HistoryCache(path).read()
        return kept

    def _list(self, server: Server) -> list[Listed]:
        listed: list[Listed] = []
        cursor = None
        while True:
            variables = {"entity": self.entity, "project": self.project, "order": "+created_at"}
            page = {"filters": json.dumps(self._server_filter()), "perPage": RUNS_A_PAGE, "cursor": cursor}
            answer = server.ask(RUNS, {**variables, **page})
            project: Any = answer.get("project")
            if project is None and "project" in answer:
                raise UserError(
                    f"{self.entity}/{self.project} must be a project on {server.url}, but is none that this key sees; "
                    "look at the address in the browser: .../ENTITY/PROJECT"
                )
            try:
                runs = project["runs"]
                found = [read_listed(edge["node"]) for edge in runs["edges"]]
                more, cursor = runs["pageInfo"]["hasNextPage"], runs["pageInfo"]["endCursor"]
            except (LookupError, TypeError, ValueError, AttributeError):
                raise ServerError(f"{server.url} must list runs as W&B does, but sends something else") from None
            listed += found
            if not more or not found:
                break
        if not listed:
            asked = f" with {json.dumps(self._server_filter())}" if self._server_filter() else ""
            raise UserError(f"no runs found: {self.entity}/{self.project} on {server.url} has none{asked}")
        return listed

    def _server_filter(self) -> dict[str, Any]:
        """Return the filters that the server can apply with the same meaning: on tags and group, without wildcards."""
        plain = [f for f in self.filters if f.key in ("tags", "group") and f.equal and not set(f.text) & set("*?[")]
        return {"$and": [{f.key: {"$in": [f.text]} if f.key == "tags" else f.text} for f in plain]} if plain else {}

    def _cache_of(self, run_id: str) -> HistoryCache:
        return HistoryCache(self.cache / self.entity / self.project / f"{run_id}.parquet")

    def _update(
        self, server: Server, run: Listed, kept: Kept | None, patience: Patience
    ) -> tuple[list[Row] | None, str | None]:
        """Return (the run's rows, None), which are cached; if that fails, (older rows if cached, what went wrong)."""
        older = kept.rows if kept and kept.created == run.created else None
        problem = patience.lost()
        if not problem:
            try:
                rows, sent = self._all(server, run, older)
            except NoAnswerError as error:
                problem = str(error)
                patience.note(problem)
            except ServerError as error:
                problem = str(error)
            else:
                patience.note("")
        if not problem and sent < run.lines and run.state != "running":
            short = f"{server.url} lists {run.lines} rows, but sends {sent}; drawn with these, ask again later"
            return rows, short
        if problem:
            return older, f"{problem}; {'left out' if older is None else 'drawn as last seen'}"
        self._cache_of(run.id).write(rows, run.stamp, run.created)
        return rows, None

    def _pull(self, server: Server, run: Listed, known: list[Row] | None) -> tuple[list[Row], int]:
        """Return (the run's rows, steps ascending, how many rows that are as the server counts them).

        They are the `known` rows before their last step, then the server's.

        Each request is for as many steps as are likely to hold half a page of rows. If a full page comes back, the
        server may have held back some rows. Then the same steps are asked for again, with so few steps to a page that
        all their rows fit.
        """
        first = max((step for step, _ in known or []), default=0)
        # The last known row is asked for again: it may have been incomplete when it was read.
        kept = [row for row in known or [] if row[0] < first]
        pulled: dict[int, dict[str, float]] = {}
        sent = len(kept)
        width = max(ROWS_A_PAGE, math.ceil(ROWS_A_PAGE / 2 * (run.last_step + 1) / max(1, run.lines)))
        while first <= run.last_step:
            stop = min(first + width, run.last_step + 1)
            variables = {"entity": self.entity, "project": self.project, "run": run.id}
            page = {"minStep": first, "maxStep": stop, "pageSize": ROWS_A_PAGE}
            answer = server.ask(HISTORY, {**variables, **page})
            try:
                texts = answer["project"]["run"]["history"] or []
                if len(texts) >= ROWS_A_PAGE and stop - first > ROWS_A_PAGE:
                    width = ROWS_A_PAGE
                    continue
                sent += len(texts)
                for text in texts:
                    row = json.loads(text)
                    pulled.setdefault(int(row["_step"]), {}).update(numbers(row))
            except (LookupError, TypeError, ValueError, AttributeError):
                raise ServerError(f"{server.url} must send rows as W&B does, but sends something else") from None
            first = stop
        return [*kept, *sorted(pulled.items())], sent

    def _all(self, server: Server, run: Listed, older: list[Row] | None) -> tuple[list[Row], int]:
        """Return what `_pull` does, also of a run whose rows the server has moved to files, wholly or in part."""
        rows, sent = self._pull(server, run, older)
        if sent < run.lines and older is not None:  # what was kept may be short of rows
            rows, sent = self._pull(server, run, None)
        if sent < run.lines and (exported := exported_rows(server, self.entity, self.project, run.id)):
            joined: dict[int, dict[str, float]] = {}
            for step, row in [*exported, *rows]:
                joined.setdefault(step, {}).update(row)
            rows, sent = sorted(joined.items()), max(sent, len(joined))
        last = max((step for step, _ in rows), default=-1)
        if last < run.last_step:
            told = "none" if last < 0 else last
            raise ServerError(f"{server.url} must send rows to step {run.last_step}, but the last one is {told}")
        return rows, sent


def named(names: Sequence[str], most: int = 3) -> str:
    """Return e.g. "a, b, c and 9 more runs"."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more run{'s' if more > 1 else ''}" if more > 0 else "")


def read_listed(node: Mapping[str, Any]) -> Listed:
    """Return a run of the listing. W&B wraps each value of a config as {"value": ..., "desc": ...}."""
    config = {
        key: item["value"] if isinstance(item, dict) and "value" in item else item
        for key, item in json.loads(node.get("config") or "{}").items()
        if key[0] != "_"
    }
    last_step = int((node.get("historyKeys") or {}).get("lastStep", -1))
    lines = int(node.get("historyLineCount") or 0)
    stamp = [last_step, node.get("heartbeatAt"), node.get("state"), node.get("historyLineCount")]
    return Listed(
        id=node["name"],
        name=run_name(node.get("displayName") or "", node["name"]),
        state=str(node.get("state")),
        config=config,
        tags=tuple(node.get("tags") or ()),
        group=node.get("group") or "",
        created=str(node.get("createdAt")),
        last_step=last_step,
        lines=lines,
        stamp=json.dumps(stamp),
    )


def make_record(run: Listed, rows: Sequence[Row] | None = None, trainers: Trainers | None = None) -> RunRecord:
    """Return the record of a listed run with its rows; the server has already joined the rows of its attempts.

    Without rows, the record has an empty history.
    """
    trainers = trainers or read_trainers()
    config = with_knobs(dict(flatten(run.config)), trainers)
    legs = trainers.rows(sorted(rows, key=lambda row: row[0])) if rows is not None else []
    history = join(legs) if rows is not None else History.of({})
    planned = planned_steps(config, trainers)
    state = reached_state(run.state, run.last_step if rows is None else history.reached(), planned)
    record = RunRecord(run.name, config, history, state, max(1, len(legs)), planned, tags=run.tags, group=run.group)
    return with_task(settled(record))


def default_cache() -> Path:
    """Return the folder that keeps the rows pulled: $XDG_CACHE_HOME (or ~/.cache)/r1-zero-ablations/wandb."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "r1-zero-ablations" / "wandb"
