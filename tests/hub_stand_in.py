"""A stand-in for the Hub's reading side: one data set repository served over HTTP from a folder, on loopback."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


class StandIn:
    """Serves ``folder`` as the data set ``repo``; ``private`` answers 401 to whoever has no token."""

    def __init__(self, repo: str, folder: Path, *, private: bool = False) -> None:
        self.repo, self.folder, self.private = repo, folder, private
        self.requests: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            do_HEAD = do_POST = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def files(self):
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def answer(self, request):
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length)
        parts = urlsplit(request.path)
        path = unquote(parts.path)
        self.requests.append(f"{request.command} {path}")
        api, plain = f"/api/datasets/{self.repo}", f"/datasets/{self.repo}/resolve/"
        if not (path == api or path.startswith((api + "/", plain))):
            return self.send(request, 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if self.private and "Authorization" not in request.headers:
            return self.send(request, 401, {"error": "Unauthorized"}, {"X-Error-Code": "RepoNotFound"})
        if path.startswith(plain):
            return self.send_file(request, path.removeprefix(plain).split("/", 1)[1])
        rest = path.removeprefix(api)
        if rest.startswith("/revision/") and rest.removeprefix("/revision/") not in ("main", SHA):
            return self.send(request, 404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        if rest == "" or rest.startswith("/revision/"):
            siblings = [{"rfilename": name} for name in self.files()]
            value = {"id": self.repo, "sha": SHA, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
            return self.send(request, 200, value)
        if rest.startswith("/tree/"):
            return self.send_tree(request, rest.removeprefix("/tree/"), parse_qs(parts.query))
        if rest.startswith("/paths-info/"):
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode()).get("paths", [])
            return self.send(request, 200, [self.entry(name) for name in wanted if name in self.files()])
        return self.send(request, 404, {"error": "no such endpoint"})

    def entry(self, name):
        content = (self.folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def send_tree(self, request, rest, query):
        inside = rest.split("/", 1)[1] + "/" if "/" in rest else ""
        names = [name for name in self.files() if name.startswith(inside)]
        if inside and not names:
            return self.send(request, 404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound"})
        entries = [self.entry(name) for name in names]
        if query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            deeper = {
                inside + name.removeprefix(inside).split("/")[0] for name in names if "/" in name.removeprefix(inside)
            }
            entries = [entry for entry in entries if "/" not in entry["path"].removeprefix(inside)]
            entries += [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(deeper)]
        return self.send(request, 200, entries)

    def send_file(self, request, name):
        path = self.folder / name
        if name not in self.files():
            return self.send(request, 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        wanted = request.headers.get("Range")
        status = 200
        if wanted and request.command == "GET":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = int(last) + 1 if last else len(content)
            headers["Content-Range"] = f"bytes {first}-{min(end, len(content)) - 1}/{len(content)}"
            content, status = content[int(first) : end], 206
        return self.send(request, status, content, headers)

    def send(self, request, status, value, headers=None):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        request.send_response(status)
        request.send_header("X-Repo-Commit", SHA)
        for key, text in (headers or {}).items():
            request.send_header(key, text)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)
