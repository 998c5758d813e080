"""A small web server for one page. It serves a fixed list of paths, none of which is mapped to the file system.

Threads read the requests. The thread that calls :meth:`ViewServer.work` runs their handlers, since OpenGL and the network
must be used in a single thread.
"""

from __future__ import annotations

import errno
import ipaddress
import queue
import re
import socket
import sys
import traceback
from concurrent.futures import Future
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlsplit

from trainer.viewer.handlers import RequestHandler
from utils.errors import InputError

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/view.css": ("view.css", "text/css; charset=utf-8"),
    "/view.js": ("view.js", "text/javascript; charset=utf-8"),
    "/model-viewer.min.js": ("model-viewer.min.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
MAX_PATH_LENGTH = 2000  # characters, with the query
MAX_PARAMETERS = 32
MAX_QUEUED_REQUESTS = 64
MAX_CONNECTIONS = 64  # a browser opens six
REQUEST_TIMEOUT = 120  # seconds, including the time in the queue
HOST = re.compile(r"(?P<name>\[[^\]]*\]|[^:]*)(:\d*)?")  # a name or an address, and a port
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "[::1]"}
HEADERS = {
    # The browser blocks all other origins. model-viewer needs WebAssembly (a decoder), blobs and inline styles.
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class ViewServer(ThreadingHTTPServer):
    """HTTP server that listens from construction on and answers the requests in ``handlers``, by path.

    Args:
        host: Host name or address to listen on.
        port: Port; 0 selects a free one.

    Raises:
        InputError: The address or the port is not available.
    """

    daemon_threads = True
    request_queue_size = 2 * MAX_CONNECTIONS  # connections that are not accepted yet; more wait for seconds

    def __init__(self, host: str, port: int) -> None:
        self.handlers: dict[str, tuple[str, RequestHandler]] = {}
        self.files = {path: (kind, (PAGE / name).read_bytes()) for path, (name, kind) in FILES.items()}
        self._connections: dict[socket.socket, bool] = {}  # oldest first; whether a request is being answered
        self._jobs: queue.Queue[tuple[Future, RequestHandler, dict[str, str]]] = queue.Queue(MAX_QUEUED_REQUESTS)
        try:
            self.address_family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            super().__init__((str(address[0]), int(address[1])), HTTPHandler)
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that DNS cannot hold
            raise InputError(_listen_error(host, port, error)) from error
        # Against DNS rebinding: on a loopback address, only the usual host names and the address itself are allowed.
        loopback = ipaddress.ip_address(str(self.server_address[0])).is_loopback
        self.allowed_names = {*LOOPBACK_NAMES, self.host_name} if loopback else None

    def server_bind(self) -> None:
        """Bind without the base class's DNS lookup of the host name."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    @property
    def host_name(self) -> str:
        """The address as a part of URLs."""
        host = str(self.server_address[0])
        return f"[{host}]" if ":" in host else host

    @property
    def url(self) -> str:
        return f"http://{self.host_name}:{self.server_address[1]}/"

    def call(self, handler: RequestHandler, parameters: dict[str, str]) -> bytes:
        """Call ``handler`` in the thread of :meth:`work`.

        Raises:
            queue.Full: Too many requests are queued.
            TimeoutError: The result took too long.
            Exception: Any exception of the handler.
        """
        future: Future[bytes] = Future()
        self._jobs.put_nowait((future, handler, parameters))
        try:
            return future.result(REQUEST_TIMEOUT)
        finally:
            future.cancel()  # after a timeout

    def work(self) -> NoReturn:
        """Run the handlers of queued requests in the calling thread, until an exception such as a signal's."""
        while True:
            future, handler, parameters = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(handler(parameters))
            except Exception as error:
                future.set_exception(error)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a new thread. Of too many, close the one that has waited longest for a request."""
        with suppress(ValueError):  # no connection is waiting
            if len(connections := list(self._connections.items())) >= MAX_CONNECTIONS:
                oldest = connections[[busy for _, busy in connections].index(False)][0]
                self._connections.pop(oldest, None)
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread reads the end of the request, and closes it
        self._connections[request] = False
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.pop(request, None)
        super().shutdown_request(request)

    def set_busy(self, request: Any, busy: bool) -> None:
        """Record whether a connection's request is being answered."""
        if request in self._connections:
            self._connections[request] = busy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect or stall before the response is complete."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class HTTPHandler(BaseHTTPRequestHandler):
    """One connection."""

    server: ViewServer
    raw_requestline: bytes
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "unrender", ""
    default_request_version = "HTTP/1.0"  # of errors: version 0.9 would have no status line
    timeout = 60  # seconds, of an idle connection

    def parse_request(self) -> bool:
        """Return whether the request is understood. If not, it is answered."""
        if self.raw_requestline.strip():
            return super().parse_request()
        self.command, self.request_version = "", self.default_request_version
        self.send_error(HTTPStatus.BAD_REQUEST)
        return False

    def do_GET(self) -> None:
        self.server.set_busy(self.connection, True)
        try:
            self._answer()
        finally:
            self.server.set_busy(self.connection, False)

    def _answer(self) -> None:
        if rejection := self._rejection():
            self.close_connection = True
            self._send(*rejection)
            return
        try:
            parts = urlsplit(self.path.encode("ascii").decode())
        except ValueError:  # also of an absolute address with an invalid host
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        if parts.path in self.server.files:
            kind, content = self.server.files[parts.path]
            self._send(HTTPStatus.OK, content, kind)
        elif parts.path in self.server.handlers:
            self._handle(*self.server.handlers[parts.path], parts.query)
        else:
            self._send(HTTPStatus.NOT_FOUND, "not found")

    def _rejection(self) -> tuple[HTTPStatus, str] | None:
        if self.request_version >= "HTTP/1.1" and len(self.headers.get_all("Host", [])) != 1:
            return HTTPStatus.BAD_REQUEST, "the request must have one Host header"
        names = self.server.allowed_names
        host = HOST.fullmatch(self.headers.get("Host", "").lower())
        if names is not None and not (host and host["name"] in names):
            return (
                HTTPStatus.FORBIDDEN,
                f"the host name must be {', '.join(sorted(names))}; start view with --host to allow others",
            )
        if self.path != "/" and self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return HTTPStatus.FORBIDDEN, "requests from other sites are not allowed"
        if len(self.path) > MAX_PATH_LENGTH:
            return HTTPStatus.REQUEST_URI_TOO_LONG, f"the path is longer than {MAX_PATH_LENGTH} characters"
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "requests must not have a body"
        return None

    def _handle(self, kind: str, handler: RequestHandler, query: str) -> None:
        try:
            parameters = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS))
        except ValueError:
            self._send(HTTPStatus.BAD_REQUEST, f"there are more than {MAX_PARAMETERS} parameters")
            return
        try:
            content = self.server.call(handler, parameters)
        except InputError as error:
            self._send(HTTPStatus.BAD_REQUEST, error.message)
        except (queue.Full, TimeoutError):
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests; try again")
        except Exception:
            traceback.print_exc()
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; see the terminal")
        else:
            self._send(HTTPStatus.OK, content, kind)

    def _send(self, status: HTTPStatus, content: bytes | str, kind: str = "text/plain; charset=utf-8") -> None:
        body = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that the base class does not understand, and close the connection."""
        self.close_connection = True
        status = HTTPStatus(code)
        self._send(status, message or status.description or status.phrase)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing; only errors are printed."""


def _listen_error(host: str, port: int, error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return f"--host {host[:60]} is not a valid address; omit it for 127.0.0.1"
    if isinstance(error, socket.gaierror):
        return f"--host {host} is not a valid address: {error.strerror}; omit it for 127.0.0.1"
    if error.errno == errno.EADDRINUSE:
        return f"--port {port} of {host} is in use; pass another, or 0 for a free port"
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"--host {host} is not an address of this machine; omit it for 127.0.0.1, or pass 0.0.0.0 for all addresses"
        )
    return f"cannot listen on {host}, port {port}: {error.strerror}; pass another --host or --port"
