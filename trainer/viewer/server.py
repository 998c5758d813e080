"""A small web server for one page: it knows its addresses and nothing else, and no address becomes a file's path.

Requests are read by threads; what they ask is worked out by the thread that calls :meth:`ViewServer.work`, since OpenGL
and the network are for one thread alone.
"""

from __future__ import annotations

import errno
import ipaddress
import queue
import socket
import sys
import traceback
from concurrent.futures import Future
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from trainer.viewer.handlers import Answer
from utils.errors import InputError

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/view.css": ("view.css", "text/css; charset=utf-8"),
    "/view.js": ("view.js", "text/javascript; charset=utf-8"),
    "/model-viewer.min.js": ("model-viewer.min.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
LONGEST_ADDRESS = 2000  # characters
MOST_PARAMETERS = 32
MOST_WAITING = 64  # requests
PATIENCE = 120  # seconds that a request waits for its turn and its work
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "[::1]"}
HEADERS = {
    # The browser itself refuses whatever is not from here; model-viewer has a decoder in WebAssembly, blobs and styles.
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

Answers: TypeAlias = dict[str, tuple[str, Answer]]


class ViewServer(ThreadingHTTPServer):
    """Listens from construction on; answers once there are ``answers``.

    Args:
        host: name or address to listen on.
        port: 0 takes a free one.

    Raises:
        InputError: an address that cannot be had.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.answers: Answers = {}
        self.files = {address: (kind, (PAGE / name).read_bytes()) for address, (name, kind) in FILES.items()}
        self._jobs: queue.Queue[tuple[Future, Answer, dict[str, str]]] = queue.Queue(MOST_WAITING)
        try:
            self.address_family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            super().__init__(place[:2], Handler)
        except OSError as error:
            raise InputError(_refusal(host, port, error)) from error
        # A page elsewhere may point a name of its own at this machine; only a host that was asked for may have any name.
        self.names = LOOPBACK_NAMES if ipaddress.ip_address(self.server_address[0]).is_loopback else None

    def server_bind(self) -> None:
        """Without looking its own name up, as the base class would."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def ask(self, answer: Answer, given: dict[str, str]) -> bytes:
        """Have :meth:`work` call ``answer``; raises what that raises, ``queue.Full`` or ``TimeoutError``."""
        future: Future[bytes] = Future()
        self._jobs.put_nowait((future, answer, given))
        try:
            return future.result(PATIENCE)
        finally:
            future.cancel()  # nobody waits for it any more

    def work(self) -> NoReturn:
        """Answer for ever, in this thread."""
        while True:
            future, answer, given = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(answer(given))
            except Exception as error:
                future.set_exception(error)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet about browsers that leave before they have their answer."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: ViewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "unrender", ""
    timeout = 60  # seconds without a word

    def do_GET(self) -> None:
        if refusal := self._refusal():
            self.close_connection = True
            self._send(*refusal)
            return
        parts = urlsplit(self.path)
        if parts.path in self.server.files:
            kind, content = self.server.files[parts.path]
            self._send(HTTPStatus.OK, content, kind)
        elif parts.path in self.server.answers:
            self._answer(*self.server.answers[parts.path], parts.query)
        else:
            self._send(HTTPStatus.NOT_FOUND, "there is nothing here")

    def _refusal(self) -> tuple[HTTPStatus, str] | None:
        names = self.server.names
        if names is not None and self.headers.get("Host", "").rsplit(":", 1)[0].lower() not in names:
            return HTTPStatus.FORBIDDEN, f"this page is for {', '.join(sorted(names))}; --host allows more"
        if self.path != "/" and self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return HTTPStatus.FORBIDDEN, "pages from elsewhere may not ask"
        if len(self.path) > LONGEST_ADDRESS:
            return HTTPStatus.REQUEST_URI_TOO_LONG, f"the address is longer than {LONGEST_ADDRESS} characters"
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "requests have no content here"
        return None

    def _answer(self, kind: str, answer: Answer, query: str) -> None:
        try:
            given = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=MOST_PARAMETERS))
        except ValueError:
            self._send(HTTPStatus.BAD_REQUEST, f"there are more than {MOST_PARAMETERS} parameters")
            return
        try:
            content = self.server.ask(answer, given)
        except InputError as error:
            self._send(HTTPStatus.BAD_REQUEST, error.message)
        except (queue.Full, TimeoutError):
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "too much is asked at once")
        except Exception:
            traceback.print_exc()
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "this went wrong; the terminal says more")
        else:
            self._send(HTTPStatus.OK, content, kind)

    def _send(self, status: HTTPStatus, content: bytes | str, kind: str = "text/plain; charset=utf-8") -> None:
        body = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for what goes wrong."""


def _refusal(host: str, port: int, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"--host {host} is no address: {error.strerror}; leave it out for 127.0.0.1"
    if error.errno == errno.EADDRINUSE:
        return f"--port {port} of {host} is taken; choose another, or 0 for a free one"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is no address of this machine; leave it out for 127.0.0.1, or 0.0.0.0 for all"
    return f"cannot listen on {host}, port {port}: {error.strerror}; choose another by --host and --port"
