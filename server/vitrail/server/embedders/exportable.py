"""The embedders that a file can hold (see `exported`), in their parts, by name."""

from pathlib import Path

from vitrail.server.embedders.efficientnet import EfficientNetLite0, pretrained
from vitrail.server.embedders.exported import Exported, Header, read
from vitrail.server.embedders.hub import NoSuchEmbedder, timm_model, torchvision_model
from vitrail.server.embedders.names import Options, options_of


def exportable(name: str) -> Exported:
    """The parts of an embedder: the default one, one of timm or torchvision, or a file.

    Raises:
        NoSuchEmbedder: There is none, it cannot be had here, or a file cannot hold it.
    """
    base, _, query = name.partition("?")
    options = options_of(name, query)
    family, _, architecture = base.partition("/")
    if base.startswith("file:"):
        if options != Options():
            raise NoSuchEmbedder(f"{name}: what a file says of itself is not changed by its name")
        return read(Path(base.removeprefix("file:")))
    if base == EfficientNetLite0.name:
        architecture = "tf_efficientnet_lite0"
        backbone = timm_model(architecture, options.pooling, pretrained=False)
        backbone.model.load_state_dict(_without_classifier())
        own = EfficientNetLite0.own
    elif family == "timm":
        backbone = timm_model(architecture, options.pooling)
        own = backbone.preprocessing
    elif family == "torchvision":
        backbone = torchvision_model(architecture, options.pooling)
        if getattr(backbone.model, "aux_logits", False):
            raise NoSuchEmbedder(f"{name}: it has other heads while it is trained; timm has it without")
        own, architecture = backbone.preprocessing, f"torchvision/{architecture.partition('/')[0]}"
    else:
        raise NoSuchEmbedder(
            f"{name}: only {EfficientNetLite0.name}, models of timm or torchvision, and files can be written to a file"
        )
    header = Header(architecture=architecture, preprocessing=options.apply(own), pooling=options.pooling)
    return Exported(header, backbone)


def _without_classifier() -> dict[str, object]:
    return {key: each for key, each in pretrained().state_dict().items() if not key.startswith("classifier.")}
