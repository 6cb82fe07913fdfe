"""`vitrail dataset collection:…`: photos and vectors of a running cluster."""

import json
from pathlib import Path

from typer.testing import CliRunner

from tests.e2e.photos import jpeg, tiles
from tests.e2e.running import Running
from vitrail.cli.main import app
from vitrail.client import Client, Record
from vitrail.training.photos import read_photos


def test_a_collection_becomes_a_table(cluster: Running, client: Client, name: str, tmp_path: Path) -> None:
    """Its images as files, kept ones and those at a uri, its attribute as label, its vectors as they are."""
    client.create_collection(name, dimension=8)
    some = [jpeg(tile) for _, tile in tiles(128)][::20][:5]
    (tmp_path / "hat 1.jpg").write_bytes(some[0])
    records = [
        Record(id="../one", vector=[1.0] * 8, attributes={"kind": "hat"}, uri=(tmp_path / "hat 1.jpg").as_uri()),
        Record(id="gone", vector=[1.0] * 8, attributes={"kind": "hat"}, uri=(tmp_path / "gone.jpg").as_uri()),
        Record(id="none", vector=[1.0] * 8, attributes={"kind": "tie"}),
    ]
    assert not client.upsert(name, records).errors
    kept = f"{name}-kept"
    client.create_collection(kept, keep_images=True)
    images = [Record(id=f"{n}/é", image=some[n % 4], attributes={"kind": f"k{n % 2}"}) for n in range(6)]
    assert not client.upsert(kept, images).errors

    options = ["--label", "kind", "--address", cluster.address, "--json"]
    said = CliRunner().invoke(app, ["dataset", f"collection:{name}", "--out", str(tmp_path / "a"), *options])
    assert said.exit_code == 0, said.output
    assert {error["path"] for error in json.loads(said.stdout)["unreadable"]} == {"gone", "none"}
    table = read_photos(str(tmp_path / "a/photos.csv"))
    assert [(photo.label, table.source.read(photo.id)) for photo in table.all] == [("hat", some[0])]

    said = CliRunner().invoke(app, ["dataset", f"collection:{kept}", "--out", str(tmp_path / "b"), *options])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert [group["exact"] for group in found["groups"]] == [True, True]
    assert found["labels"].keys() == {"k0", "k1"}
    table = read_photos(str(tmp_path / "b/photos.csv"))
    assert sorted(table.source.read(photo.id) for photo in table.all) == sorted(some[n % 4] for n in range(6))

    said = CliRunner().invoke(app, ["dataset", f"collection:{kept}", "--out", str(tmp_path / "c"), *options[2:]])
    assert "has no attribute 'category'; it has: kind" in said.output
