"""The server of ``view`` and requests that no browser sends: malformed, for other hosts, slow, too many."""

import http.client
import random
import socket
import string
import threading
from contextlib import ExitStack

import pytest

from trainer.viewer.server import MAX_CONNECTIONS, ViewServer
from utils.errors import InputError

GOOD = b"GET /about.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
MALFORMED = [  # request lines, all answered with 400
    b"GET http://[::1/about.json HTTP/1.1",
    b"GET http://[/ HTTP/1.1",
    b"GET http://a]b/ HTTP/1.1",
    b"GET http://\xe2\x84\x80/ HTTP/1.1",
    b"GET / HTTP/x.y",
    b"GET / HTTP/1.1.1",
    b"GET / about HTTP/1.1",
    b"GET / FTP/1.1",
    b"GET",
    b"POST /",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"\x00",
    b" ",
    b"",
]


@pytest.fixture
def server():
    with ViewServer("127.0.0.1", 0) as server:
        server.handlers = {"/about.json": ("application/json", lambda values: b"{}")}
        for target in (server.serve_forever, server.work):
            threading.Thread(target=target, daemon=True).start()
        yield server
        server.shutdown()


def connect(server: ViewServer) -> socket.socket:
    return socket.create_connection(server.server_address[:2], timeout=30)


def status(server: ViewServer, request: bytes) -> int:
    """The status of the answer; 0 if the connection ends without one."""
    with connect(server) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.makefile("rb").readline()
        except ConnectionError:  # the server closed the connection before it had read everything
            return 0
    return int(answer.split()[1]) if answer else 0


@pytest.mark.parametrize("line", MALFORMED)
def test_a_malformed_request_line_is_answered_with_400(server, capfd, line):
    headers = b"" if line.startswith(b"POST") else b"Host: localhost\r\n"
    assert status(server, line + b"\r\n" + headers + b"\r\n") == 400
    assert status(server, GOOD) == 200
    assert capfd.readouterr().err == ""


def test_requests_that_are_understood_but_not_supported_have_a_status_of_their_own(server, capfd):
    host = b"Host: localhost\r\n"
    assert status(server, b"DELETE / HTTP/1.1\r\n" + host + b"\r\n") == 501
    assert status(server, b"GET / HTTP/2.0\r\n" + host + b"\r\n") == 505
    assert status(server, b"GET / HTTP/1.1\r\n" + host + b"A: b\r\n" * 200 + b"\r\n") == 431
    assert status(server, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + host + b"\r\n") in (414, 0)
    assert capfd.readouterr().err == ""


def test_the_host_must_be_given_once_and_be_this_machine(server, capfd):
    def with_headers(*hosts: str) -> int:
        lines = "".join(f"Host: {host}\r\n" for host in hosts)
        return status(server, f"GET / HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode("latin-1"))

    assert with_headers("localhost") == with_headers("127.0.0.1:8008") == with_headers("[::1]:1") == 200
    assert with_headers() == with_headers("localhost", "localhost") == with_headers("localhost", "evil.example") == 400
    for host in (
        "",
        "evil.example",
        "localhost.evil.example",
        "localhost:80@evil.example",
        "[::1",
        "127.0.0.1.",
        "\xff",
    ):
        assert with_headers(host) == 403, host
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("host", ["127.0.0.2", "localhost"])
def test_the_printed_address_is_allowed(host):
    """A machine's own name is often 127.0.1.1."""
    with ViewServer(host, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        name = server.url.removeprefix("http://").removesuffix("/")
        assert status(server, f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()) == 200
        assert status(server, b"GET / HTTP/1.1\r\nHost: 127.0.0.3\r\nConnection: close\r\n\r\n") == 403
        server.shutdown()


@pytest.mark.parametrize("host", ["a" * 64, "a..b", "."])
def test_a_host_that_dns_cannot_hold_is_refused(host):
    with pytest.raises(InputError, match="is not a valid address; omit it"):
        ViewServer(host, 0)


def mutated(chance: random.Random) -> bytes:
    """A request with random damage, or random bytes."""
    if chance.random() < 0.2:
        return chance.randbytes(chance.randrange(60)) + b"\r\n\r\n"
    request = bytearray(chance.choice([GOOD, *(line + b"\r\nHost: localhost\r\n\r\n" for line in MALFORMED)]))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(request) + 1)
        part = chance.choice([b"[", b"]", b"//", b"%", b"\x00", b"\r", b"\n", b":", b"\xff", b"?a=" + b"&b" * 40, b" "])
        request[at : at + chance.randrange(3)] = part if chance.random() < 0.7 else chance.randbytes(2)
    return bytes(request) + b"\r\n\r\n"


def test_thousands_of_damaged_requests_leave_the_server_working(server, capfd):
    chance = random.Random(0)
    counts: dict[int, int] = {}
    for _ in range(3000):
        answer = status(server, mutated(chance))
        counts[answer] = counts.get(answer, 0) + 1
    assert counts.keys() <= {0, 200, 400, 403, 404, 413, 414, 431, 501, 505}, counts
    assert counts[400] > 1000
    assert status(server, GOOD) == 200
    assert capfd.readouterr().err == ""


def test_slow_and_idle_clients_do_not_delay_others(server, capfd):
    """More connections than the server keeps, each with half a request; those that have waited longest are closed."""
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(MAX_CONNECTIONS + 20)]
        for i, connection in enumerate(slow):
            connection.sendall(GOOD[: i % len(GOOD)])
        for _ in range(20):
            client = http.client.HTTPConnection(*server.server_address[:2], timeout=5)
            client.request("GET", "/about.json")
            assert client.getresponse().read() == b"{}"
            client.close()
        slow[0].settimeout(5)
        assert not slow[0].recv(1)
        slow[-1].sendall(GOOD[(len(slow) - 1) % len(GOOD) :])
        assert slow[-1].makefile("rb").readline().split()[1] == b"200"
    assert capfd.readouterr().err == ""


def test_a_long_answer_is_not_cut_off_by_later_connections(server):
    started, finish = threading.Event(), threading.Event()

    def wait(values: dict[str, str]) -> bytes:
        started.set()
        finish.wait(30)
        return string.ascii_letters.encode()

    server.handlers["/slow"] = ("text/plain", wait)
    client = http.client.HTTPConnection(*server.server_address[:2], timeout=30)
    client.request("GET", "/slow")
    assert started.wait(10)
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS + 5):
            stack.enter_context(connect(server))
        finish.set()
        assert client.getresponse().read() == string.ascii_letters.encode()
    client.close()
