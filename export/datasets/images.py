"""Sets of images for calibration and evaluation, from folders, zips and npz files.

Order and selection are deterministic: names are sorted, and a limited sample is drawn by a hash
of seed and name, so it does not depend on the machine or on the version of a random generator.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgec.export.datasets.arrays import jpeg_entries, label_array, load_arrays
from edgec.export.datasets.sources import Entry, FolderSource, Source, ZipSource
from edgec.export.errors import InputError
from edgec.models.preprocess import Preprocess

OnError = Literal["raise", "skip"]

# Raster formats only: Pillow can also run interpreters (EPS) or read huge containers.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF")


VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
"""Files whose frames are the images; OpenCV reads them."""


class Decoder(Protocol):
    """Access to the samples of one container by index."""

    def raw(self, index: int) -> bytes:
        """What identifies the sample's content (for the hash)."""
        ...

    def image(self, index: int) -> Image.Image: ...


@dataclass(frozen=True)
class ImageSet:
    """An ordered, immutable selection of images.

    Attributes:
        source: path it was read from.
        kind: ``"folder"``, ``"zip"``, ``"video"``, ``"npz-images"``, ``"npz-jpeg"`` or
            ``"npz-tensors"``.
        names: one per image, unique.
        labels: class index per image, or None.
        class_names: folder names by class index where folders are not numbers.
        ignored: files of the container that are not images by their suffix.
        on_error: ``"skip"`` leaves undecodable images out while iterating (`skipped` counts
            them), ``"raise"`` stops at the first one.
        skipped: names left out by the last complete iteration.
    """

    source: str
    kind: str
    names: tuple[str, ...]
    labels: tuple[int, ...] | None = None
    class_names: tuple[str, ...] | None = None
    ignored: tuple[str, ...] = ()
    on_error: OnError = "raise"
    skipped: list[str] = field(default_factory=list, compare=False)
    _open: Callable[[], Any] = field(default=lambda: None, repr=False, compare=False)
    _indices: tuple[int, ...] = field(default=(), repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Image.Image]:
        for _, image in self.items():
            yield image

    def items(self) -> Iterator[tuple[int, Image.Image]]:
        """Position in `names` (and `labels`) and decoded image.

        Raises:
            InputError: EC771, EC772 unreadable or damaged image (unless skipped), EC773 for a
                container of network inputs, which holds no images.
        """
        self.skipped.clear()
        with self._open() as decoder:
            for position, index in enumerate(self._indices):
                try:
                    image = decoder.image(index)
                except InputError as error:
                    if self.on_error == "raise" or error.code == "EC773":
                        raise
                    self.skipped.append(self.names[position])
                    continue
                yield position, image
        if self.names and len(self.skipped) == len(self.names):
            raise InputError(
                "EC772",
                f"none of the {len(self.names)} images can be decoded",
                where=self.source,
            )

    def tensors(self, preprocess: Preprocess, batch: int = 1) -> Iterator[NDArray[np.float32]]:
        """Preprocessed float32 batches (N, C, H, W); the last one may be smaller.

        Raises:
            InputError: as `items`; EC776, an image or stored tensor does not fit `preprocess`.
        """
        pending: list[NDArray[np.float32]] = []
        for _, tensor in self.samples(preprocess):
            pending.append(tensor)
            if len(pending) == batch:
                yield np.stack(pending)
                pending = []
        if pending:
            yield np.stack(pending)

    def samples(self, preprocess: Preprocess) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Position in `names` and preprocessed tensor (C, H, W)."""
        if self.kind == "npz-tensors":
            channels = 1 if preprocess.channels == "L" else 3
            wanted = (channels, *preprocess.size)
            with self._open() as decoder:
                for position, index in enumerate(self._indices):
                    tensor = decoder.tensor(index)
                    if tensor.shape != wanted:
                        raise InputError(
                            "EC776",
                            f"a stored tensor is {_times(tensor.shape)}",
                            where=f"{self.source}:{self.names[position]}",
                            why=f"the network takes {_times(wanted)}",
                        )
                    yield position, tensor
            return
        for position, image in self.items():
            try:
                yield position, preprocess(image)
            except ValueError as error:
                raise InputError(
                    "EC776",
                    "an image does not fit the network",
                    where=f"{self.source}:{self.names[position]}",
                    why=str(error),
                    fix="give a preprocessing with resize",
                ) from error

    def feeds(
        self, name: str, preprocess: Preprocess, batch: int = 1
    ) -> Iterator[dict[str, NDArray[np.float32]]]:
        """`tensors` as feeds of a network whose one input is called `name`."""
        for tensor in self.tensors(preprocess, batch):
            yield {name: tensor}

    def subset(self, positions: Sequence[int]) -> ImageSet:
        """The images at these positions, in this order."""
        labels = self.labels
        return replace(
            self,
            names=tuple(self.names[i] for i in positions),
            labels=None if labels is None else tuple(labels[i] for i in positions),
            skipped=[],
            _indices=tuple(self._indices[i] for i in positions),
        )

    @cached_property
    def sha256(self) -> str:
        """Hash over names, labels and contents of the selected images, in order."""
        digest = hashlib.sha256()
        with self._open() as decoder:
            for position, index in enumerate(self._indices):
                label = "" if self.labels is None else str(self.labels[position])
                digest.update(f"{self.names[position]}\0{label}\0".encode())
                digest.update(hashlib.sha256(decoder.raw(index)).digest())
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Source, kind, count, hash: what a manifest keeps."""
        return {
            "source": self.source,
            "kind": self.kind,
            "count": len(self),
            "sha256": self.sha256,
            "labelled": self.labels is not None,
            "ignored": len(self.ignored),
            "skipped": len(self.skipped),
        }


