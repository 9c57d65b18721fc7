"""A stand-in for a W&B server on the loopback: the part of its GraphQL that the real client's reading side speaks.

It answers `wandb.Api` of wandb 0.31 (and what is built on it) with runs that the test made up: listing with filters and
pages, live history, faults on demand, latency. It knows one key. Of a run that logs to it, it keeps the rows.
"""

from __future__ import annotations

import base64
import http.server
import io
import json
import math
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

KEY = "k" * 40
ENTITY, PROJECT = "lab", "abl"
OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")


@dataclass
class ServedRun:
    """A run as the server knows it."""

    id: str
    rows: list[tuple[int, Mapping[str, Any]]]
    config: Mapping[str, Any] = field(default_factory=dict)
    state: str = "finished"
    name: str = ""
    tags: tuple[str, ...] = ()
    group: str = ""
    created: float = 1.7e9
    hidden: int = 0
    """So many of the last rows are listed but not sent."""
    withheld: tuple[int, int] = (0, 0)
    """The steps from the first to before the second are counted in the listing, but never sent."""
    exported: int = 0
    """So many of the first rows are sent as parquet files alone."""
    texts: list[tuple[int, str]] = field(default_factory=list, repr=False)

    def history(self, first: int, stop: int) -> list[str]:
        """Return the rows of the steps, as the JSON texts that the server sends; made once, before any measurement."""
        if len(self.texts) != len(self.rows):
            self.texts = [(step, dumps({**row, "_step": step})) for step, row in self.rows]
        sent = self.texts[self.exported : len(self.texts) - self.hidden]
        return [t for step, t in sent if first <= step < stop and not self.withheld[0] <= step < self.withheld[1]]

    def export(self) -> bytes:
        """Return the exported rows as a parquet file."""
        rows = [{**row, "_step": step} for step, row in self.rows[: self.exported]]
        names = list(dict.fromkeys(key for row in rows for key in row))
        file = io.BytesIO()
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), file)
        return file.getvalue()

    @property
    def last_step(self) -> int:
        return max((step for step, _ in self.rows), default=-1)

    def node(self, full: bool) -> dict[str, Any]:
        node: dict[str, Any] = {
            "id": base64.b64encode(f"Run:v1:{self.id}:{PROJECT}:{ENTITY}".encode()).decode(),
            "name": self.id,
            "displayName": self.name or self.id,
            "state": self.state,
            "tags": list(self.tags),
            "group": self.group or None,
            "jobType": None,
            "commit": None,
            "sweepName": None,
            "readOnly": False,
            "createdAt": iso(self.created),
            "heartbeatAt": iso(self.created + 10 * len(self.rows)),
            "description": None,
            "notes": None,
            "historyLineCount": len(self.rows),
            "user": {"name": "lab", "username": "lab"},
            "projectId": "1",
        }
        if full:
            values = {key: {"value": value, "desc": None} for key, value in self.config.items()}
            node |= {"config": dumps(values), "summaryMetrics": "{}", "systemMetrics": "{}"}
            node["historyKeys"] = {"sets": [], "keys": {}, "lastStep": self.last_step}
        return node


HANG_UP, DRIP, NONSENSE, TORN = 0, -1, -2, -3


@dataclass
class Fault:
    """Answer `times` requests of the operations that match with a status instead of data.

    Or HANG_UP, send a byte now and then for ever (DRIP), no HTTP at all (NONSENSE), or a TORN body; or with `body`.
    """

    operation: str
    status: int
    times: int = 1
    delay: float = 0.0
    body: str | None = None


