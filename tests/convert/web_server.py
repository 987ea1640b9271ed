"""A web server on this machine for the tests of downloading: files, ranges, and every way of going wrong in turn."""

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import minialbert.convert.fetch as fetch_module
import minialbert.convert.web as web_module

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server:
    """What it serves, what it was asked, and what it does in place of serving.

    files: path: content. headers: path: more headers. answers: what the next requests get, in turn, as functions of
    the handler; after them, and for None, it serves as a good server does.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.answers: list[Callable | None] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.ranges = True
        self.etags = True
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                answer = server.answers.pop(0) if server.answers and self.command == "GET" else None
                with contextlib.suppress(ConnectionError):
                    (answer or server.serve)(self) if answer or path in server.files else server.missing(path)(self)

            do_HEAD = do_GET

            def log_message(self, *_) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def etag(self, path: str) -> str:
        return f'"{hashlib.sha1(self.files[path]).hexdigest()}"'

    def serve(self, handler, cut: int | None = None, length: int | None = None, **more: str) -> None:
        """A good answer; or one whose body is cut, whose Content-Length is another, or with other headers (None: none).

        Header names have _ for -.
        """
        path = handler.path.partition("?")[0]
        body, etag = self.files[path], self.etag(path)
        start = 0
        wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        if self.ranges and wanted and condition in (None, etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return refuse(416)(handler)
        headers = {"Content-Length": str(len(body) - start if length is None else length)}
        if self.etags:
            headers["ETag"] = etag
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        headers |= self.headers.get(path, {}) | {name.replace("_", "-"): value for name, value in more.items()}
        handler.send_response(206 if start else 200)
        for name, value in headers.items():
            if value is not None:
                handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body[start : None if cut is None else max(start, cut)])

    def missing(self, path: str) -> Callable:
        """What there is not, told as the hub tells it: no such file, or no such repository."""
        repository = path.partition("/resolve/")[0] + "/"
        known = any(file.startswith(repository) for file in self.files)
        code = {"X_Repo_Commit": COMMIT, "X_Error_Code": "EntryNotFound"} if known else {"X_Error_Code": "RepoNotFound"}
        return refuse(404, **code)

    def but(self, **how) -> Callable:
        """The answer of `serve` with something wrong about it."""
        return lambda handler: self.serve(handler, **how)


def refuse(status: int, **headers: str) -> Callable:
    def answer(handler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def redirect(place: str, status: int = 302, **headers: str) -> Callable:
    return refuse(status, Location=place, **headers)


def like_the_hub(server: Server, name: str, files: dict[str, bytes], large: tuple[str, ...] = ()) -> None:
    """Lay files out as the hub does: a revision in every answer; large ones elsewhere, with size and SHA-256."""
    for file, content in files.items():
        for revision in ("main", COMMIT):
            path = f"/{name}/resolve/{revision}/{file}"
            server.files[path] = content
            server.headers[path] = {"X-Repo-Commit": COMMIT}
        if file in large:
            server.files[f"/store/{file}"] = content

    good = server.serve

    def serve(handler, **how) -> None:
        file = handler.path.partition("?")[0].rpartition("/")[2]
        if "/resolve/" in handler.path and file in large:
            digest, size = hashlib.sha256(files[file]).hexdigest(), str(len(files[file]))
            facts = {"X_Linked_ETag": f'"{digest}"', "X_Linked_Size": size, "X_Repo_Commit": COMMIT}
            store = server.address.replace("127.0.0.1", "localhost")  # another host, as the hub's store is
            return redirect(f"{store}/store/{file}?signature=secret", **facts)(handler)
        return good(handler, **how)

    server.serve = serve  # type: ignore[method-assign]


@contextlib.contextmanager
def web_server(monkeypatch) -> Iterator[Server]:
    """A running server; waits are short, and no connection can be made to any other machine."""
    connect = socket.create_connection

    def connect_here(address, *rest, **more):
        assert address[0] in ("127.0.0.1", "localhost", "nowhere.invalid"), f"a test asks {address[0]} for something"
        if address[0] == "nowhere.invalid":  # a name that no network knows, without asking one
            raise socket.gaierror(-2, "Name or service not known")
        return connect(address, *rest, **more)

    monkeypatch.setattr(socket, "create_connection", connect_here)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch_module, "PAUSE", 0.001)
    monkeypatch.setattr(web_module, "TIMEOUT", 0.5)
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
