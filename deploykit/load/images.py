"""A folder of images, decoded when a batch is asked for.

Sub-folders are classes, in the order of their names; a folder without sub-folders has images
without labels. The options are those of most image classifiers: resize the shorter side, cut out
the centre, scale to 0..1, subtract the mean and divide by the standard deviation. The geometry is
that of torchvision's `Resize` and `CenterCrop` on Pillow images (bilinear, with antialiasing).
"""

from __future__ import annotations

import hashlib
import struct
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from deploykit.core.errors import BadInputError, nearest
from deploykit.core.records import sha256_of
from deploykit.core.types import Preprocessing
from deploykit.load.data import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
COLORS = {"RGB": 3, "L": 1}
OPTIONS = ("color", "crop", "mean", "resize", "std")
# Pillow's modes with more than 8 bits a channel; converting them to 8 would clip.
_DEEP_MODES = ("I", "F")


@dataclass(frozen=True, slots=True, eq=False)
class ImageFolder:
    """Image files with the class of each.

    Attributes:
        name: see `deploykit.load.data.Data`.
        folder: that the files are in.
        files: relative to it, in order.
        targets: numbers of the classes, or `None` where there are none.
        labels: names of the classes, or empty.
        preprocessing: what `batch` does.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    targets: NDArray[np.int64] | None
    labels: tuple[str, ...]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Images as float32 NCHW under the name "x", and their classes as int64.

        Raises:
            BadInputError: an image cannot be read, or they are not all of one size.
        """
        images = [self._image(self.files[row]) for row in rows]
        for image, row in zip(images, rows, strict=True):
            if image.shape != images[0].shape:
                raise BadInputError(
                    f"{self.folder / self.files[row]} is {_size_text(image)} and "
                    f"{self.files[rows[0]]} is {_size_text(images[0])}; make them of one size: "
                    "?resize=256&crop=224"
                )
        targets = None if self.targets is None else self.targets[list(rows)]
        return Batch({"x": np.stack(images)}, targets)

    def digest(self) -> str:
        """SHA-256 of the files, their classes and the preprocessing."""
        total = hashlib.sha256(repr(self.preprocessing).encode())
        classes = [-1] * len(self) if self.targets is None else self.targets.tolist()
        for file, number in zip(self.files, classes, strict=True):
            total.update(f"{file} {number} {sha256_of(self.folder / file)}\n".encode())
        return total.hexdigest()

    def only(self, rows: range, name: str) -> ImageFolder:
        """Some of the images, so that the digest of a few need not read all."""
        return replace(
            self,
            name=name,
            files=tuple(self.files[row] for row in rows),
            targets=None if self.targets is None else self.targets[list(rows)],
        )

    def _image(self, file: str) -> NDArray[np.float32]:
        done = self.preprocessing
        pixels = _decoded(self.folder / file, done)
        scaled = pixels.astype(np.float32) * np.float32(done.scale)
        if done.mean:
            mean = np.asarray(done.mean, dtype=np.float32)
            std = np.asarray(done.std, dtype=np.float32)
            scaled = (scaled - mean) / std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def open_images(folder: Path, options: Mapping[str, str], name: str) -> ImageFolder:
    """The images of a folder; see the module.

    Args:
        folder: that holds them.
        options: as written after "?": resize, crop, mean, std, color.
        name: of the data set.

    Raises:
        BadInputError: an option cannot be understood, or there are no images, or a class has
            none, or images lie both in sub-folders and beside them.
    """
    preprocessing = _preprocessing(options, name)
    folders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    beside = [path.name for path in sorted(folder.iterdir()) if _is_image(path)]
    if not folders:
        if not beside:
            raise BadInputError(f"{folder} has no images ({', '.join(sorted(SUFFIXES))})")
        return ImageFolder(name, folder, tuple(beside), None, (), preprocessing)
    if beside:
        raise BadInputError(
            f"{folder} has images beside its sub-folders ({beside[0]}) and classes are "
            "sub-folders; move them into one"
        )
    files: list[str] = []
    targets: list[int] = []
    for number, path in enumerate(folders):
        found = sorted(p.relative_to(folder).as_posix() for p in path.rglob("*") if _is_image(p))
        if not found:
            raise BadInputError(
                f"class {path.name!r} of {folder} has no images: add some, or give another folder"
            )
        files += found
        targets += [number] * len(found)
    labels = tuple(path.name for path in folders)
    return ImageFolder(
        name, folder, tuple(files), np.asarray(targets, dtype=np.int64), labels, preprocessing
    )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _preprocessing(options: Mapping[str, str], name: str) -> Preprocessing:
    for key in options:
        if key not in OPTIONS:
            raise BadInputError(f"data {name} has no option {key!r}{nearest(key, OPTIONS)}")
    color = options.get("color", "RGB")
    if color not in COLORS:
        raise BadInputError(f"data {name}: color is {color!r}; write RGB or L")
    mean = _numbers(options, "mean", name)
    std = _numbers(options, "std", name)
    for key, values in (("mean", mean), ("std", std)):
        if values and len(values) not in {1, COLORS[color]}:
            raise BadInputError(
                f"data {name}: {key} has {len(values)} numbers for {COLORS[color]} channels"
            )
    if bool(mean) != bool(std):
        raise BadInputError(f"data {name}: give mean and std together, or neither")
    if any(value <= 0 for value in std):
        raise BadInputError(f"data {name}: std must be above 0, not {options['std']}")
    resize = _sizes(options, "resize", name)
    crop = _sizes(options, "crop", name)
    if len(resize) > 1:
        raise BadInputError(f"data {name}: resize is the shorter side, one number")
    size = (crop[0], crop[-1]) if crop else None
    return Preprocessing(
        color=color, mean=mean, std=std, resize=resize[0] if resize else None, crop=size
    )


