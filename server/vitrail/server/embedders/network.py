"""A model on its device: pixels in, vectors out. Everything here needs torch, which is imported when one is made."""

import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitrail.server.embedders.calibration import FixedPrecision, Kept, Trial
from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.server.embedders.recipe import Pooling

if TYPE_CHECKING:
    import torch

Precision: TypeAlias = Literal["auto"] | FixedPrecision
Floats: TypeAlias = NDArray[np.float32]
Pixels: TypeAlias = NDArray[np.uint8]

# Images a forward pass, until what is best was measured. On a CPU the activations of more leave the caches and the rate
# falls: two workers on two cores took 5.0 ms an image by 2 and 6.1 by 8 in bf16, 7.5 and 8.7 in fp32.
CPU_CHUNK = 2
CPU_CHUNKS = 1, 2
GPU_CHUNK = 256
GPU_CHUNKS = 64, 128, 256
# Half precision is used where vectors stay so near to those of full precision, by their cosine.
TOLERANCE = 0.99
# For comparing the two; one forward pass of each is made in any case.
COMPARING_SECONDS = 0.3
PROBES = 1
CPU = "cpu"
GEM_POWER, GEM_LEAST = 3.0, 1e-6


@dataclass(frozen=True, slots=True)
class Projection:
    """What maps pooled features to vectors: (features - mean) @ matrix, float32 [c] and [c, d]."""

    mean: Floats
    matrix: Floats

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.mean.tobytes() + self.matrix.tobytes()).hexdigest()


