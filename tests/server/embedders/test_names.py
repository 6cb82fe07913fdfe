"""Embedders by name: each family's real code, with small models whose weights lie where the libraries look for them."""

import json
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.server.images import photos
from vitrail.server.embedders import exported, names
from vitrail.server.embedders.base import Embedder, TextEmbedder
from vitrail.server.embedders.exportable import exportable
from vitrail.server.embedders.hub import NoSuchEmbedder, timm_model
from vitrail.server.embedders.names import make
from vitrail.server.embedders.network import Floats, Network, pooled
from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.server.embedders.torch_embedder import TorchEmbedder
from vitrail.training.model import Model

SMALL = Preprocessing(resize=32, crop=32, mean=(127.0,) * 3, std=(128.0,) * 3)
ARCHITECTURE = "resnet10t"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hubs are away; what they would bring lies in caches that are the test's own."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))


def embedded(embedder: Embedder) -> Floats:
    images = list(photos().values())[:3]
    return embedder.embed(np.stack([embedder.preprocessing.apply(image) for image in images]))


def seeded(model: torch.nn.Module) -> torch.nn.Module:
    """Weights that are the same in every run, and not those of a new model."""
    generator = torch.Generator().manual_seed(7)
    for tensor in model.parameters():
        if tensor.ndim > 1:
            tensor.data = torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5
    return model.eval()


