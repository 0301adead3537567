from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgec.export.datasets import sources
from edgec.export.datasets.images import open_images
from edgec.export.datasets.tensors import open_tensors
from edgec.export.errors import InputError
from edgec.models.preprocess import Preprocess

RNG = np.random.default_rng(0)


def png(seed: int = 0, size: tuple[int, int] = (10, 8), mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def code_of(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.exit_code == 7
    return caught.value.code


# --- what works --------------------------------------------------------------------------------


def test_flat_folder(tmp_path):
    write_folder(tmp_path, ["b.png", "a.PNG", "c.jpg"])
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    images = open_images(tmp_path)
    assert images.kind == "folder"
    assert images.names == ("a.PNG", "b.png", "c.jpg")
    assert images.labels is None
    assert images.ignored == ("notes.txt",)
    assert [image.size for image in images] == [(10, 8)] * 3


def test_class_folders_with_names_and_numbers(tmp_path):
    named = write_folder(tmp_path / "named", ["dog/1.png", "cat/1.png", "dog/2.png"])
    images = open_images(named, labels=True)
    assert images.labels == (0, 1, 1)
    assert images.class_names == ("cat", "dog")
    numbered = write_folder(tmp_path / "numbered", ["0207/1.png", "3/1.png"])
    images = open_images(numbered, labels=True)
    assert images.labels == (207, 3)
    assert images.class_names is None


def test_zip_equals_folder(tmp_path):
    names = ["train/7/x.png", "train/3/y.png", "train/3/z.png"]
    folder = open_images(write_folder(tmp_path / "f", names), labels=True)
    files = {name: (tmp_path / "f" / name).read_bytes() for name in reversed(names)}
    files |= {"__MACOSX/train/3/._y.png": b"junk", "train/readme.md": b"x"}
    zipped = open_images(write_zip(tmp_path / "d.zip", files), labels=True)
    assert zipped.kind == "zip"
    assert zipped.names == folder.names
    assert zipped.labels == folder.labels == (3, 3, 7)
    assert zipped.sha256 == folder.sha256
    assert zipped.ignored == ("train/readme.md",)
    for a, b in zip(zipped, folder, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.zip", "f"]  # nothing extracted


def test_hash_sees_content_labels_and_order(tmp_path):
    base = open_images(write_folder(tmp_path / "a", ["1/x.png", "2/y.png"]))
    assert base.sha256 == open_images(tmp_path / "a").sha256
    hashes = {base.sha256, base.subset([1, 0]).sha256, base.subset([0]).sha256}
    (tmp_path / "a/1/x.png").write_bytes(png(99))
    hashes.add(open_images(tmp_path / "a").sha256)
    (tmp_path / "a/1").rename(tmp_path / "a/5")
    hashes.add(open_images(tmp_path / "a").sha256)
    assert len(hashes) == 5


def test_stratified_limit_is_proportional_deterministic_and_seeded(tmp_path):
    names = [f"{c}/{i}.png" for c, n in ((0, 60), (1, 30), (2, 10)) for i in range(n)]
    files = dict.fromkeys(names, b"never decoded")
    archive = write_zip(tmp_path / "d.zip", files)
    sample = open_images(archive, limit=10, seed=1)
    assert Counter(sample.labels) == {0: 6, 1: 3, 2: 1}
    assert sample.names == open_images(archive, limit=10, seed=1).names
    assert sample.names != open_images(archive, limit=10, seed=2).names
    assert list(sample.names) == sorted(sample.names)
    assert len(open_images(archive, limit=7, seed=3)) == 7
    assert len(open_images(archive, limit=1000)) == 100


def test_tensors_are_preprocessed_batches(tmp_path):
    images = open_images(write_folder(tmp_path, ["a.png", "b.png", "c.png"]))
    preprocess = Preprocess((6, 6), resize="stretch")
    batches = list(images.tensors(preprocess, batch=2))
    assert [b.shape for b in batches] == [(2, 3, 6, 6), (1, 3, 6, 6)]
    assert batches[0].dtype == np.float32
    np.testing.assert_array_equal(batches[0][1], preprocess(list(images)[1]))
    (feed,) = list(images.subset([2]).feeds("image", preprocess))
    np.testing.assert_array_equal(feed["image"], batches[1])


def test_grey_palette_and_alpha_images(tmp_path):
    for mode in ("L", "P", "RGBA", "1", "LA"):
        (tmp_path / f"{mode}.png").write_bytes(png(mode=mode))
    tensors = list(open_images(tmp_path).tensors(Preprocess((8, 10), resize="none")))
    assert {t.shape for t in tensors} == {(1, 3, 8, 10)}


def test_npz_of_pixels(tmp_path):
    pixels = RNG.integers(0, 256, (4, 5, 6, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.array([3, 1, 1, 0]))
    images = open_images(tmp_path / "a.npz", labels=True)
    assert (images.kind, images.labels) == ("npz-images", (3, 1, 1, 0))
    np.testing.assert_array_equal(np.stack([np.asarray(i) for i in images]), pixels)
    np.savez(tmp_path / "b.npz", images=pixels[..., 0])
    assert next(iter(open_images(tmp_path / "b.npz"))).mode == "L"


def test_npz_of_jpegs_with_split(tmp_path):
    files = [png(i) for i in range(5)]
    np.savez(
        tmp_path / "a.npz",
        jpeg=np.frombuffer(b"".join(files), np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=np.arange(5, dtype=np.uint8),
        is_train=np.array([1, 1, 0, 1, 0], bool),
    )
    assert open_images(tmp_path / "a.npz").kind == "npz-jpeg"
    assert open_images(tmp_path / "a.npz", split="train").labels == (0, 1, 3)
    held = open_images(tmp_path / "a.npz", split="validation")
    assert held.labels == (2, 4)
    first = np.asarray(next(iter(held)))
    np.testing.assert_array_equal(first, np.asarray(Image.open(io.BytesIO(files[2]))))


def test_npz_of_network_inputs(tmp_path):
    tensors = RNG.standard_normal((3, 3, 4, 5)).astype(np.float32)
    np.savez(tmp_path / "a.npz", inputs=tensors)
    images = open_images(tmp_path / "a.npz")
    assert images.kind == "npz-tensors"
    (batch,) = images.tensors(Preprocess((4, 5)), batch=3)
    np.testing.assert_array_equal(batch, tensors)
    assert code_of(lambda: list(images)) == "EC773"
    assert code_of(lambda: list(images.tensors(Preprocess((5, 5))))) == "EC776"


def test_skipping_damaged_images_counts_them(tmp_path):
    write_folder(tmp_path, ["a.png", "b.png"])
    (tmp_path / "c.png").write_bytes(png()[:40])
    (tmp_path / "d.png").write_text("not an image")
    images = open_images(tmp_path, on_error="skip")
    assert len(list(images)) == 2
    assert images.skipped == ["c.png", "d.png"]
    assert images.to_json()["skipped"] == 2
    assert [position for position, _ in images.items()] == [0, 1]


# --- what is refused ---------------------------------------------------------------------------


def test_missing_empty_and_other_sources(tmp_path):
    assert code_of(lambda: open_images(tmp_path / "none")) == "EC771"
    (tmp_path / "empty").mkdir()
    assert code_of(lambda: open_images(tmp_path / "empty")) == "EC773"
    (tmp_path / "a.txt").write_text("x")
    assert code_of(lambda: open_images(tmp_path / "a.txt")) == "EC773"
    with pytest.raises(InputError, match=r"(?s)EC773.*a\.txt"):
        open_images(tmp_path)
    write_folder(tmp_path / "ok", ["a.png"])
    assert code_of(lambda: open_images(tmp_path / "ok", labels=True)) == "EC777"


def test_zero_limit(tmp_path):
    assert code_of(lambda: open_images(write_folder(tmp_path, ["a.png"]), limit=0)) == "EC773"


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_damaged_image_is_named(tmp_path, damage):
    write_folder(tmp_path, ["a.png"])
    data = {"truncated": png()[:50], "text": b"hello", "empty": b""}[damage]
    (tmp_path / "broken.png").write_bytes(data)
    images = open_images(tmp_path)
    with pytest.raises(InputError, match=r"(?s)EC772.*broken\.png"):
        list(images)


def test_all_images_damaged(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    assert code_of(lambda: list(open_images(tmp_path, on_error="skip"))) == "EC772"


def test_decompression_bomb(tmp_path):
    """A PNG header that declares 400 megapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    for side in (10_000, 20_000):  # Pillow warns at the first and refuses the second
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        data = (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        )
        (tmp_path / "a.png").write_bytes(data + chunk(b"IEND", b""))
        with pytest.raises(InputError, match=r"(?s)EC772.*too many pixels"):
            list(open_images(tmp_path))


def test_sixteen_bit_image(tmp_path):
    Image.fromarray(RNG.integers(0, 60000, (8, 8), np.uint16)).save(tmp_path / "a.png")
    assert code_of(lambda: list(open_images(tmp_path))) == "EC772"


def test_image_of_wrong_size_without_resize(tmp_path):
    images = open_images(write_folder(tmp_path, ["a.png"]))
    assert code_of(lambda: list(images.tensors(Preprocess((4, 4), resize="none")))) == "EC776"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path):
    write_folder(tmp_path, ["a.png"])
    (tmp_path / "a.png").chmod(0)
    assert code_of(lambda: list(open_images(tmp_path))) == "EC771"


def test_file_that_vanishes(tmp_path):
    images = open_images(write_folder(tmp_path, ["a.png"]))
    (tmp_path / "a.png").unlink()
    assert code_of(lambda: list(images)) == "EC771"


def test_truncated_zip(tmp_path):
    path = write_zip(tmp_path / "d.zip", {"a.png": png()})
    path.write_bytes(path.read_bytes()[:-30])
    assert code_of(lambda: open_images(path)) == "EC770"
    path.write_text("not a zip")
    assert code_of(lambda: open_images(path)) == "EC770"


def test_zip_with_damaged_entry(tmp_path):
    path = write_zip(tmp_path / "d.zip", {"a.png": png(size=(64, 64))})
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)
    assert code_of(lambda: list(open_images(path))) == "EC771"


@pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/etc/a.png"])
def test_zip_that_points_outside(tmp_path, name):
    assert code_of(lambda: open_images(write_zip(tmp_path / "d.zip", {name: png()}))) == "EC770"


def test_zip_bomb(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "d.zip", {"a.png": bytes(5_000_000)})
    with pytest.raises(InputError, match=r"(?s)EC770.*zip bomb"):
        open_images(path)
    monkeypatch.setattr(sources, "MAX_ENTRY_BYTES", 50)
    path = write_zip(tmp_path / "e.zip", {"a.png": png()})
    assert code_of(lambda: open_images(path)) == "EC770"


def test_encrypted_zip(tmp_path):
    path = write_zip(tmp_path / "d.zip", {"a.png": png()})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # central directory
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"(?s)EC770.*encrypted"):
        open_images(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_with_a_name_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("a.png", png(0))
        archive.writestr("a.png", png(1))
    assert code_of(lambda: open_images(tmp_path / "d.zip")) == "EC770"


GOOD = np.zeros((2, 4, 4, 3), np.uint8)
JPEG = np.frombuffer(png() + png(1), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"other": GOOD}, "EC773"),
        ({"images": GOOD[:0]}, "EC773"),
        ({"images": GOOD.astype(np.float32)}, "EC775"),
        ({"images": GOOD[..., :2]}, "EC775"),
        ({"images": np.zeros((2, 3, 4, 4), np.uint8)[:, :, :, :2]}, "EC775"),
        ({"images": GOOD[0, 0]}, "EC775"),
        ({"images": GOOD, "labels": np.zeros(3, int)}, "EC775"),
        ({"images": GOOD, "labels": np.zeros(2, float)}, "EC775"),
        ({"inputs": np.zeros((2, 3, 4, 4))}, "EC775"),
        ({"inputs": np.zeros((2, 3, 4), np.float32)}, "EC775"),
        ({"jpeg": JPEG}, "EC775"),
        ({"jpeg": JPEG, "offsets": np.array([0, 10**9])}, "EC775"),
        ({"jpeg": JPEG, "offsets": np.array([0, 20, 10])}, "EC775"),
        ({"jpeg": JPEG.astype(float), "offsets": np.array([0, 1])}, "EC775"),
        ({"images": np.array([object()])}, "EC774"),
    ],
)
def test_bad_npz(tmp_path, arrays, code):
    np.savez(tmp_path / "a.npz", **arrays)
    assert code_of(lambda: open_images(tmp_path / "a.npz")) == code


def test_damaged_npz(tmp_path):
    np.savez(tmp_path / "a.npz", images=GOOD)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    assert code_of(lambda: open_images(tmp_path / "a.npz")) == "EC774"


def test_split_without_is_train(tmp_path):
    np.savez(tmp_path / "a.npz", images=GOOD)
    assert code_of(lambda: open_images(tmp_path / "a.npz", split="train")) == "EC775"


# --- raw tensors -------------------------------------------------------------------------------


@dataclass
class Spec:
    shape: tuple[int | None, ...]
    dtype: np.dtype


FLOAT = np.dtype(np.float32)
TWO = {"a": Spec((1, 3), FLOAT), "b": Spec((2, None, 4), np.dtype(np.int64))}


def test_tensors_for_several_inputs(tmp_path):
    a = RNG.standard_normal((5, 3)).astype(np.float32)
    b = RNG.integers(0, 9, (10, 7, 4))
    np.savez(tmp_path / "t.npz", a=a, b=b, labels=np.arange(5))
    tensors = open_tensors(tmp_path / "t.npz", TWO)
    assert len(tensors) == 5
    assert tensors.labels == (0, 1, 2, 3, 4)
    feeds = list(tensors)
    assert [f["a"].shape for f in feeds] == [(1, 3)] * 5
    np.testing.assert_array_equal(feeds[2]["b"], b[4:6])
    assert len(open_tensors(tmp_path / "t.npz", TWO, limit=2)) == 2
    assert tensors.sha256 != open_tensors(tmp_path / "t.npz", TWO, limit=2).sha256


def test_tensors_with_an_axis_of_samples(tmp_path):
    values = RNG.standard_normal((5, 1, 3)).astype(np.float32)
    np.save(tmp_path / "t.npy", values)
    tensors = open_tensors(tmp_path / "t.npy", {"a": TWO["a"]})
    np.testing.assert_array_equal(np.stack([f["a"] for f in tensors]), values)


A = np.zeros((4, 3), np.float32)
B = np.zeros((8, 7, 4), np.int64)


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"a": A}, "EC778"),
        ({"a": A, "b": B[:6]}, "EC778"),
        ({"a": A, "b": B, "unused": A}, "EC778"),
        ({"a": A, "b": B, "labels": np.zeros(3, int)}, "EC775"),
        ({"a": A, "b": B[:7]}, "EC778"),
        ({"a": A.astype(np.float64), "b": B}, "EC778"),
        ({"a": A[:, :2], "b": B}, "EC778"),
        ({"a": A[0], "b": B}, "EC778"),
        ({"a": A + np.nan, "b": B}, "EC778"),
        ({"a": A[:0], "b": B[:0]}, "EC773"),
    ],
)
def test_bad_tensors(tmp_path, arrays, code):
    np.savez(tmp_path / "t.npz", **arrays)
    assert code_of(lambda: open_tensors(tmp_path / "t.npz", TWO)) == code


def test_bad_tensor_files(tmp_path):
    assert code_of(lambda: open_tensors(tmp_path / "no.npz", TWO)) == "EC771"
    np.save(tmp_path / "t.npy", A)
    assert code_of(lambda: open_tensors(tmp_path / "t.npy", TWO)) == "EC778"
    (tmp_path / "t.npy").write_text("x")
    assert code_of(lambda: open_tensors(tmp_path / "t.npy", TWO)) == "EC774"
