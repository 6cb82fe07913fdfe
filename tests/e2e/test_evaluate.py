"""`vitrail evaluate` of a collection that serves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.e2e.photos import jpeg, tiles
from tests.e2e.running import Running, wait_applied, wait_trained
from tests.training.test_ranking import LABELS, made
from vitrail.cli.main import app
from vitrail.client import Client, Query, SearchResult
from vitrail.training.ranking import evaluate


def ran(cluster: Running, *words: object) -> Any:
    said = CliRunner().invoke(app, ["evaluate", *map(str, words), "--address", cluster.address, "--json"])
    assert said.exit_code == 0, said.output
    return json.loads(said.stdout)


def test_what_the_model_can_and_what_the_index_costs(cluster: Running, client: Client, name: str) -> None:
    """Exactly, its figures are those of the vectors; what a trained index does not find of that is told."""
    vectors = made("", 2000)
    client.create_collection(name, dimension=16, train_at=39)
    labels = [{"label": photo.label} for photo in vectors.photos]
    client.upsert(name, ids=[photo.id for photo in vectors.photos], vectors=vectors.vectors, attributes=labels)
    wait_trained(client, name)
    figures = ran(cluster, "--collection", name, "--attribute", "label", "--top-k", 10)
    exact, served = figures["runs"]
    assert (exact["name"], served["name"]) == ("exact", "as served")
    assert (figures["gallery"], figures["counting"], figures["depth"]) == (2000, 1000, 10)
    whole = evaluate(vectors, vectors).measures
    assert exact["total"]["P@10"]["mean"] == pytest.approx(whole.mean("P@10"), abs=0.02)
    assert set(exact["classes"]) == set(LABELS)
    assert "recall@100" not in exact["total"]
    found = [
        client.search_batch(name, [Query(like=photo.id) for photo in vectors.photos], exact=exact)
        for exact in (True, False)
    ]
    ids = [[{hit.id for hit in one.hits} for one in some if isinstance(one, SearchResult)] for some in found]
    share = np.mean([len(best & served) / 10 for best, served in zip(*ids, strict=True)])
    assert share < 1
    assert float(figures["notes"][0].split()[0]) == pytest.approx(share, abs=0.01)
    assert served["total"]["P@10"]["mean"] == pytest.approx(exact["total"]["P@10"]["mean"], abs=0.02)


def test_photos_search_a_collection(cluster: Running, client: Client, name: str, tmp_path: Path) -> None:
    """A photo does not find the record of its own; what cannot be read is listed; pictures are those of records."""
    for place, (tile, image) in enumerate(tiles()):
        if place % 3 == 0:
            path = tmp_path / "photos" / f"{tile}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(image))
    client.create_collection(name)
    client.index(name, tmp_path / "photos")
    wait_applied(client, name)
    (tmp_path / "photos" / "coffee" / "broken.jpg").write_bytes(b"no photo")
    out = tmp_path / "report.html"
    figures = ran(cluster, tmp_path / "photos", "--collection", name, "--out", out)
    exact, served = (run["total"] for run in figures["runs"])
    assert exact == served
    assert 0 < exact["hit@1"]["mean"] < 1
    assert [error["path"] for error in figures["failed"]] == ["coffee/broken.jpg"]
    assert out.read_text().count("data:image/jpeg") == 2 * 10 * 11
    records = ran(cluster, "--collection", name)
    assert records["runs"][0]["total"]["hit@1"]["mean"] == pytest.approx(exact["hit@1"]["mean"], abs=0.03)


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["--attribute", "colour"], 1, "no photo has a label"),
        (["--metric", "cosine"], 2, "its own embedder, metric"),
        (["--pairs", "pairs.csv"], 1, "pairs.csv:2: there is no 'x'"),
    ],
    ids=["no-labels", "metric", "pairs"],
)
def test_what_cannot_be_evaluated(
    cluster: Running,
    client: Client,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    why: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.csv").write_text("query,relevant\na,x\n")
    client.create_collection(name, dimension=2)
    client.upsert(name, ids=["a", "b"], vectors=np.eye(2), attributes=[{"category": "a"}, {"category": "b"}])
    said = CliRunner().invoke(app, ["evaluate", "-c", name, "--address", cluster.address, *words])
    assert said.exit_code == code
    assert why in " ".join(said.output.split())