def expected(model: torch.nn.Module, preprocessing: Preprocessing) -> Floats:
    """Unit vectors of a model that is called by hand."""
    pixels = np.stack([preprocessing.apply(image) for image in list(photos().values())[:3]])
    images = (pixels - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    with torch.inference_mode():
        found: Floats = model(torch.tensor(images).float().permute(0, 3, 1, 2)).numpy()
    unit: Floats = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def test_a_model_of_torchvision(tmp_path: Path) -> None:
    """By its name, with the weights that torch's cache holds: its features before the classifier."""
    from torchvision import models

    checkpoints = tmp_path / "torch" / "checkpoints"
    checkpoints.mkdir(parents=True)
    model = seeded(models.resnet18(num_classes=1000))
    name = models.ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    torch.save(model.state_dict(), checkpoints / name)
    embedder = make("torchvision/resnet18", threads=2, precision="full")
    model.fc = torch.nn.Identity()
    assert (embedder.dimension, embedder.preprocessing.crop, embedder.preprocessing.resize) == (512, 224, 256)
    np.testing.assert_allclose(embedded(embedder), expected(model, embedder.preprocessing), atol=1e-4)
    named = make("torchvision/resnet18/IMAGENET1K_V1", threads=2, precision="full")
    np.testing.assert_array_equal(embedded(named), embedded(embedder))


def test_a_model_of_torchvision_that_is_trained_on(tmp_path: Path) -> None:
    """A file holds it, and its parts are the stages that can be frozen; what learns by other heads is refused."""
    from torchvision import models

    checkpoints = tmp_path / "torch" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for model, weights in (
        (models.resnet18(), models.ResNet18_Weights.IMAGENET1K_V1),
        (models.inception_v3(init_weights=False), models.Inception_V3_Weights.IMAGENET1K_V1),
    ):
        torch.save(seeded(model).state_dict(), checkpoints / weights.url.rpartition("/")[2])
    parts = exportable("torchvision/resnet18")
    exported.save(tmp_path / "model.safetensors", *parts)
    own, loaded = (
        make(each, threads=2, precision="full")
        for each in ("torchvision/resnet18", f"file:{tmp_path / 'model.safetensors'}")
    )
    np.testing.assert_allclose(embedded(loaded), embedded(own), atol=1e-6)
    learning = Model(parts, freeze=None).train()
    kept = {name.split(".")[0] for name, each in learning.backbone.named_parameters() if not each.requires_grad}
    assert kept == {"conv1", "bn1", "layer1"}
    assert learning(torch.zeros((2, 224, 224, 3), dtype=torch.uint8)).shape == (2, 512)
    with pytest.raises(NoSuchEmbedder, match="other heads"):
        exportable("torchvision/inception_v3")


def test_a_model_of_timm(tmp_path: Path) -> None:
    """By its name, with the weights that the hub's cache holds; another pooling is another space."""
    import timm
    from safetensors.torch import save_file

    model = seeded(timm.create_model(ARCHITECTURE, pretrained=False))
    name = f"{ARCHITECTURE}.c3_in1k"
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    assert config.hf_hub_id is not None
    in_cache(tmp_path / "huggingface", f"timm/{name}", lambda path: save_file(model.state_dict(), path))
    embedder = make(f"timm/{name}", threads=2, precision="full")
    model.reset_classifier(0)  # type: ignore[operator]
    np.testing.assert_allclose(embedded(embedder), expected(model, embedder.preprocessing), atol=1e-4)
    other = make(f"timm/{name}?pooling=gem&fit=pad", threads=2, precision="full")
    assert other.preprocessing.fit == "pad"
    assert other.space.rpartition(":")[2] != embedder.space.rpartition(":")[2]
    assert np.abs(embedded(other) - embedded(embedder)).max() > 0.01


def in_cache(cache: Path, repository: str, save: Any) -> None:
    """Put a model where the hub's library keeps what it has downloaded."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save(snapshot / "model.safetensors")


@pytest.fixture
def small_clip(tmp_path: Path) -> str:
    """A CLIP of a few thousand parameters, known to open_clip, and its weights in a file."""
    import open_clip

    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    (tmp_path / "tiny-clip.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(tmp_path)
    model = open_clip.create_model("tiny-clip", load_weights=False)
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    return f"open_clip/tiny-clip/{tmp_path / 'tiny.pt'}"


def test_a_model_of_open_clip(small_clip: str) -> None:
    """Images and texts come as unit vectors of one space, as the model itself gives them."""
    import open_clip

    embedder = make(small_clip, threads=2, precision="full")
    assert isinstance(embedder, TextEmbedder)
    assert embedder.dimension == 16
    model = open_clip.create_model("tiny-clip", pretrained=small_clip.split("/", 2)[2])
    texts = ["a red dress", "two cats"]
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer("tiny-clip")(texts)
        by_hand = torch.nn.functional.normalize(model.encode_text(tokens)).numpy()
        model.forward = model.encode_image
        np.testing.assert_allclose(embedded(embedder), expected(model, embedder.preprocessing), atol=1e-4)
    np.testing.assert_allclose(embedder.embed_texts(texts), by_hand, atol=1e-5)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    backbone = timm_model(ARCHITECTURE, "gem", pretrained=False)
    seeded(backbone.model)
    header = exported.Header(architecture=ARCHITECTURE, preprocessing=SMALL, pooling="gem", normalise=False)
    features = np.random.default_rng(3).normal(size=(600, 512)).astype(np.float32)
    exported.save(tmp_path / "e.safetensors", header, backbone, exported.fit_projection(features, 24, whiten=True))
    return tmp_path / "e.safetensors"


def test_an_exported_file(saved: Path) -> None:
    """A file gives the same vectors whenever it is loaded; the recipe in its header decides how, and which space."""
    embedder, again = (make(f"file:{saved}", threads=2, precision="full") for _ in range(2))
    assert (embedder.dimension, embedder.normalised, embedder.preprocessing) == (24, False, SMALL)
    assert embedder.space == again.space
    np.testing.assert_array_equal(embedded(embedder), embedded(again))
    assert np.abs(np.linalg.norm(embedded(embedder), axis=1) - 1).min() > 0.01


@pytest.mark.parametrize("damage", ["truncated", "not safetensors", "no recipe", "another architecture"])
def test_a_file_that_cannot_be_used(saved: Path, damage: str) -> None:
    """It says so, and loads nothing."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(saved)
    header = exported.Header(architecture="resnet18", preprocessing=SMALL, pooling="gem")
    match damage:
        case "truncated":
            saved.write_bytes(saved.read_bytes()[:-100])
        case "not safetensors":
            saved.write_bytes(b"\x80\x04 a pickle, perhaps" * 100)
        case "no recipe":
            save_file(tensors, saved)
        case _:
            save_file(tensors, saved, metadata={exported.KEY: header.model_dump_json()})
    with pytest.raises(NoSuchEmbedder, match="cannot load"):
        make(f"file:{saved}", threads=2)


def test_whitened_features_are_uncorrelated() -> None:
    """So that the Euclidean distance is Mahalanobis'; without whitening, components keep their variance."""
    random = np.random.default_rng(1)
    features = (random.normal(size=(4000, 8)) @ random.normal(size=(8, 8)) + 5).astype(np.float32)
    white = exported.fit_projection(features, 6, whiten=True)
    np.testing.assert_allclose(np.cov(((features - white.mean) @ white.matrix).T), np.eye(6), atol=1e-3)
    inverse = np.linalg.inv(np.cov(features.T))
    all_white = exported.fit_projection(features, 8, whiten=True)
    one, other = (features[:2] - all_white.mean) @ all_white.matrix
    difference = features[0] - features[1]
    assert np.square(one - other).sum() == pytest.approx(difference @ inverse @ difference, rel=1e-2)
    plain = exported.fit_projection(features, 6, whiten=False)
    variances = np.var((features - plain.mean) @ plain.matrix, axis=0)
    assert (np.diff(variances) <= 0).all()
    with pytest.raises(ValueError, match="give no"):
        exported.fit_projection(features[:5], 6, whiten=False)


def test_an_onnx_file(tmp_path: Path) -> None:
    """ONNX Runtime gives what torch gives, with the preprocessing that the file declares."""
    import onnx

    from vitrail.server.embedders.onnx import PREPROCESSING

    model = onnx_mean(side=32)
    path = tmp_path / "mean.onnx"
    onnx.save(model, path)
    plain = make(f"onnx:{path}", threads=2)
    assert (plain.dimension, plain.preprocessing.crop, plain.preprocessing.resize) == (3, 32, 37)
    onnx.helper.set_model_props(model, {PREPROCESSING: SMALL.model_dump_json()})
    onnx.save(model, path)
    declared = make(f"onnx:{path}", threads=2)
    assert declared.preprocessing == SMALL
    assert declared.space != plain.space
    pixels = np.stack([SMALL.apply(image) for image in list(photos().values())[:3]])
    means = ((pixels.astype(np.float32) - 127) / 128).mean(axis=(1, 2))
    np.testing.assert_allclose(
        embedded(declared), means / np.linalg.norm(means, axis=1, keepdims=True), rtol=1e-3, atol=1e-4
    )
    path.write_bytes(b"no model")
    with pytest.raises(NoSuchEmbedder, match="cannot load"):
        make(f"onnx:{path}", threads=2)


def onnx_mean(side: int) -> Any:
    """A model that takes the mean of each channel."""
    from onnx import TensorProto, helper

    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, side, side])
    vectors = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", 3])
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vectors"]),
    ]
    graph = helper.make_graph(nodes, "mean", [images], [vectors])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Ones:
    """What a user's package might offer."""

    name, space, dimension, preprocessing, normalised = "ones", "ones:1", 2, SMALL, False

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def embed(self, pixels: Any) -> Floats:
        return np.ones((len(pixels), 2), np.float32)


