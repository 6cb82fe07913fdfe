import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.photos import jpeg, photos
from tests.e2e.running import Running, wait_applied
from vitrail.client import Client, Record

GRPCURL = Path(sys.executable).with_name("grpcurl")


def grpcurl(address: str, *words: str, data: object = None) -> subprocess.CompletedProcess[str]:
    """Call a server with a client that knows of it only what reflection tells."""
    options = ["-plaintext", "-max-time", "30"]
    given = None if data is None else json.dumps(data)
    if given is not None:
        options += ["-d", "@"]
    command = [str(GRPCURL), *options, address, *words]
    return subprocess.run(command, capture_output=True, text=True, input=given, timeout=60, check=False)


def test_reflection_lists_the_services_of_every_server(client: Client, name: str, cluster: Running) -> None:
    """The coordinator's and the shards' services can be listed and described."""
    client.create_collection(name, dimension=2)
    listed = grpcurl(cluster.address, "list").stdout.split()
    public = {f"vitrail.v1.{service}Service" for service in ("Search", "Record", "Collection", "Log")}
    assert public | {"grpc.health.v1.Health"} <= set(listed)
    assert "rpc Search" in grpcurl(cluster.address, "describe", "vitrail.v1.SearchService").stdout
    for partition in client.stats(name).partitions:
        assert "vitrail.v1.ShardService" in grpcurl(partition.address, "list").stdout
        health = grpcurl(partition.address, "grpc.health.v1.Health/Check")
        assert json.loads(health.stdout) == {"status": "SERVING"}


def test_a_search_by_vector(client: Client, name: str, cluster: Running) -> None:
    """Numbers in JSON are a query, and the answer names hits, coverage and how it was found."""
    client.create_collection(name, dimension=2)
    client.upsert(name, [Record("east", vector=[1.0, 0.0]), Record("north", vector=[0.0, 1.0])])
    wait_applied(client, name)
    request = {"collection": name, "query": {"vector": {"values": [1.0, 0.2]}}, "topK": 1}
    answer = json.loads(grpcurl(cluster.address, "vitrail.v1.SearchService/Search", data=request).stdout)
    assert [hit["id"] for hit in answer["hits"]] == ["east"]
    assert answer["coverage"]["fraction"] == 1
    assert answer["index"]["exact"] is True


def test_a_search_by_image(client: Client, name: str, cluster: Running) -> None:
    """An image in base64 is a query."""
    client.create_collection(name)
    client.upsert(name, [Record(title, image=jpeg(photo)) for title, photo in photos().items()])
    wait_applied(client, name)
    image = base64.b64encode(jpeg(photos()["coffee"], quality=30)).decode()
    request = {"collection": name, "query": {"image": image}, "returnFields": {"attributes": True}}
    answer = json.loads(grpcurl(cluster.address, "vitrail.v1.SearchService/Search", data=request).stdout)
    assert answer["hits"][0]["id"] == "coffee"


@pytest.mark.parametrize(("top_k", "code"), [(0, "InvalidArgument"), (1001, "InvalidArgument")])
def test_an_error_names_its_field(client: Client, name: str, cluster: Running, top_k: int, code: str) -> None:
    """The details of a status are there for clients of any language."""
    client.create_collection(name, dimension=2)
    request = {"collection": name, "query": {"vector": {"values": [1, 0]}}, "topK": top_k}
    failed = grpcurl(cluster.address, "vitrail.v1.SearchService/Search", data=request)
    assert failed.returncode != 0
    assert code in failed.stderr
    assert '"field":"top_k"' in failed.stderr
