"""A model hub on this machine: what huggingface-hub asks for, over HTTP."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


class HubServer(ThreadingHTTPServer):
    """Serves folders as commits of models.

    Attributes
    ----------
    commits
        Folder of each model and commit.
    requests
        Method and path of all requests so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, dict[str, Path]] = {}
        self.requests: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        """Stop answering: connections are refused from then on."""
        self.shutdown()
        self.server_close()


@contextmanager
def running() -> Iterator[HubServer]:
    server = HubServer()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        parts = path.strip("/").split("/")
        in_api = parts[:2] == ["api", "models"]
        owner, name, verb, commit, *rest = (parts[2:] if in_api else parts) + [""] * 4
        commits = self.server.commits.get(f"{owner}/{name}")
        if commits is None:
            return self._refuse("RepoNotFound")
        folder = commits.get(commit)
        if folder is None:
            return self._refuse("RevisionNotFound")
        files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
        if in_api and verb == "revision":
            siblings = [{"rfilename": file} for file in files]
            return self._send(
                json.dumps({"id": f"{owner}/{name}", "sha": commit, "siblings": siblings}).encode(), commit
            )
        if in_api and verb == "tree":
            entries = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": _sha1(file)}
                for name, file in files.items()
            ]
            return self._send(json.dumps(entries).encode(), commit)
        file = files.get("/".join(part for part in rest if part))
        if verb != "resolve" or file is None:
            return self._refuse("EntryNotFound", commit)
        self._send(file.read_bytes(), commit, _sha1(file))

    def _send(self, content: bytes, commit: str, etag: str = "api") -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _refuse(self, reason: str, commit: str = "") -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.send_header("X-Error-Code", reason)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()


def _sha1(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
