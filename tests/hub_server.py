"""A stand-in for the Hugging Face hub on the loopback: it answers what the real client asks to fetch a whole model."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class Hub:
    """The hub's models by name, each with the commit of its main branch."""

    url: str = ""
    models: dict[str, tuple[str, Path]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the headers and the body for a GET."""
        self.asked.append(path)
        for name, (commit, folder) in self.models.items():
            if name in self.gated and name in path:
                return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to {name} is restricted."}, b""
            files = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
            if path == f"/api/models/{name}/revision/main":
                siblings = [{"rfilename": file} for file in files]
                return 200, {}, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode()
            if path == f"/api/models/{name}/tree/{commit}":
                rows = [
                    {"type": "file", "path": file, "size": len(content), "oid": _oid(content)}
                    for file, content in files.items()
                ]
                return 200, {}, json.dumps(rows).encode()
            file = path.removeprefix(f"/{name}/resolve/{commit}/")
            if file in files:
                return 200, {"ETag": f'"{_oid(files[file])}"', "X-Repo-Commit": commit}, files[file]
        return 404, {"X-Error-Code": "RepoNotFound"}, b""


def _oid(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve a hub inside the `with` block. Its `url` is the value for HF_ENDPOINT."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = hub.answer(urlsplit(self.path).path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