def open_images(
    source: str | Path,
    *,
    labels: bool = False,
    limit: int | None = None,
    seed: int = 0,
    on_error: OnError = "raise",
    split: Literal["all", "train", "validation"] = "all",
) -> ImageSet:
    """Open a folder, a zip, an npz file or a video of images.

    Folders and zips: images lie flat or in class folders; the class is the name of the folder
    that directly holds the image. If all are decimal numbers they are the class indices, else
    the sorted names are numbered. npz: ``images`` (uint8, NHWC or NHW); or ``inputs`` (float32
    NCHW, already preprocessed); or ``jpeg`` + ``offsets``; each with optional ``labels``.

    Args:
        source: path.
        labels: labels are required; without it they are given where they are known.
        limit: at most this many images; labelled sets are sampled in proportion to the classes.
        seed: of the sample.
        on_error: what to do with images that cannot be decoded.
        split: for containers with ``is_train``: which part.

    Raises:
        InputError: EC770 bad archive, EC771 unreadable, EC773 no images (what was found is
            listed), EC774, EC775 bad npz, EC777 labels asked for and not there.
        MissingToolError: EC670, a video without OpenCV.
    """
    path = Path(source)
    if not path.exists():
        raise InputError(
            "EC771", "the image source does not exist", where=str(path), fix="check the path"
        )
    if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir() and not labels:
        from edgec.export.datasets.video import open_video

        return open_video(path, limit)
    if path.is_dir():
        opened = _from_files(path, FolderSource(path), on_error)
    elif path.suffix.lower() == ".zip":
        opened = _from_files(path, ZipSource(path), on_error)
    elif path.suffix.lower() == ".npz":
        opened = _from_npz(path, on_error, split)
    else:
        raise InputError(
            "EC773",
            "the image source is neither a folder nor a .zip, .npz or video file",
            where=str(path),
            fix="put the images into a folder",
        )
    if labels and opened.labels is None:
        raise InputError(
            "EC777",
            "the images have no labels",
            where=str(path),
            why="they do not lie in class folders, and there is no labels array",
            fix="sort them into one folder per class, named by the class index",
        )
    if limit is not None and limit < len(opened):
        if limit < 1:
            raise InputError("EC773", f"a limit of {limit} leaves no image", where=str(path))
        opened = opened.subset(_sample(opened, limit, seed))
    return opened


