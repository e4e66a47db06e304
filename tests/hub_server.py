"""A stand-in for Hugging Face's hub on loopback: repositories of models in memory."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator


class Hub(http.server.ThreadingHTTPServer):
    """Attributes:
    repositories: name to commit to {path: content}; the newest commit comes last.
    requests: "METHOD PATH" of each request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """Yields a hub that answers while the block runs."""
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *unused):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(f"POST {self.path}")
        if self.headers.get("Authorization") != "Bearer secret":
            return self.answer({"error": "Invalid credentials"}, status=401)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            self.server.repositories.setdefault(name, {})
            return self.answer({"url": f"{self.server.url}/{name}"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        name, action = re.match(r"/api/models/([\w.-]+/[\w.-]+)/(\w+)/", self.path).groups()
        if action == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": x, "uploadMode": "regular", "shouldIgnore": False} for x in files]
            return self.answer({"files": modes})
        commits = self.server.repositories[name]
        files = dict(commits[list(commits)[-1]]) if commits else {}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commit = hashlib.sha1(body).hexdigest()
        commits[commit] = files
        address = f"{self.server.url}/{name}/commit/{commit}"
        return self.answer({"success": True, "commitUrl": address, "commitOid": commit})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        asked = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path)
        found = asked or file
        commits = self.server.repositories.get(found[1]) if found else None
        if not commits:
            return self.answer({"error": "not found"}, {"X-Error-Code": "RepoNotFound"}, 404)
        revision = (asked[3] if asked else file[2]) or "main"
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return self.answer({"error": "not found"}, {"X-Error-Code": "RevisionNotFound"}, 404)
        files = commits[commit]
        if file:
            if file[3] not in files:
                return self.answer({"error": "no"}, {"X-Error-Code": "EntryNotFound"}, 404)
            content = files[file[3]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(content, {"ETag": etag, "X-Repo-Commit": commit})
        if asked[2] == "tree":
            return self.answer([
                {"type": "file", "path": name, "size": len(x), "oid": hashlib.sha1(x).hexdigest()}
                for name, x in files.items()
            ])  # fmt: skip
        siblings = [{"rfilename": name, "size": len(x)} for name, x in files.items()]
        return self.answer({"id": found[1], "sha": commit, "siblings": siblings})

    def answer(self, value, headers=(), status=200):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, content in dict(headers).items():
            self.send_header(name, content)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
