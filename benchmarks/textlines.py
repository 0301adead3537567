"""Rendered text lines with known text, and greedy CTC decoding, for OCR benchmarks."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

HEIGHT, WIDTH = 48, 320
FONT_FOLDERS = ("/usr/share/fonts/truetype", "/usr/share/fonts/opentype")
# Symbol fonts draw no Latin letters.
_NOT_LATIN = ("symbol", "dingbats", "emoji", "math")

_VOCABULARY = """
the of and to in is that for it was on are as with his they at be this from have or by one had
not but what all were when we there can an your which their said if do will each about how up out
them then she many some so these would other into has more her two like him see time could no make
than first been its who now people my made over did down only way find use may water long little
very after words called just where most know get through back much before go good new write our
used me man too any day same right look think also around another came come work three word must
because does part even place well such here take why things help put years different away again
off went old number great tell men say small every found still between name should home big give
air line set own under read last never us left end along while might next sound below saw
something thought both few those always looked show large often together asked house world going
want school important until form food keep children feet land side without boy once animals life
enough took sometimes four head above kind began almost live page got earth need far hand high
year mother light parts country father let night following picture being study second eyes soon
times story boys since white days ever paper hard near sentence better best across during today
others however sure means knew try told young miles sun ways thing whole hear example heard several
change answer room sea against top turned learn point city play toward five using himself usually
money seen car morning Invoice Total Amount Street Berlin London Order Number Quantity Price Date
"""
_WORDS = _VOCABULARY.split()


@dataclass(frozen=True)
class Line:
    """A rendered line: network input (1, 3, 48, 320) in [-1, 1], and its text."""

    text: str
    tensor: NDArray[np.float32]


def find_fonts() -> list[Path]:
    """Latin TrueType fonts of the system, sorted by file name."""
    found = [
        path
        for folder in FONT_FOLDERS
        for path in sorted(Path(folder).rglob("*"))
        if path.suffix.lower() in (".ttf", ".otf")
        and not any(word in path.name.lower() for word in _NOT_LATIN)
    ]
    return sorted(found, key=lambda path: path.name)


def render_lines(count: int, seed: int, fonts: list[Path]) -> list[Line]:
    """`count` lines of random words, numbers and codes, in random fonts, degraded a little.

    Deterministic for a given seed, font list and Pillow version.
    """
    rng = random.Random(seed)
    lines: list[Line] = []
    while len(lines) < count:
        line = _render(rng, fonts)
        if line is not None:
            lines.append(line)
    return lines


def decode(logits: NDArray[np.float32], characters: list[str]) -> str:
    """Greedy CTC: best class per step, repeats and blanks (class 0) dropped.

    Args:
        logits: (T, classes); class i > 0 is ``characters[i - 1]``, one more class is a space.
    """
    best = logits.argmax(axis=-1)
    kept = [c for i, c in enumerate(best) if c != 0 and (i == 0 or c != best[i - 1])]
    return "".join(characters[c - 1] if c <= len(characters) else " " for c in kept)


def _text(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        words = [rng.choice(_WORDS) for _ in range(rng.randint(2, 4))]
        if rng.random() < 0.3:
            words[0] = words[0].capitalize()
        text = " ".join(words)
        return text + rng.choice(["", "", "", ".", ","])
    if kind < 0.8:
        number = f"{rng.randint(0, 99999)}.{rng.randint(0, 99):02d}"
        return f"{rng.choice(_WORDS)} {number}"
    letters = string.ascii_uppercase + string.digits
    return "-".join("".join(rng.choices(letters, k=rng.randint(3, 5))) for _ in range(3))


def _render(rng: random.Random, fonts: list[Path]) -> Line | None:
    text = _text(rng)
    font = ImageFont.truetype(str(rng.choice(fonts)), rng.randint(24, 34))
    left, top, right, bottom = font.getbbox(text)
    width, height = int(right - left), int(bottom - top)
    if width > WIDTH - 12 or height > HEIGHT - 4:
        return None
    background = rng.randint(150, 255)
    ink = rng.randint(0, 100)
    image = Image.new("L", (WIDTH, HEIGHT), background)
    place = (4 - left + rng.randint(0, 4), (HEIGHT - height) // 2 - top + rng.randint(-2, 2))
    ImageDraw.Draw(image).text(place, text, fill=ink, font=font)
    image = image.rotate(rng.uniform(-1.0, 1.0), Image.Resampling.BILINEAR, fillcolor=background)
    if rng.random() < 0.5:
        scale = rng.uniform(0.4, 0.8)
        small = (round(WIDTH * scale), round(HEIGHT * scale))
        image = image.resize(small, Image.Resampling.BILINEAR).resize((WIDTH, HEIGHT))
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    pixels = np.asarray(image, dtype=np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(pixels.shape)
    pixels = np.clip(pixels + noise * rng.uniform(0.0, 26.0), 0, 255).astype(np.float32)
    tensor = np.repeat((pixels / 127.5 - 1.0)[None, None], 3, axis=1).astype(np.float32)
    return Line(text, np.ascontiguousarray(tensor))
