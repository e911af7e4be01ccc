"""The few endpoints of the Hugging Face hub's API that publishing needs, on this machine."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_stand_in_for_a_token"


class Hub:
    """Repositories by "models/owner/name"; each has its files, its commits and whether private.

    `refuse` is {part of a path: status} of what the hub shall not do.
    """

    def __init__(self):
        self.repositories = {}
        self.objects = {}
        self.refuse = {}
        self.requests = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"hub": self}))
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method, path, body, token):
        """(status, JSON) of a request."""
        self.requests.append((method, path, body))
        for part, status in self.refuse.items():
            if part in path:
                return status, {"error": "refused"}
        if path.startswith("/lfs/"):  # signed addresses need no token
            self.objects[path.removeprefix("/lfs/")] = body
            return 200, {}
        if token != TOKEN:
            return 401, {"error": "Invalid user token"}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"objects": [self._place(o) for o in json.loads(body)["objects"]]}
        _, _, kind, owner, name, *rest = path.split("/")
        repository = self.repositories.get(f"{kind}/{owner}/{name}")
        if repository is None:
            return 404, {"error": "Repository not found"}
        return getattr(self, "_" + (rest[0] if rest else "info"))(repository, body)

    def _create(self, asked):
        key = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
        if key in self.repositories:
            return 409, {"error": "You already created this repo"}
        kind, name = key.split("/", 1)
        url = f"{self.address}/{'datasets/' * (kind == 'datasets')}{name}"
        self.repositories[key] = {
            "url": url,
            "private": asked.get("visibility") == "private",
            "files": {".gitattributes": b""},
            "commits": [],
        }
        return 200, {"url": url}

    def _place(self, asked):
        upload = {"href": f"{self.address}/lfs/{asked['oid']}"}
        return {**asked, "authenticated": True, "actions": {"upload": upload}}

    def _info(self, repository, body):
        files = [{"rfilename": name} for name in repository["files"]]
        return 200, {"id": "a/b", "private": repository["private"], "siblings": files}

    def _preupload(self, repository, body):
        asked = json.loads(body)["files"]
        large = (".safetensors", ".parquet")
        modes = ["lfs" if f["path"].endswith(large) else "regular" for f in asked]
        return 200, {
            "files": [
                {"path": f["path"], "uploadMode": mode, "shouldIgnore": False}
                for f, mode in zip(asked, modes, strict=True)
            ]
        }

    def _commit(self, repository, body):
        header, *changes = [json.loads(line) for line in body.splitlines()]
        for change in changes:
            value = change["value"]
            if change["key"] == "file":
                repository["files"][value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                content = self.objects[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                repository["files"][value["path"]] = content
            else:
                del repository["files"][value["path"]]
        repository["commits"].append(header["value"]["summary"])
        return 200, {"commitUrl": f"{repository['url']}/commit/1", "commitOid": "1" * 40}

    def _settings(self, repository, body):
        asked = json.loads(body)
        repository["private"] = asked["visibility"] == "private"
        return 200, {}


class Handler(BaseHTTPRequestHandler):
    hub = None

    def _serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        path = self.path.partition("?")[0]
        status, said = self.hub.answer(self.command, path, body, token)
        content = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_HEAD = _serve

    def log_message(self, *arguments):
        pass