class Network:
    """A model on its device; called from one thread at a time.

    Where the device has no memory for a batch, it goes on with half as many images at once.
    """

    def __init__(
        self,
        model: "torch.nn.Module",
        preprocessing: Preprocessing,
        *,
        forward: "Callable[[torch.Tensor], torch.Tensor] | None" = None,
        pooling: Pooling = "native",
        prefix_tokens: int = 0,
        projection: Projection | None = None,
        normalise: bool = True,
        threads: int,
        precision: Precision = "auto",
        space: str = "",
    ) -> None:
        """Move a model to the first device.

        Args:
            model: From images, floats [n, 3, side, side], to features [n, c], maps [n, c, h, w] or tokens [n, t, c].
            preprocessing: Where the mean and the deviation of pixels are.
            forward: One of the model's methods, where it is not called itself.
            pooling: How maps and tokens become features.
            prefix_tokens: How many tokens come before those of the image.
            projection: Of the features, if any.
            normalise: Whether vectors are brought to length 1.
            threads: How many the whole process gives to torch. On a CPU each of them is a worker of its own
                (`copies`), unless one photo was measured to be clearly faster where all of them work on it: between
                two layers threads wait for each other, and in a small model that takes longer than the layers.
            precision: "full" is fp32; "half" is fp16 on CUDA and bf16 on a CPU; "auto" is half on CUDA and on a CPU
                that has instructions for bf16, else full.
            space: The embedding space. With it, "auto" takes half only where that was measured to pay and to keep
                vectors within `TOLERANCE`, and the size of a forward pass is measured, too; both are kept.
        """
        import torch

        device = devices()[0]
        self._dtype = torch.float32
        self._model = model.eval().to(
            dtype=torch.float32,
            memory_format=torch.channels_last,  # type: ignore[call-overload] # torch's stubs leave it out here
        )
        self._forward = forward or self._model
        self._mean, self._std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        self._pooling = pooling
        self._prefix_tokens = prefix_tokens
        self._normalise = normalise
        self._projection = projection and (torch.from_numpy(projection.mean), torch.from_numpy(projection.matrix))
        self._move(device)
        self._all_threads = threads
        self._threads = 1
        self._trial: Trial[int] | None = None
        self.chunk = PROBES
        """Images a forward pass."""
        self._kept = None
        if precision == "auto" and space:
            self._kept = Kept(space=space, torch=torch.__version__, device=_name(device), threads=threads)
        choice = self._kept.read() if self._kept else None
        if precision == "auto":
            precision = choice.precision if choice else self._chosen(preprocessing.crop)
        self._precision = precision
        self._cast(precision)
        if choice:
            self._threads = choice.threads
        elif self._kept and device == CPU and threads > 1:
            self._threads = self._chosen_threads(preprocessing.crop)
        usual, sizes = (CPU_CHUNK, CPU_CHUNKS) if device == CPU else (GPU_CHUNK, GPU_CHUNKS)
        self.chunk = choice.chunk if choice and choice.chunk else usual
        self._trial_images = sizes[-1]
        if self._kept and not choice:
            self._kept.write(precision, self._threads)
        if self._kept and not (choice and choice.chunk):
            self._trial = Trial(usual, [size for size in sizes if size != usual])

    def __call__(self, pixels: Pixels) -> Floats:
        """Vectors float32 [n, d] of uint8 [n, side, side, 3], n at least 1."""
        if not self._trial or len(pixels) % self._trial_images:
            return self._embed(pixels)
        size = self.chunk = self._trial.next
        start = time.perf_counter()
        found = self._embed(pixels)
        if self._trial:  # there was memory for it
            self._trial.took(size, (time.perf_counter() - start) / len(pixels))
            self.chunk = self._trial.best
            if self._trial.is_over and self._kept:
                self._kept.write(self._precision, self._threads, self.chunk)
                self._trial = None
        return found

    def _embed(self, pixels: Pixels) -> Floats:
        import torch

        torch.set_num_threads(self._threads)  # of the calling thread
        found: list[torch.Tensor] = []
        start = 0
        with torch.inference_mode():
            while start < len(pixels):
                try:
                    found.append(self._vectors(pixels[start : start + self.chunk]))
                    start += self.chunk
                except torch.OutOfMemoryError:
                    if self.chunk == 1:
                        raise
                    self.chunk //= 2
                    self._trial = None
                    torch.cuda.empty_cache()
            return torch.cat(found).cpu().numpy()

    def copies(self) -> "Sequence[Network]":
        """This one, and one more on each of the other devices; on a CPU one for every so many threads."""
        found = [self]
        for device in devices()[1:]:
            other = copy.deepcopy(self)
            other._move(device)
            found.append(other)
        if self._device == CPU:
            for _ in range(self._all_threads // self._threads - 1):
                other = copy.copy(self)  # the weights are shared
                other._trial = None
                found.append(other)
        return found

    def features(self, pixels: Pixels) -> "torch.Tensor":
        """What the model makes of uint8 [n, side, side, 3]: features, maps or tokens."""
        import torch

        # From pinned memory the host goes on at once, and has the next images ready when these are done.
        images = torch.tensor(pixels, pin_memory=self._device != CPU).to(self._device, non_blocking=True)
        # In place, since a new tensor for each step costs page faults. uint8 [n, h, w, 3] is channels-last memory
        # already: the permuted view needs no copy.
        images = images.float().sub_(self._mean).div_(self._std).to(self._dtype).permute(0, 3, 1, 2)
        found: torch.Tensor = self._forward(images)
        return found

    def _chosen(self, side: int) -> FixedPrecision:
        """Half precision where the device has it, and its vectors are near enough and no slower."""
        if not has_half(self._device):
            return "full"
        if not self._kept:
            return "half"
        half = copy.deepcopy(self)
        half._cast("half")
        networks: dict[FixedPrecision, Network] = {"half": half, "full": self}
        pixels = np.random.default_rng(1).integers(0, 256, (PROBES, side, side, 3), np.uint8)
        trial = Trial[FixedPrecision]("half", ["full"])
        vectors: dict[FixedPrecision, Floats] = {}

        def embed(each: FixedPrecision) -> None:
            vectors[each] = networks[each]._embed(pixels)

        trial.run(embed, COMPARING_SECONDS)
        if not (cosines(vectors["half"], vectors["full"]) >= TOLERANCE).all():  # as where half overflows to NaN
            return "full"
        return trial.best if trial.is_over else "half"

    def _chosen_threads(self, side: int) -> int:
        """All of them where one photo is clearly faster so, or else 1."""
        photo = np.random.default_rng(1).integers(0, 256, (1, side, side, 3), np.uint8)
        self._embed(photo)  # what the first call prepares is no part of it

        def embed(threads: int) -> None:
            self._threads = threads
            self._embed(photo)

        trial = Trial(1, [self._all_threads])
        trial.run(embed, COMPARING_SECONDS)
        return trial.best

    def _cast(self, precision: FixedPrecision) -> None:
        import torch

        half = torch.bfloat16 if self._device == CPU else torch.float16
        self._dtype = half if precision == "half" else torch.float32
        self._model.to(self._dtype)

    def _move(self, device: str) -> None:
        self._device = device
        self._model.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        if self._projection:
            mean, matrix = self._projection
            self._projection = mean.to(device), matrix.to(device)

    def _vectors(self, pixels: Pixels) -> "torch.Tensor":
        import torch

        vectors = pooled(self.features(pixels).float(), self._pooling, self._prefix_tokens)
        if self._projection:
            mean, matrix = self._projection
            vectors = (vectors - mean) @ matrix
        return torch.nn.functional.normalize(vectors) if self._normalise else vectors


def devices() -> Sequence[str]:
    """What there is to embed on: all CUDA devices, or else the CPU."""
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or [CPU]


def has_half(device: str) -> bool:
    """Whether a device computes in half precision itself."""
    import torch

    has = torch.cpu.get_capabilities()
    return device != CPU or bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def pooled(found: "torch.Tensor", pooling: Pooling, prefix_tokens: int = 0) -> "torch.Tensor":
    """Features [n, c] of features, maps [n, c, h, w] or tokens [n, t, c].

    Raises:
        ValueError: There is nothing that could be pooled so.
    """
    if pooling == "native" and found.ndim == 2:
        return found
    if pooling == "class" and found.ndim == 3 and prefix_tokens:
        return found[:, 0]
    if pooling in ("average", "gem") and found.ndim in (3, 4):
        places = found.flatten(2) if found.ndim == 4 else found[:, prefix_tokens:].transpose(1, 2)
        if pooling == "average":
            return places.mean(2)
        powers: torch.Tensor = places.clamp(min=GEM_LEAST).pow(GEM_POWER).mean(2).pow(1 / GEM_POWER)
        return powers
    raise ValueError(f"pooling {pooling!r} is not for what this model makes ({found.ndim} axes)")


def weights_digest(model: "torch.nn.Module") -> str:
    """SHA-256 over the names, types, shapes and bytes of all tensors of a model."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def cosines(some: Floats, others: Floats) -> Floats:
    """Of each row with that of the same place."""
    lengths: Floats = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    cosines: Floats = (some * others).sum(axis=1) / lengths
    return cosines


def _name(device: str) -> str:
    """What a device computes with."""
    import torch

    return json.dumps(dict(torch.cpu.get_capabilities())) if device == CPU else torch.cuda.get_device_name(device)