class WandbServer:
    """`with WandbServer(runs) as server:` serves them at `server.url` until the block ends."""

    def __init__(self, runs: list[ServedRun], latency: float = 0.0, faults: list[Fault] | None = None) -> None:
        self.runs, self.latency, self.faults = runs, latency, faults or []
        self.limit: tuple[int, float] | None = None
        """(requests, seconds): so many in each span of time; then 429, and in a header how long to wait."""
        self.window: tuple[float, int] = (0.0, 0)
        self.storage: str = ""
        """Where the exports are, if not here: this server by another name."""
        self.broken: bytes = b""
        """What is sent instead of an export."""
        self.lock = threading.Lock()
        self.operations: list[str] = []
        self.variables: list[tuple[str, dict[str, Any]]] = []
        self.streamed: list[str] = []
        """The rows that a client has logged, as it sends them."""
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                """Send the export of a run: as the server with its key, or as a storage elsewhere, which takes none."""
                found = owner.find(self.path.rpartition("/")[2].removesuffix(".parquet"))
                owner.operations.append("export")
                own = owner.storage in ("", owner.url)
                status = 404 if found is None else 200 if own is ("Authorization" in self.headers) else 403
                time.sleep(owner.latency)
                content = b"" if found is None or status != 200 else owner.broken or found.export()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                if self.path.endswith("/file_stream"):
                    files = request.get("files") or {}
                    owner.streamed += files.get("wandb-history.jsonl", {}).get("content", [])
                    status, answer = 200, "{}"
                elif wait := owner.over_limit():
                    self.send_response(429)
                    self.send_header("RateLimit-Reset", f"{wait:.3f}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                else:
                    status, answer = owner.answer(request, self.headers.get("Authorization"))
                content = answer.encode()
                if status <= 0:
                    self.close_connection = True
                    if status == NONSENSE:
                        self.wfile.write(b"nonsense\r\n\r\n")
                    if status in (HANG_UP, NONSENSE):
                        return
                self.send_response(200 if status < 0 else status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content) + (10**6 if status < 0 else 0)))
                self.end_headers()
                self.wfile.write(content)
                while status == DRIP:
                    self.wfile.write(b" ")
                    time.sleep(0.05)

            def log_message(self, *_: Any) -> None: ...

        class Listener(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: Any) -> None: ...  # a client that gave up waiting

        self.listener = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.listener.server_port}"
        self.thread = threading.Thread(target=self.listener.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> WandbServer:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown()
        self.listener.server_close()

    def over_limit(self) -> float:
        """Return how many seconds a request has to wait, 0.0 if it is within the limit."""
        with self.lock:
            if self.limit is None:
                return 0.0
            began, count = self.window
            now = time.monotonic()
            if now >= began + self.limit[1]:
                began, count = now, 0
            self.window = (began, count + 1)
            return began + self.limit[1] - now if count >= self.limit[0] else 0.0

    def answer(self, request: dict[str, Any], authorization: str | None) -> tuple[int, str]:
        """Return (HTTP status, body) of a GraphQL request."""
        query, variables = request["query"], request.get("variables") or {}
        found = OPERATION.search(query)
        operation = found[1] if found else ("Viewer" if "viewer" in query else "ServerInfo")
        self.operations.append(operation)
        self.variables.append((operation, variables))
        for fault in self.faults:
            if re.search(fault.operation, operation) and fault.times > 0:
                fault.times -= 1
                time.sleep(fault.delay)
                return fault.status, fault.body or dumps({"errors": [{"message": f"injected {fault.status}"}]})
        time.sleep(self.latency)
        if authorization != "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode():
            return 401, dumps({"errors": [{"message": "relogin required"}]})
        data = self.data(operation, query, variables)
        return (400, dumps({"errors": [{"message": f"{operation} is not served"}]})) if data is None else (200, data)

    def data(self, operation: str, query: str, variables: dict[str, Any]) -> str | None:
        if "viewer" in query:
            teams = {"edges": [{"node": {"name": ENTITY}}]}
            viewer = {"id": "VXNlcjox", "entity": ENTITY, "username": "lab", "name": "lab", "email": "a@b.c"}
            return dumps({"data": {"viewer": {**viewer, "admin": False, "flags": "{}", "teams": teams, "apiKeys": {}}}})
        if "serverInfo" in query:
            return dumps({"data": {"serverInfo": {"features": [], "latestLocalVersionInfo": None}}})
        if operation == "UpsertBucket":
            project = {"id": "1", "name": PROJECT, "entity": {"id": "1", "name": ENTITY}}
            bucket = {"id": "UnVu", "name": variables["name"], "displayName": variables["name"], "sweepName": None}
            bucket |= {"historyLineCount": 0, "project": project}
            return dumps({"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}})
        if operation == "CreateRunFiles":  # its console and metadata: not taken
            return dumps({"data": {"createRunFiles": {"runID": "UnVu", "uploadHeaders": [], "files": []}}})
        if variables.get("project") != PROJECT:
            return dumps({"data": {"project": None}})
        if operation == "Runs":
            return dumps({"data": {"project": self.listing(variables, "summaryMetrics" in query)}})
        run = self.find(variables.get("name") or variables.get("run") or variables.get("runName"))
        if run is None:
            return dumps({"data": {"project": {"run": None}}})
        if operation == "HistoryPage":
            rows = run.history(variables["minStep"], variables["maxStep"])[: variables["pageSize"]]
            return '{"data": {"project": {"run": {"history": [' + ", ".join(map(json.dumps, rows)) + "]}}}}"
        if operation == "RunParquetHistory":
            urls = [f"{self.storage or self.url}/exports/{run.id}.parquet"] if run.exported else []
            rest = run.rows[run.exported : run.exported + 1]
            live = {"parquetUrls": urls, "liveData": [{"_step": step} for step, _ in rest]}
            return dumps({"data": {"project": {"run": {"parquetHistory": live}}}})
        if operation in ("SampledHistoryPage", "RunSampledHistory"):
            return dumps({"data": {"project": {"run": {"sampledHistory": sampled(run, variables)}}}})
        if operation == "RunHistoryKeys":
            return dumps({"data": {"project": {"run": {"historyKeys": run.node(True)["historyKeys"]}}}})
        return dumps({"data": {"project": {"run": run.node(True)}}}) if operation == "Run" else None

    def find(self, name: str | None) -> ServedRun | None:
        return next((run for run in self.runs if run.id == name), None)

    def listing(self, variables: dict[str, Any], full: bool) -> dict[str, Any]:
        hits = [run for run in self.runs if matches(run, json.loads(variables.get("filters") or "{}"))]
        start, size = int(variables.get("cursor") or -1) + 1, variables.get("perPage") or 50
        edges = [{"node": run.node(full), "cursor": str(start + i)} for i, run in enumerate(hits[start : start + size])]
        info = {"endCursor": edges[-1]["cursor"] if edges else None, "hasNextPage": start + size < len(hits)}
        runs = {"edges": edges, "pageInfo": info}
        return {"internalId": "1", "runCount": len(hits), "readOnly": False, "runs": runs}


def matches(run: ServedRun, conditions: Mapping[str, Any]) -> bool:
    """Return whether a run satisfies Mongo-like conditions on state, tags, group, display name and config."""
    for key, wanted in conditions.items():
        if key in ("$and", "$or"):
            verdicts = [matches(run, condition) for condition in wanted]
            if not (all(verdicts) if key == "$and" else any(verdicts)):
                return False
            continue
        if key.startswith("config."):
            value = run.config.get(key.removeprefix("config.").removesuffix(".value"))
        else:
            value = {"state": run.state, "tags": run.tags, "group": run.group, "displayName": run.name}.get(key)
        values = value if isinstance(value, tuple) else (value,)
        operators = wanted if isinstance(wanted, dict) else {"$eq": wanted}
        for operator, operand in operators.items():
            found = any(item in operand for item in values) if operator in ("$in", "$nin") else operand in values
            if found is (operator in ("$ne", "$nin")):
                return False
    return True


def sampled(run: ServedRun, variables: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Return, for each requested set of keys, the rows that hold all of them."""
    specs = [json.loads(spec) for spec in variables.get("specs") or [variables["spec"]]]
    rows = [{**row, "_step": step} for step, row in run.rows]
    return [
        [{key: row[key] for key in s["keys"]} for row in rows if all(key in row for key in s["keys"])] for s in specs
    ]


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def dumps(value: Any) -> str:
    """Return JSON as W&B writes it: NaN and infinities as strings."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return json.dumps(plain(value))
