"""Asks a W&B server what the official client would ask it, over plain HTTPS.

The client itself is not used. It takes a second to start, sends three requests a run, and its caller cannot limit how
long it retries. A request here ends within `patience`, even if the server sends a single byte now and then.
"""

from __future__ import annotations

import base64
import configparser
import gzip
import http.client
import json
import netrc
import os
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

from experiments.errors import UserError

T = TypeVar("T")
DEFAULT_URL = "https://api.wandb.ai"
ALIASES = ("api.wandb.ai", "api.forge.coreweave.com")  # one service: `wandb login` stores the key under either name
TRY_AGAIN = (408, 429, 500, 502, 503, 504)
LONGEST_WAIT = 5.0
LONGEST_LIMIT = 600.0  # seconds that one request waits in all because the server limits requests


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, which would send the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class ServerError(Exception):
    """The server did not answer as it should; the text says what the user can do."""


class NoAnswerError(ServerError):
    """The server did not answer at all, or refused the key: other requests would fail too."""


@dataclass(frozen=True)
class Server:
    """A W&B server, and how long to wait for its answers."""

    url: str
    key: str
    timeout: float = 20.0
    """Seconds to wait for the next byte of an answer."""
    patience: float = 90.0
    """Seconds to wait for one answer in all, with all tries and the waits between them."""
    attempts: int = 4
    """How often a request is tried. The wait between tries doubles, or is what the server asks for; at most 5 s."""
    first_wait: float = 0.5

    def __repr__(self) -> str:
        return f"Server({self.url!r})"  # never the key

    def ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `data` of a GraphQL answer; ServerError, within `patience`, if there is none."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip", **self._key_header()}
        request = urllib.request.Request(f"{self.url}/graphql", body, headers)
        return self._answer(request, lambda content: self._data(json.loads(content)))

    def download(self, url: str) -> bytes:
        """Return a file that the server names; ServerError, within `patience`, if it can't be had.

        The key goes to the server alone: where the file lies elsewhere, its address holds a permission of its own.
        """
        if not is_url(url):
            raise ServerError(f"{self.url} must name its files by addresses, but one is {one_line(url)!r}")
        own = urlsplit(url)[:2] == urlsplit(self.url)[:2]
        return self._answer(urllib.request.Request(url, headers=self._key_header() if own else {}), bytes)

    def _key_header(self) -> dict[str, str]:
        return {"Authorization": f"Basic {base64.b64encode(f'api:{self.key}'.encode()).decode()}"}

    def _answer(self, request: urllib.request.Request, read: Callable[[bytes], T]) -> T:
        """Return what `read` makes of the answer to a request, tried again where that may help."""
        deadline = time.monotonic() + self.patience
        problem = ""
        number = 0
        told = 0.0  # seconds waited because the server said so
        while number < self.attempts:
            wait = min(self.first_wait * 2**number, LONGEST_WAIT)
            try:
                return read(self._fetch(request, deadline - time.monotonic()))
            except urllib.error.HTTPError as error:
                if error.code in (401, 403) and request.has_header("Authorization"):
                    raise NoAnswerError(
                        f"{self.url} must accept the W&B key, but answers {error.code}; "
                        "set WANDB_API_KEY, or run: wandb login"
                    ) from None
                problem = f"answers {error.code}"
                if error.code not in TRY_AGAIN:
                    break
                asked = error.headers.get("Retry-After") or error.headers.get("RateLimit-Reset")
                if error.code == 429 and asked is not None and told < LONGEST_LIMIT:
                    wait = min(_seconds(asked, wait), LONGEST_LIMIT - told) + 0.05
                    _tell_wait(self.url, wait)
                    told += wait
                    deadline += wait
                    time.sleep(wait)
                    continue  # to be told to wait is no failure
                wait = min(_seconds(asked, wait), LONGEST_WAIT)
            except TimeoutError as error:
                problem = f"fails ({str(error) or f'no whole answer in {self.patience:g} s'})"
            except (OSError, EOFError, ValueError, zlib.error, http.client.HTTPException) as error:
                # The server can't be reached, hung up, or sent something that is no HTTP or no JSON.
                problem = f"fails ({one_line(getattr(error, 'reason', None) or error) or type(error).__name__})"
            number += 1
            if number == self.attempts or time.monotonic() + wait >= deadline:
                break
            time.sleep(wait)
        raise NoAnswerError(
            f"{self.url} must answer, but {problem}, asked up to {self.attempts} times; try again later"
        )

    def _fetch(self, request: urllib.request.Request, seconds: float) -> bytes:
        """Return the body of the answer; TimeoutError after `seconds`.

        The timeout of a socket limits the wait for one byte, not for the whole answer. So a thread of its own waits for
        the answer, and is left behind if the answer comes too late.
        """
        answer: Future[bytes] = Future()

        def fetch() -> None:
            try:
                with urllib.request.build_opener(NoRedirect).open(request, timeout=self.timeout) as response:
                    content = response.read()
                    packed = response.headers.get("Content-Encoding") == "gzip"
                answer.set_result(gzip.decompress(content) if packed else content)
            except BaseException as error:
                answer.set_exception(error)

        Thread(target=fetch, daemon=True).start()
        return answer.result(timeout=seconds)

    def _data(self, answer: Any) -> dict[str, Any]:
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, dict):
            errors = answer.get("errors") if isinstance(answer, dict) else None
            messages = [str(error.get("message")) for error in errors or [] if isinstance(error, dict)]
            raise ServerError(
                f"{self.url} must answer with data, but says: {one_line('; '.join(messages)) or 'nothing'}"
            )
        return data