def _numbers(options: Mapping[str, str], key: str, name: str) -> tuple[float, ...]:
    if key not in options:
        return ()
    try:
        values = tuple(float(part) for part in options[key].split(","))
    except ValueError:
        values = (float("nan"),)
    if not np.isfinite(values).all():
        raise BadInputError(
            f"data {name}: {key} is {options[key]!r}; write numbers like 0.485,0.456,0.406"
        )
    return values


def _sizes(options: Mapping[str, str], key: str, name: str) -> tuple[int, ...]:
    if key not in options:
        return ()
    parts = options[key].split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise BadInputError(
            f"data {name}: {key} is {options[key]!r}; write pixels like 224, or 224x320 for "
            "height and width"
        )
    return tuple(int(part) for part in parts)


def _decoded(path: Path, done: Preprocessing) -> NDArray[np.uint8]:
    """Pixels of shape [height, width, channels]."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd but readable files; only the bomb is for us to refuse.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.mode.split(";")[0] in _DEEP_MODES:
                    raise BadInputError(f"{path} has more than 8 bits a channel; convert it first")
                plain = image.convert(done.color)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInputError(f"{path} is too large to decode safely: {error}") from error
    except (OSError, EOFError, SyntaxError, ValueError, struct.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInputError(f"cannot read the image {path}: {reason}") from error
    if done.resize is not None:
        plain = _resized(plain, done.resize)
    if done.crop is not None:
        plain = _cropped(plain, done.crop, path)
    return np.asarray(plain, dtype=np.uint8).reshape(plain.height, plain.width, -1)


def _resized(image: Image.Image, shorter: int) -> Image.Image:
    """The longer side is rounded down, as torchvision does."""
    width, height = image.size
    least = min(width, height)
    size = (shorter * width // least, shorter * height // least)
    return image.resize(size, Image.Resampling.BILINEAR)


def _cropped(image: Image.Image, size: tuple[int, int], path: Path) -> Image.Image:
    height, width = size
    if image.height < height or image.width < width:
        raise BadInputError(
            f"{path} is {image.height}x{image.width}, less than the crop of {height}x{width}; "
            "give a larger resize"
        )
    top = round((image.height - height) / 2)
    left = round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def _size_text(image: NDArray[np.float32]) -> str:
    return f"{image.shape[1]}x{image.shape[2]}"
