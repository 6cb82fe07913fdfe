"""Embedders by name, texts and bare vectors, over real processes with real photos."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.photos import photos
from tests.e2e.running import Running, wait_applied
from vitrail.client import Client, EmbeddingSpaceMismatch, FailedPrecondition, InvalidArgument, Record

Start = Callable[..., Running]
PADDED = "efficientnet-lite0?fit=pad"


def test_two_embedders_two_collections_one_cluster(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each finds its photos; whatever is of the other space is refused, and both are named."""
    monkeypatch.setenv("VITRAIL_EMBEDDERS", f"efficientnet-lite0,{PADDED}")
    running = start("--shards", "1")
    records = [Record(id=name, image=image) for name, image in photos().items()]
    with Client(running.address) as client:
        spaces = {}
        for name, embedder in (("plain", None), ("padded", PADDED)):
            made = client.create_collection(name, embedder=embedder)
            spaces[name] = made.space
            assert not client.upsert(name, records).errors
            wait_applied(client, name)
            found = client.search(name, image=photos()["coffee"], top_k=1)
            assert (found.hits[0].id, found.index.space) == ("coffee", made.space)
            assert found.hits[0].score > 0.999
        one = client.embed(images=[photos()["coffee"]]).vectors[0]
        assert client.search("plain", vector=one, space=spaces["plain"], top_k=1).hits[0].score > 0.999
        for call in (
            lambda: client.search("padded", vector=one, space=spaces["plain"]),
            lambda: client.upsert("padded", ids=["new"], vectors=one[np.newaxis], space=spaces["plain"]),
        ):
            with pytest.raises(EmbeddingSpaceMismatch) as caught:
                call()
            assert all(space in str(caught.value) for space in spaces.values())
        with pytest.raises(InvalidArgument, match="this server has") as wrong:
            client.create_collection("other", embedder="timm/resnet18")
        assert wrong.value.field == "embedder"
    running.stop()
    monkeypatch.setenv("VITRAIL_EMBEDDERS", "efficientnet-lite0")
    running = start("--shards", "1")
    with Client(running.address) as client:
        assert client.search("plain", image=photos()["coffee"], top_k=1).hits[0].id == "coffee"
        with pytest.raises(EmbeddingSpaceMismatch) as caught:
            client.search("padded", image=photos()["coffee"])
        assert all(space in str(caught.value) for space in spaces.values())
        assert client.search("padded", like="coffee", top_k=1).coverage.fraction == 1


@pytest.mark.long
def test_other_weights_under_the_same_name(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A projection fitted to photos is served from its file; where another one takes its place, both are named."""
    model = tmp_path / "model.safetensors"
    monkeypatch.setenv("VITRAIL_EMBEDDERS", f"file:{model}")
    spaces: list[str] = []
    for number, chosen in enumerate((sorted(photos()), sorted(photos())[1:])):
        model.unlink(missing_ok=True)
        fit(chosen, tmp_path / f"photos-{number}", model)
        running = start("--shards", "1")
        with Client(running.address) as client:
            if not spaces:
                assert client.create_collection("photos").dimension == 4
                client.upsert("photos", [Record(id=name, image=image) for name, image in photos().items()])
                wait_applied(client, "photos")
                assert client.search("photos", image=photos()["coffee"], top_k=1).hits[0].id == "coffee"
            spaces.append(client.embed(images=[photos()["coffee"]]).space)
            if len(spaces) == 2:
                with pytest.raises(EmbeddingSpaceMismatch) as caught:
                    client.search("photos", image=photos()["coffee"])
                assert all(space in str(caught.value) for space in spaces)
                assert client.search("photos", like="coffee", top_k=1).coverage.fraction == 1
        running.stop()
    assert spaces[0] != spaces[1]


def fit(names: list[str], folder: Path, model: Path) -> None:
    """Write an embedder whose vectors have four components of what it makes of some photos."""
    folder.mkdir()
    for name in names:
        photos()[name].save(folder / f"{name}.png")
    vitrail("project", str(folder), "--dimension", "4", "--out", str(model))


def test_words_and_vectors(start: Start, tmp_path: Path) -> None:
    """A text finds what it names, and the answer says how; images and texts come as vectors, bad ones as errors."""
    running = start("--shards", "1")
    with Client(running.address) as client:
        client.create_collection("photos")
        client.upsert("photos", [Record(id=name, image=image) for name, image in photos().items()])
        wait_applied(client, "photos")
        for words, name in (("a cat", "chelsea"), ("a cup of coffee", "coffee"), ("a space rocket", "rocket")):
            found = client.search("photos", text=words, top_k=1)
            assert (found.hits[0].id, found.text_method) == (name, "class_names")
        assert client.search("photos", image=photos()["coffee"]).text_method is None
        for words in ("", " ", "long " * 1000):
            with pytest.raises(InvalidArgument) as caught:
                client.search("photos", text=words)
            assert caught.value.field == "query.text"
        client.create_collection("vectors", dimension=3)
        with pytest.raises(FailedPrecondition, match="bring a vector"):
            client.search("vectors", text="a cat")
        both = client.embed(images=[photos()["coffee"], b"no image", photos()["chelsea"]])
        assert [(error.index, error.field) for error in both.errors] == [(1, "image")]
        assert np.isnan(both.vectors[1]).all()
        np.testing.assert_allclose(np.linalg.norm(both.vectors[[0, 2]], axis=1), 1, atol=1e-5)
        assert client.embed(texts=["a cat"]).vectors.shape == (1, 1280)
        path = tmp_path / "coffee.png"
        photos()["coffee"].save(path)
        command = ["embed", str(path), "--json", "--out", str(tmp_path / "v.npy"), "--address", running.address]
        said = json.loads(vitrail(*command))
        assert said["space"] == both.space
        np.testing.assert_allclose(said["photos"][0]["vector"], both.vectors[0], atol=1e-6)
        np.testing.assert_allclose(np.load(tmp_path / "v.npy")[0], both.vectors[0], atol=1e-6)


def test_the_steps_of_preprocessing_as_pictures(tmp_path: Path) -> None:
    """Each step is a file, the last of them what the model sees; no server is asked."""
    photo = tmp_path / "coffee.png"
    photos()["coffee"].save(photo)
    name = "efficientnet-lite0?fit=pad&contrast=stretch&denoise=median"
    steps = json.loads(vitrail("embed", str(photo), "--explain", str(tmp_path / "out"), "--embedder", name, "--json"))
    assert [Path(step).stem.split("-")[2] for step in steps] == ["encoded", "decoded", "denoised", "contrast", "scaled"]
    with Image.open(steps[-1]) as last:
        assert last.size == (224, 224)


def vitrail(*words: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "vitrail.cli.main", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