def one_line(text: object, longest: int = 200) -> str:
    """Return text from a server in one line without control characters, safe to print, at most `longest` long."""
    plain = "".join(character if character.isprintable() else " " for character in str(text))
    return " ".join(plain.split())[:longest]


def find_server(address: str = "") -> Server:
    """Return the server of `address`, of WANDB_BASE_URL, of `wandb login --host`, or W&B's own, with its key.

    The key is that of WANDB_API_KEY, else of the netrc file. UserError if the address is no URL or no key is known.
    """
    url = (address or os.environ.get("WANDB_BASE_URL") or saved_url() or DEFAULT_URL).strip().rstrip("/")
    if not is_url(url):
        raise UserError(f"WANDB_BASE_URL must be the URL of a W&B server, but is {url!r}; e.g. {DEFAULT_URL}")
    key = os.environ.get("WANDB_API_KEY") or netrc_key(urlsplit(url).netloc)
    if not key:
        raise UserError(f"a key must be known for {url}, but there is none; set WANDB_API_KEY, or run: wandb login")
    return Server(url, key)


def saved_url() -> str:
    """Return the address that `wandb login --host` saved, in this folder or in the user's settings; "" if none."""
    user = Path(os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb")
    for file in (Path("wandb") / "settings", user / "settings"):
        settings = configparser.ConfigParser(interpolation=None)
        try:
            settings.read_string(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, configparser.Error):
            continue
        if found := settings.get("default", "base_url", fallback=""):
            return found
    return ""


def is_url(text: str) -> bool:
    """Return whether a text is the address of a web server."""
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").encode("idna")
        return parts.scheme in ("http", "https") and bool(host) and (parts.port is None or parts.port > 0)
    except ValueError:  # bad brackets of an IPv6 address, a bad port, or a part of the host's name that is too long
        return False


def netrc_key(host: str) -> str | None:
    """Return the key that `wandb login` stored for a host, None if there is none."""
    try:
        known = netrc.netrc(os.environ.get("NETRC") or os.path.expanduser("~/.netrc"))
    except (OSError, netrc.NetrcParseError):
        return None
    hosts = ALIASES if host in ALIASES else (host,)
    return next((entry[2] for name in hosts if (entry := known.authenticators(name))), None)


_told = [0.0]  # until when the user knows that we wait


def _tell_wait(url: str, seconds: float) -> None:
    """Print that the server asks us to wait, once for all requests that wait at the same time."""
    if seconds >= 1 and time.monotonic() + seconds > _told[0] + 1:
        _told[0] = time.monotonic() + seconds
        print(f"{url} limits requests: going on in {seconds:.0f} s", file=sys.stderr, flush=True)


def _seconds(text: str | None, default: float) -> float:
    try:
        return max(0.0, float(text or default))
    except ValueError:
        return default


class Patience:
    """Says when to give up on a server: after it gave no answer for `most` runs in a row."""

    def __init__(self, most: int) -> None:
        self.most, self.lock, self.failures, self.problem = most, Lock(), 0, ""

    def note(self, problem: str) -> None:
        """Note why a run's rows could not be read, or "" if they were read."""
        with self.lock:
            self.failures, self.problem = (self.failures + 1 if problem else 0), problem

    def lost(self) -> str:
        """Return why to give up, "" as long as further runs are worth asking for."""
        with self.lock:
            return self.problem if self.failures >= self.most else ""
