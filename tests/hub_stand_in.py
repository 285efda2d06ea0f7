"""A stand-in for the Hub on loopback: data set repositories in memory, over HTTP, with its 401/403/404 habits.

Serves what the real clients ask for (huggingface_hub, datasets, timm). ``fail``, ``cut`` and ``shorten`` make the next
requests that match a pattern fail, break off half-way or bring half of what was asked for; ``requests`` is the log. An
upload by Xet goes into the folder ``xet`` by the client's own local backend; the repository then holds a note of its
hash and size.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE = (".safetensors", ".parquet", ".png")
TOKENS = {"write-token": ("org", True), "read-token": ("org", False), "stranger-token": ("stranger", True)}


def blob_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    private: bool = False
    commits: dict = field(default_factory=dict)  # commit -> {path: content}
    branches: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)
    messages: list = field(default_factory=list)
    pulls: int = 0

    def commit(self, branch, files, message):
        oid = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits[oid] = dict(files)
        self.branches[branch] = oid
        self.messages.append(message)
        return oid

    def resolve(self, revision):
        for known in (self.branches, self.tags):
            if revision in known:
                return known[revision]
        return revision if revision in self.commits else None


class Answer(Exception):  # noqa: N818
    def __init__(self, status, value=b"", headers=None):
        self.status, self.value, self.headers = status, value, headers or {}


class StandIn:
    """The server; ``StandIn("org/name", folder)`` starts with the files of a folder in one public repository."""

    def __init__(self, repo=None, folder=None, *, private=False):
        self.repos, self.large, self.requests, self.faults = {}, {}, [], []
        self.lock, self.xet = threading.RLock(), None  # a folder, for the chunks of Xet uploads
        if repo is not None:
            self.add(repo, folder, private=private)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.serve(self)

            do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

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

    def add(self, repo, folder, *, private=False):
        files = {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
        found = self.repos.setdefault(repo, Repository(private))
        return found.commit("main", files, f"upload {len(files)} files")

    def fail(self, pattern, status, times):
        self.faults.append([re.compile(pattern), status, times])

    def cut(self, pattern, times=1):
        """Break the connection half-way through the answer (GET) or the request's body (PUT, POST)."""
        self.faults.append([re.compile(pattern), "cut", times])

    def shorten(self, pattern, times=1):
        """Send the first half of the answer as if it were the whole."""
        self.faults.append([re.compile(pattern), "short", times])

    def fault(self, line):
        for entry in self.faults:
            if entry[2] > 0 and entry[0].search(line):
                entry[2] -= 1
                return entry[1]
        return None

    def asked(self, pattern):
        return [line for line in self.requests if re.search(pattern, line)]

    # one request

    def serve(self, request):
        line = f"{request.command} {unquote(request.path)}"
        with self.lock:
            self.requests.append(line)
            fault = self.fault(line)
        length = int(request.headers.get("Content-Length") or 0)
        if fault == "cut" and request.command in ("PUT", "POST"):
            request.rfile.read(length // 2)
            request.close_connection = True
            request.connection.close()
            return
        body = self.body(request, length)
        try:
            if isinstance(fault, int):
                raise Answer(fault, {"error": "out of order"})
            with self.lock:
                self.answer(request, body)
        except Answer as answer:
            self.send(request, answer, fault)

    def body(self, request, length):
        if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return request.rfile.read(length)
        parts = []
        while size := int(request.rfile.readline().split(b";")[0], 16):
            parts.append(request.rfile.read(size))
            request.rfile.readline()
        request.rfile.readline()
        return b"".join(parts)

    def send(self, request, answer, fault):
        value, cut = answer.value, fault == "cut"
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        content = content[: len(content) // 2] if fault == "short" else content
        request.send_response(answer.status)
        for key, text in answer.headers.items():
            request.send_header(key, text)
        if "Content-Length" not in answer.headers:
            request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            request.close_connection = True
            request.wfile.flush()
            request.connection.close()

    def answer(self, request, body):
        parts = urlsplit(request.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        user = self.user(request)
        if path == "/api/whoami-v2":
            raise Answer(200, {"name": user[0], "type": "user"}) if user else Answer(401, {"error": "Unauthorized"})
        if path == "/api/validate-yaml":
            raise Answer(200, self.validate(json.loads(body)["content"]))
        if path == "/api/repos/create":
            self.create(json.loads(body), user)
        if path.startswith("/large/"):
            self.large[path.removeprefix("/large/")] = body
            raise Answer(200)
        self.in_repository(request, path, query, body, user)

    def user(self, request):
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise Answer(401, {"error": "Invalid credentials in Authorization header"})
        return TOKENS.get(token)

    def validate(self, text):
        errors = []
        match = re.match(r"---\n(.*?)\n---\n", text, re.S)
        matter = yaml.safe_load(match.group(1)) if match else {}
        for key in ("tags", "task_categories", "size_categories", "source_datasets"):
            if key in matter and not isinstance(matter[key], list):
                errors.append({"message": f'"{key}" must be an array'})
        return {"errors": errors, "warnings": []}

    def create(self, wanted, user):
        if user is None:
            raise Answer(401, {"error": "Unauthorized"})
        if not user[1] or (wanted.get("organization") or user[0]) != user[0]:
            raise Answer(403, {"error": "You don't have the rights to create a dataset under this namespace"})
        name = f"{wanted.get('organization') or user[0]}/{wanted['name']}"
        if name in self.repos:
            raise Answer(409, {"error": "You already created this dataset repo", "url": f"{self.url}/datasets/{name}"})
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.repos[name] = Repository(bool(private))
        self.repos[name].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        raise Answer(200, {"url": f"{self.url}/datasets/{name}", "name": name})

    def in_repository(self, request, path, query, body, user):
        match = re.match(r"/(?:api/)?datasets/([^/]+/[^/]+?)(\.git)?(/.*)?$", path)
        name, rest = (match.group(1), match.group(3) or "") if match else ("", "")
        repo = self.repos.get(name)
        hidden = repo is None or (repo.private and (user is None or user[0] != name.split("/")[0]))
        if hidden:
            status = 401 if user is None else 404
            raise Answer(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if not path.startswith("/api/") and rest.startswith("/resolve/"):
            self.resolve(request, repo, rest.removeprefix("/resolve/"))
        writes = ("/commit/", "/tag/", "/branch/", "/preupload/", "/info/lfs/")
        if rest.startswith(writes):
            if user is None:
                raise Answer(401, {"error": "Unauthorized"})
            if not user[1] or user[0] != name.split("/")[0]:
                raise Answer(403, {"error": "Forbidden: your token may not write here"})
            self.write(name, repo, rest, query, body, request.command)
        self.read(name, repo, rest, query, body)

    # reading

    def at(self, repo, revision):
        commit = repo.resolve(revision)
        if commit is None:
            raise Answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        return commit

    def read(self, name, repo, rest, query, body):
        if rest == "/refs":
            refs = {
                kind: [{"name": key, "ref": f"refs/{word}/{key}", "targetCommit": oid} for key, oid in known.items()]
                for kind, word, known in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))
            }
            refs["branches"] = [ref for ref in refs["branches"] if not ref["name"].startswith("refs/")]
            pulls = [(name, oid) for name, oid in repo.branches.items() if name.startswith("refs/pr/")]
            refs["pullRequests"] = [{"name": name[5:], "ref": name, "targetCommit": oid} for name, oid in pulls]
            raise Answer(200, {**refs, "converts": []})
        if rest == "" or rest.startswith("/revision/"):
            commit = self.at(repo, rest.removeprefix("/revision/") or "main")
            siblings = [{"rfilename": path} for path in sorted(repo.commits[commit])]
            value = {"id": name, "sha": commit, "siblings": siblings, "private": repo.private, "tags": []}
            stated = re.match(rb"---\n(.*?)\n---", repo.commits[commit].get("README.md", b""), re.S)
            try:
                value["cardData"] = json.loads(json.dumps(yaml.safe_load(stated[1]), default=str)) if stated else None
            except yaml.YAMLError:
                value["cardData"] = None
            raise Answer(200, {**value, "downloads": 0}, {"X-Repo-Commit": commit})
        if rest.startswith("/tree/"):
            revision, _, inside = rest.removeprefix("/tree/").partition("/")
            self.tree(repo.commits[self.at(repo, revision)], inside, query)
        if rest.startswith("/xet-write-token/") and self.xet:
            token = {"casUrl": f"local://{self.xet}", "accessToken": "xet", "exp": 4102444800}
            headers = {
                "X-Xet-Cas-Url": token["casUrl"],
                "X-Xet-Access-Token": "xet",
                "X-Xet-Token-Expiration": "4102444800",
            }
            raise Answer(200, token, headers)
        if rest.startswith("/paths-info/"):
            files = repo.commits[self.at(repo, rest.removeprefix("/paths-info/"))]
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode()).get("paths", [])
            raise Answer(200, [self.entry(path, files[path]) for path in wanted if path in files])
        raise Answer(404, {"error": "no such endpoint"})

    def entry(self, path, content):
        value = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
        if content.startswith(b"xet:"):
            oid, size = content.decode().split(":")[1:]
            value |= {"size": int(size), "lfs": {"oid": oid, "size": int(size), "pointerSize": 130}}
        elif path.endswith(LARGE):
            value["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return value

    def tree(self, files, inside, query):
        inside = inside + "/" if inside else ""
        found = {path: content for path, content in files.items() if path.startswith(inside)}
        if inside and not found:
            raise Answer(404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound"})
        entries = [self.entry(path, content) for path, content in sorted(found.items())]
        if query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            deeper = {inside + path[len(inside) :].split("/")[0] for path in found if "/" in path[len(inside) :]}
            entries = [entry for entry in entries if "/" not in entry["path"][len(inside) :]]
            entries += [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(deeper)]
        raise Answer(200, entries)

    def resolve(self, request, repo, rest):
        revision, _, path = rest.partition("/")
        if revision == "refs":
            first, second, path = path.split("/", 2)
            revision = f"refs/{first}/{second}"
        commit = self.at(repo, revision)
        content = repo.commits[commit].get(path)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if content is None:
            raise Answer(404, {"error": "Entry not found"}, {**headers, "X-Error-Code": "EntryNotFound"})
        large = path.endswith(LARGE)
        headers["ETag"] = f'"{hashlib.sha256(content).hexdigest() if large else blob_id(content)}"'
        wanted, status = request.headers.get("Range"), 200
        if wanted and request.command == "GET":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(content), len(content))
            if int(first) >= len(content):
                raise Answer(416, b"", headers)
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
            content, status = content[int(first) : end], 206
        raise Answer(status, content, headers)

    # writing

    def write(self, name, repo, rest, query, body, verb):
        if rest.startswith("/preupload/"):
            files = repo.commits[self.at(repo, rest.removeprefix("/preupload/"))]
            raise Answer(200, {"files": [self.preupload(files, entry) for entry in json.loads(body)["files"]]})
        if rest.startswith("/info/lfs/objects/batch"):
            raise Answer(200, {"objects": [self.transfer(entry) for entry in json.loads(body)["objects"]]})
        if rest.startswith("/commit/"):
            self.commit(name, repo, rest.removeprefix("/commit/"), "create_pr" in query, body)
        kind, _, revision = rest.removeprefix("/").partition("/")
        wanted = json.loads(body or b"{}")
        if kind == "branch":
            if revision in repo.branches:
                raise Answer(409, {"error": "Branch already exists"})
            repo.branches[revision] = self.at(repo, wanted.get("startingPoint") or "main")
            raise Answer(201, {})
        if wanted["tag"] in repo.tags:
            raise Answer(409, {"error": "Tag already exists"})
        repo.tags[wanted["tag"]] = self.at(repo, revision)
        raise Answer(201, {})

    def preupload(self, files, entry):
        path, content = entry["path"], files.get(entry["path"])
        mode = "lfs" if path.endswith(LARGE) else "regular"
        ignored = files.get(".gitignore", b"").decode().split()
        answer = {"path": path, "uploadMode": mode, "shouldIgnore": any(fnmatch(path, line) for line in ignored)}
        if content is not None:
            answer["oid"] = hashlib.sha256(content).hexdigest() if mode == "lfs" else blob_id(content)
        return answer

    def transfer(self, entry):
        answer = {"oid": entry["oid"], "size": entry["size"]}
        if entry["oid"] not in self.large:
            answer["actions"] = {"upload": {"href": f"{self.url}/large/{entry['oid']}"}}
        return answer

    def commit(self, name, repo, branch, create_pr, body):
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        head = self.at(repo, branch)
        if header.get("parentCommit") not in (None, head):
            raise Answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        files = dict(repo.commits[head])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large.get(value["oid"], f"xet:{value['oid']}:{value['size']}".encode())
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        answer = {"success": True, "hookOutput": ""}
        if create_pr:
            repo.pulls += 1
            branch = f"refs/pr/{repo.pulls}"
            answer["pullRequestUrl"] = f"{self.url}/datasets/{name}/discussions/{repo.pulls}"
        oid = repo.commit(branch, files, header["summary"])
        raise Answer(200, {**answer, "commitOid": oid, "commitUrl": f"{self.url}/datasets/{name}/commit/{oid}"})