def decode(data: bytes, where: str) -> Image.Image:
    """Decode one image file.

    Raises:
        InputError: EC772, damaged, not an image, too many pixels, or more than 8 bits deep.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # odd EXIF blocks harm nobody
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            "EC772",
            "an image has too many pixels",
            where=where,
            why=str(error),
            fix="scale it down; the network sees a few hundred pixels a side",
        ) from error
    except Exception as error:  # Pillow's plugins raise many classes on damaged data
        raise InputError(
            "EC772",
            "an image cannot be decoded",
            where=where,
            why=str(error),
            fix="remove the file, or let unreadable images be skipped",
        ) from error
    if image.mode.startswith(("I", "F")):
        raise InputError(
            "EC772",
            f"an image has mode {image.mode}",
            where=where,
            why="only 8 bits per channel are supported",
            fix="convert it to 8 bits",
        )
    return image


def _from_files(path: Path, source: Source, on_error: OnError) -> ImageSet:
    if not source.entries:
        found = ", ".join(source.ignored[:5]) + (", …" if len(source.ignored) > 5 else "")
        raise InputError(
            "EC773",
            "no images found",
            where=str(path),
            why=f"only {found}" if found else "it is empty",
            fix="give a folder or zip with .jpg or .png files",
        )
    labels, class_names = _folder_labels([e.folder for e in source.entries])
    return ImageSet(
        source=str(path),
        kind=source.kind,
        names=tuple(e.name for e in source.entries),
        labels=labels,
        class_names=class_names,
        ignored=tuple(source.ignored),
        on_error=on_error,
        _open=lambda: _FileDecoder(source, str(path)),
        _indices=tuple(range(len(source.entries))),
    )


def _folder_labels(
    folders: Sequence[str],
) -> tuple[tuple[int, ...] | None, tuple[str, ...] | None]:
    if not all(folders):
        return None, None  # some images lie flat
    if all(f.isascii() and f.isdigit() for f in folders):
        return tuple(int(f) for f in folders), None
    classes = sorted(set(folders))
    return tuple(classes.index(f) for f in folders), tuple(classes)


class _FileDecoder:
    def __init__(self, source: Source, where: str) -> None:
        self._entries: Sequence[Entry] = source.entries
        self._context = source.reader()
        self._where = where

    def __enter__(self) -> _FileDecoder:
        self._read = self._context.__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        self._context.__exit__(*args)

    def raw(self, index: int) -> bytes:
        return self._read(self._entries[index])

    def image(self, index: int) -> Image.Image:
        entry = self._entries[index]
        return decode(self._read(entry), f"{self._where}:{entry.name}")


def _from_npz(path: Path, on_error: OnError, split: str) -> ImageSet:
    arrays = load_arrays(path)
    kind, count, decoder = _array_decoder(arrays, path)
    if count == 0:
        raise InputError("EC773", "no images found", where=str(path), why="the arrays are empty")
    labels = label_array(arrays, count, path)
    opened = ImageSet(
        source=str(path),
        kind=kind,
        names=tuple(f"{i:08d}" for i in range(count)),
        labels=None if labels is None else tuple(labels),
        on_error=on_error,
        _open=lambda: decoder,
        _indices=tuple(range(count)),
    )
    if split == "all":
        return opened
    is_train = arrays.get("is_train")
    if is_train is None or is_train.shape != (count,):
        raise InputError("EC775", "there is no is_train array to split by", where=str(path))
    chosen = np.flatnonzero(is_train.astype(bool) == (split == "train"))
    return opened.subset([int(i) for i in chosen])


def _array_decoder(arrays: dict[str, NDArray[Any]], path: Path) -> tuple[str, int, _ArrayDecoder]:
    if "jpeg" in arrays:
        cuts = jpeg_entries(arrays, path)
        jpeg = arrays["jpeg"]
        return "npz-jpeg", len(cuts) - 1, _JpegDecoder(jpeg, cuts, str(path))
    if "images" in arrays:
        images = arrays["images"]
        grey = images.ndim == 3
        if images.dtype != np.uint8 or not (grey or images.ndim == 4):
            raise InputError(
                "EC775",
                f"images has dtype {images.dtype} and shape {_times(images.shape)}",
                where=str(path),
                why="uint8 N×H×W×C or N×H×W is needed",
            )
        if not grey and images.shape[3] not in (1, 3, 4):
            raise InputError(
                "EC775",
                f"images has {images.shape[3]} channels",
                where=str(path),
                why="1, 3 or 4 are possible, as the last dimension",
            )
        return "npz-images", len(images), _PixelDecoder(images, str(path))
    if "inputs" in arrays:
        tensors = arrays["inputs"]
        if tensors.dtype != np.float32 or tensors.ndim != 4:
            raise InputError(
                "EC775",
                f"inputs has dtype {tensors.dtype} and shape {_times(tensors.shape)}",
                where=str(path),
                why="float32 N×C×H×W is needed",
            )
        return "npz-tensors", len(tensors), _StoredTensors(tensors, str(path))
    raise InputError(
        "EC773",
        "no images found",
        where=str(path),
        why=f"the arrays are {', '.join(sorted(arrays)) or 'none'}",
        fix="name the array images (uint8 NHWC), inputs (float32 NCHW), or jpeg and offsets",
    )


class _ArrayDecoder:
    """Samples of an array in memory; the file is closed already."""

    def __init__(self, data: NDArray[Any], where: str) -> None:
        self._data = data
        self._where = where

    def __enter__(self) -> _ArrayDecoder:
        return self

    def __exit__(self, *args: object) -> None:
        return None

    def raw(self, index: int) -> bytes:
        sample: NDArray[Any] = np.ascontiguousarray(self._data[index])
        return f"{sample.dtype}{sample.shape}".encode() + sample.tobytes()

    def image(self, index: int) -> Image.Image:
        raise InputError(
            "EC773",
            "the file holds network inputs, not images",
            where=f"{self._where}:{index:08d}",
        )

    def tensor(self, index: int) -> NDArray[np.float32]:
        return np.asarray(self._data[index], dtype=np.float32)


class _StoredTensors(_ArrayDecoder):
    pass


class _PixelDecoder(_ArrayDecoder):
    def image(self, index: int) -> Image.Image:
        pixels = self._data[index]
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[:, :, 0]
        return Image.fromarray(pixels)


class _JpegDecoder(_ArrayDecoder):
    def __init__(self, data: NDArray[np.uint8], cuts: NDArray[np.int64], where: str) -> None:
        super().__init__(data, where)
        self._cuts = cuts

    def raw(self, index: int) -> bytes:
        piece: NDArray[np.uint8] = self._data[self._cuts[index] : self._cuts[index + 1]]
        return piece.tobytes()

    def image(self, index: int) -> Image.Image:
        return decode(self.raw(index), f"{self._where}:{index:08d}")


def _sample(images: ImageSet, limit: int, seed: int) -> list[int]:
    """Positions of a sample, in proportion to the classes, in the set's order."""

    def rank(position: int) -> bytes:
        return hashlib.sha256(f"{seed}\0{images.names[position]}".encode()).digest()

    classes: dict[int, list[int]] = defaultdict(list)
    for position in range(len(images)):
        classes[0 if images.labels is None else images.labels[position]].append(position)
    ranked = {c: sorted(members, key=rank) for c, members in classes.items()}
    # largest remainders: whole shares first, then the classes that lost most by rounding down
    share = {c: limit * len(members) / len(images) for c, members in classes.items()}
    quota = {c: int(share[c]) for c in classes}
    order = sorted(classes, key=lambda c: (quota[c] - share[c], rank(ranked[c][0])))
    for c in order[: limit - sum(quota.values())]:
        quota[c] += 1
    return sorted(p for c, members in ranked.items() for p in members[: quota[c]])


def _times(shape: Sequence[int]) -> str:
    return "×".join(str(d) for d in shape)
