"""A small server that speaks a hub's file protocol."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"


class Handler(BaseHTTPRequestHandler):
    """Repositories as lists of commits, a commit as a dictionary of files."""

    protocol_version = "HTTP/1.1"

    def handle_one_request(self):
        self.state = self.server.state
        super().handle_one_request()

    def reply(self, status=200, content=b"", **headers):
        if isinstance(content, (dict, list)):
            content = json.dumps(content).encode()
            headers["Content_Type"] = "application/json"
        self.send_response(status)
        for key, value in {"Content_Length": len(content), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def commit_of(self, repo, revision):
        commits = self.state.repos.get(repo, [])
        by_name = {name: files for name, files in commits}
        name = commits[-1][0] if commits and revision == "main" else revision
        return name, by_name.get(name)

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not (listing or file):
            return self.reply(404)
        repo, revision = (listing or file).group(1, 2)
        commit, files = self.commit_of(repo, revision or "main")
        if repo not in self.state.repos:
            return self.reply(404, X_Error_Code="RepoNotFound")
        if files is None:
            return self.reply(404, X_Error_Code="RevisionNotFound")
        if listing:
            siblings = [
                {"rfilename": name, "size": self.state.sizes.get(name, len(content))}
                for name, content in files.items()
            ]
            return self.reply(200, {"id": repo, "sha": commit, "siblings": siblings})
        self.state.asked.append(file[3])
        self.state.asked_at.add(revision)
        content = self.state.serves.get(file[3], files.get(file[3]))
        if content is None:
            return self.reply(404, X_Error_Code="EntryNotFound")
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.reply(200, content, ETag=tag, X_Repo_Commit=commit)

    do_HEAD = do_GET

    def do_POST(self):
        path, body = unquote(urlsplit(self.path).path), self.body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply(401, X_Error_Message="Invalid credentials")
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            self.state.created.append(asked)
            if repo in self.state.repos:
                return self.reply(409, {"url": f"{self.state.url}/{repo}"})
            self.state.repos[repo] = []
            return self.reply(200, {"url": f"{self.state.url}/{repo}"})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.state.url}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self.reply(200, {"objects": objects, "transfer": "basic"})
        repo, what = re.fullmatch(
            r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path
        ).groups()
        if what == "preupload":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.reply(200, {"files": modes})
        self.commit(repo, [json.loads(line) for line in body.splitlines()])

    def commit(self, repo, lines):
        files = {}
        for line in lines[1:]:
            value = line["value"]
            files[value["path"]] = (
                base64.b64decode(value["content"])
                if line["key"] == "file"
                else self.state.lfs[value["oid"]]
            )
        name = self.state.commit(repo, files)
        self.reply(200, {"commitUrl": f"{self.state.url}/{repo}/commit/{name}", "commitOid": name})

    def do_PUT(self):
        content = self.body()
        assert self.path == f"/lfs/{hashlib.sha256(content).hexdigest()}"
        self.state.lfs[self.path[5:]] = content
        self.reply(200)

    def log_message(self, *args):
        pass