def test_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package's own embedder is found by the name of its entry point."""
    offered = EntryPoints([EntryPoint("ones", f"{__name__}:Ones", names.GROUP)])
    monkeypatch.setattr(names, "entry_points", lambda group: offered.select(group=group))
    embedder = make("ones", threads=3)
    assert embedder.space == "ones:1"
    assert embedded(embedder).tolist() == [[1, 1]] * 3


def test_another_side() -> None:
    """A smaller square is scaled as the model's own is, seen by the same weights, and another space."""
    small, own = (
        make(name, threads=1, precision="full") for name in ("efficientnet-lite0?side=160", "efficientnet-lite0")
    )
    assert (small.preprocessing.resize, small.preprocessing.crop) == (183, 160)
    assert small.space.rpartition(":")[2] != own.space.rpartition(":")[2]
    assert embedded(small).shape == (3, 1280)
    cosines = (embedded(small) * embedded(own)).sum(axis=1)
    assert ((cosines > 0.5) & (cosines < 0.999)).all()
    assert names.options_of("", "side=160&fit=pad").apply(own.preprocessing).resize == 160
    with pytest.raises(NoSuchEmbedder, match="doesn't match model"):
        TorchEmbedder(
            "vit",
            timm_model("vit_tiny_patch16_224", "native", pretrained=False),
            preprocessing=SMALL,
            threads=1,
        )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "there is no embedder 'nothing'"),
        ("timm/nothing", "Unknown model"),
        ("timm/resnet10t.c3_in1k", "cannot get timm/resnet10t.c3_in1k"),
        ("torchvision/nothing", "Unknown model"),
        ("open_clip/ViT-B-32", "name the weights"),
        ("open_clip/nothing/at-all", "cannot get"),
        ("file:/nowhere", "No such file"),
        ("onnx:/nowhere", "No such file"),
        ("efficientnet-lite0?pooling=gem", "the model's own"),
        ("efficientnet-lite0?fit=wide", "fit: Input should be"),
        ("efficientnet-lite0?side=8", "side: Input should be"),
        ("efficientnet-lite0?colour=grey", "colour: Extra inputs"),
        ("efficientnet-lite0?fit", "bad query field"),
        ("timm/resnet10t?pooling=class", "cannot get"),
    ],
)
def test_what_cannot_be_had(name: str, said: str) -> None:
    with pytest.raises(NoSuchEmbedder, match=said):
        make(name, threads=1)


