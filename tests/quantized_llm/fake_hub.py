"""As much of the Hugging Face Hub as downloads need, on loopback: revisions, trees, files, refusals."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class FakeRepo:
    """A repository; `refusal` answers every request instead, with a status and the Hub's error code."""

    commit: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None


@dataclass
class FakeHub:
    """Its address, and what it was asked for."""

    endpoint: str = ""
    requested_files: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)


@contextmanager
def fake_hub(repos: Mapping[str, FakeRepo]) -> Iterator[FakeHub]:
    """Serve the repositories until the block ends."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, body: bool) -> None:
            hub.tokens.add(self.headers.get("Authorization", ""))
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                repo = repos.get("/".join(parts[2:4]), FakeRepo(refusal=(401, "RepoNotFound")))
                self._answer_api(repo, "/".join(parts[2:4]), parts[4:], body)
            else:
                repo = repos.get("/".join(parts[:2]), FakeRepo(refusal=(401, "RepoNotFound")))
                self._answer_file(repo, "/".join(parts[4:]), body)

        def _answer_api(self, repo: FakeRepo, name: str, rest: list[str], body: bool) -> None:
            if repo.refusal:
                return self._refuse(*repo.refusal)
            revision = rest[1] if len(rest) > 1 else "main"
            if revision not in ("main", repo.commit):
                return self._refuse(404, "RevisionNotFound")
            if rest[:1] == ["tree"]:
                return self._send(
                    json.dumps([_entry(path, content) for path, content in repo.files.items()]).encode(), body
                )
            siblings = [{"rfilename": path} for path in repo.files]
            info = {"_id": name, "id": name, "sha": repo.commit, "siblings": siblings}
            return self._send(json.dumps(info).encode(), body)

        def _answer_file(self, repo: FakeRepo, path: str, body: bool) -> None:
            if repo.refusal:
                return self._refuse(*repo.refusal)
            if path not in repo.files:
                return self._refuse(404, "EntryNotFound")
            hub.requested_files.append(path)
            content = repo.files[path]
            headers = {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": repo.commit, "Accept-Ranges": "bytes"}
            if wanted := self.headers.get("Range"):
                first, last = wanted.removeprefix("bytes=").split("-")
                end = min(int(last or len(content)), len(content) - 1)
                headers["Content-Range"] = f"bytes {first}-{end}/{len(content)}"
                return self._send(content[int(first) : end + 1], body, 206, headers)
            return self._send(content, body, 200, headers)

        def _refuse(self, status: int, code: str) -> None:
            self._send(b"{}", True, status, {"X-Error-Code": code, "X-Error-Message": code})

        def _send(
            self, content: bytes, body: bool, status: int = 200, headers: Mapping[str, str] | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body and self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of a folder as a repository has it."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def put_into_cache(cache: Path, repo_id: str, commit: str, files: Mapping[str, bytes]) -> None:
    """What huggingface_hub leaves on disk after a download of the main branch."""
    repo = cache / f"models--{repo_id.replace('/', '--')}"
    for path, content in files.items():
        file = repo / "snapshots" / commit / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs/main").write_text(commit)


def _entry(path: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "size": len(content), "oid": _digest(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
