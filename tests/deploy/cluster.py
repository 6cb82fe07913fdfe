"""As much of Kubernetes' API as a chart asks for while it is rendered: which nodes there are, and what runs."""

import json
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self

from tests.deploy.rendering import NAMESPACE, RELEASE, Object


def node(name: str, **labels: str) -> Object:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def stateful_set(layout: int, shard: int, *, ready: int, release: str = RELEASE) -> Object:
    """One shard's processes, so many of them ready."""
    labels = {
        "app.kubernetes.io/name": "vitrail",
        "app.kubernetes.io/instance": release,
        "vitrail.dev/layout": str(layout),
        "vitrail.dev/shard": str(shard),
    }
    name = f"{release}-of-{layout}-shard-{shard}"
    status = {"readyReplicas": ready} if ready else {}  # as Kubernetes has it
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "labels": labels},
        "status": status,
    }


class Cluster:
    """Serves what it is given, over HTTP on a free port."""

    def __init__(self, *, nodes: Sequence[Object] = (), stateful_sets: Sequence[Object] = ()) -> None:
        self._answers: dict[str, Object] = {
            "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "groups": [_group("apps", "v1")]},
            "/api/v1": _kinds("v1", "nodes", "Node", namespaced=False),
            "/apis/apps/v1": _kinds("apps/v1", "statefulsets", "StatefulSet", namespaced=True),
            "/api/v1/nodes": _list("v1", "NodeList", nodes),
            f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets": _list("apps/v1", "StatefulSetList", stateful_sets),
        }

    def __enter__(self) -> Self:
        answers = self._answers

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = answers.get(self.path.split("?")[0])
                body = json.dumps(found or {"kind": "Status", "apiVersion": "v1", "reason": "NotFound", "code": 404})
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


def _group(name: str, version: str) -> Object:
    served = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [served], "preferredVersion": served}


def _kinds(version: str, plural: str, kind: str, *, namespaced: bool) -> Object:
    resource = {"name": plural, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": ["get", "list"]}
    return {"kind": "APIResourceList", "groupVersion": version, "resources": [resource]}


def _list(version: str, kind: str, items: Sequence[Object]) -> Object:
    return {"kind": kind, "apiVersion": version, "metadata": {}, "items": list(items)}