def test_pooling() -> None:
    """GeM with p = 3 lies between the mean and the largest; tokens before those of the image do not count."""
    maps = torch.rand((2, 5, 3, 4), generator=torch.Generator().manual_seed(1))
    flat = maps.flatten(2)
    gem = pooled(maps, "gem")
    torch.testing.assert_close(gem, flat.pow(3).mean(2).pow(1 / 3))
    assert ((gem > flat.mean(2)) & (gem < flat.amax(2))).all()
    tokens = torch.cat([torch.full((2, 1, 5), 9.0), flat.transpose(1, 2)], dim=1)
    torch.testing.assert_close(pooled(tokens, "average", 1), flat.mean(2))
    torch.testing.assert_close(pooled(tokens, "gem", 1), gem)
    assert (pooled(tokens, "class", 1) == 9).all()
    for found, pooling in ((maps, "native"), (maps, "class"), (tokens, "class")):
        with pytest.raises(ValueError, match="is not for"):
            pooled(found, pooling, 0)  # type: ignore[arg-type]


class Greedy(torch.nn.Module):
    """Has memory for so many images at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.sizes: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("no room")
        return images.mean((2, 3))


def test_without_memory_it_goes_on_with_half() -> None:
    """The batch that was too large is asked again in halves, and what follows no larger; order is kept."""
    model = Greedy(3)
    network = Network(model, SMALL, threads=1, precision="full", normalise=False)
    network.chunk = 16
    pixels = np.zeros((10, 32, 32, 3), np.uint8)
    pixels += np.arange(10, dtype=np.uint8)[:, None, None, None]
    found = network(pixels)
    np.testing.assert_allclose(found[:, 0], (np.arange(10) - 127) / 128, atol=1e-6)
    assert model.sizes == [10, 8, 4, 2, 2, 2, 2, 2]
    assert network.chunk == 2
    with pytest.raises(torch.OutOfMemoryError):
        Network(Greedy(0), SMALL, threads=1, precision="full")(pixels)
