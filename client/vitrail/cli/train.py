"""`vitrail train`: fine-tune an embedder on labelled photos, to a file that a server embeds with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitrail.cli.common import AsJson, fail, needs, print_json, print_table
from vitrail.client import VitrailError

if TYPE_CHECKING:
    from vitrail.training.curves import Epoch


def train(
    photos: Annotated[str, typer.Argument(help="A folder of train/CLASS and validation/CLASS, or a table (.csv).")],
    out: Annotated[Path, typer.Option(help="The folder of the run; one that is there already goes on.")],
    folder: Annotated[Path | None, typer.Option(help="What paths in a table are relative to, if not its own.")] = None,
    embedder: Annotated[
        str | None, typer.Option(help="Where to start: the default one, timm/MODEL, torchvision/MODEL or file:PATH.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="A larger one whose vectors it is to learn: file:PATH.")] = None,
    loss: Annotated[
        str | None, typer.Option(help="cross-entropy, arcface, proxy-anchor, triplet or contrastive.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or sgd.")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many.")] = None,
    batch: Annotated[int | None, typer.Option(help="Photos a step.")] = None,
    per_class: Annotated[int | None, typer.Option(help="Of one class together, for triplet and contrastive.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the backbone, at its highest.")] = None,
    head_rate: Annotated[float | None, typer.Option(help="Of the loss's own parameters.")] = None,
    weight_decay: Annotated[float | None, typer.Option()] = None,
    warm_up: Annotated[float | None, typer.Option(help="Epochs in which the rates rise.")] = None,
    freeze: Annotated[
        int | None, typer.Option(help="Stages of the backbone that stay as they are; half if not given.")
    ] = None,
    augmentation: Annotated[str | None, typer.Option(help="none, light, or strong (RandAugment).")] = None,
    least_area: Annotated[float | None, typer.Option(help="The smallest share of a photo that a crop keeps.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, full or half.")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without a better mAP, after which it stops.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same one makes the same model.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode and augment.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune an embedder on photos of the train split, and export the best on the validation split; asks no server.

    Run it again with the same --out and it goes on where it was. A server embeds with the file at once:
    VITRAIL_EMBEDDERS=file:OUT/model.safetensors. What is not given is left to the defaults, which suit most photos.
    """
    given: dict[str, Any] = {
        name: value
        for name, value in locals().items()
        if name not in ("photos", "out", "folder", "workers", "as_json") and value is not None
    }
    try:
        from pydantic import ValidationError

        from vitrail.server.embedders.hub import NoSuchEmbedder
        from vitrail.training.fine_tuning import fine_tune
        from vitrail.training.photos import read_photos
        from vitrail.training.settings import Settings
    except ImportError as error:
        needs("train", error)
    try:
        trained = fine_tune(
            read_photos(photos, folder), Settings(**given), out, workers=workers, progress=True, told=_tell
        )
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}")
    except (VitrailError, NoSuchEmbedder, OSError) as error:
        fail(str(error))
    if as_json:
        print_json({**trained._asdict(), "model": str(trained.model)})
        return
    if trained.failed:
        print_table(["file", "why"], [(error.path, error.message) for error in trained.failed])
    start, best = trained.start, trained.best
    print_table(
        ["", "mAP", "P@10"],
        [
            ("before", start.mean_average_precision, start.precision_at_10),
            (f"after epoch {best.epoch}", best.mean_average_precision, best.precision_at_10),
        ],
        title="on the validation split",
    )
    typer.echo(f"serve it with VITRAIL_EMBEDDERS=file:{trained.model}")


def _tell(epoch: "Epoch") -> None:
    loss = "" if epoch.loss is None else f"loss {epoch.loss:.4f}, {epoch.photos / epoch.seconds:.1f} photos/s, "
    retrieval = f"mAP {epoch.mean_average_precision:.4f}, P@10 {epoch.precision_at_10:.4f}"
    typer.echo(f"epoch {epoch.epoch}: {loss}{retrieval}", err=True)
