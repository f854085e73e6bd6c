"""A foundation for digits: MNIST_CNN trained to tell printed letters apart.

Letters are rendered from the fonts that matplotlib ships; there is no digit among them.
"""

from __future__ import annotations

import logging
import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from domainbed.datasets.digits import affine
from domainbed.engine import rng
from domainbed.lib import weights
from domainbed.networks.small import MNIST_CNN

logger = logging.getLogger(__name__)

LETTERS = string.ascii_uppercase + "".join(
    c for c in string.ascii_lowercase if c not in "closuvwxz"
)
"""Letters that look like others are left out: c, o, s ... like their capitals, and l like I."""
SIZE = 28
_SYMBOLS = (
    "cmex",
    "cmmi",
    "cmsy",
    "STIXNonUni",
    "STIXSiz",
    "LastResort",
    "DejaVuSansDis",
    "DejaVuSerifDis",
)


def font_files() -> list[Path]:
    """matplotlib's fonts that have letters, in order of their names."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [p for p in sorted(folder.glob("*.ttf")) if not p.name.startswith(_SYMBOLS)]


def render(font: Path) -> np.ndarray:
    """All letters of a font in a 20 x 20 box: (n_letters, 28, 28) floats in [0, 1], ink 1."""
    from PIL import Image, ImageDraw, ImageFont

    face = ImageFont.truetype(str(font), 96)
    glyphs = []
    for letter in LETTERS:
        canvas = Image.new("L", (200, 200))
        ImageDraw.Draw(canvas).text((40, 30), letter, fill=255, font=face)
        glyph = canvas.crop(canvas.getbbox())
        scale = 20 / max(glyph.size)
        width, height = (max(2, round(side * scale)) for side in glyph.size)
        picture = Image.new("L", (SIZE, SIZE))
        resized = glyph.resize((width, height), Image.Resampling.BILINEAR)
        picture.paste(resized, ((SIZE - width) // 2, (SIZE - height) // 2))
        glyphs.append(np.asarray(picture) / 255.0)
    return np.stack(glyphs)


def vary(image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Turn, shear, scale and shift a letter a little; blur it like a scan of 8 x 8 now and then."""
    from PIL import Image

    shown = affine(
        image,
        angle=random.uniform(-15, 15),
        scale=random.uniform(0.8, 1.1),
        shear=random.uniform(-0.2, 0.2),
        shift=tuple(random.uniform(-2, 2, 2)),
    )
    if random.uniform() < 0.5:
        box = Image.fromarray(shown[4:24, 4:24]).resize((8, 8), Image.Resampling.BOX)
        shown = np.pad(np.asarray(box.resize((20, 20), Image.Resampling.BICUBIC)), 4)
    return np.clip(shown * random.uniform(0.8, 1.4), 0, 1)


def batch(glyphs: np.ndarray, n: int, random: np.random.RandomState) -> tuple[Any, Any]:
    """n varied letters of glyphs (fonts, letters, 28, 28): x (n, 1, 28, 28) and y (n,)."""
    fonts, letters = random.randint(len(glyphs), size=n), random.randint(len(LETTERS), size=n)
    images = [vary(glyphs[f, c], random) for f, c in zip(fonts, letters)]
    return torch.from_numpy(np.stack(images)).float().unsqueeze(1), torch.from_numpy(letters)


def make(path: Path, n_steps: int, seed: int, batch_size: int = 64) -> float:
    """Train and write the featurizer; return the accuracy on fonts that were held out."""
    fonts = font_files()
    glyphs = np.stack([render(font) for font in fonts])
    held_out = np.arange(len(fonts)) % 5 == 0
    rng.seed_all(seed)
    featurizer = MNIST_CNN((1, SIZE, SIZE)).to(memory_format=torch.channels_last)
    network = nn.Sequential(featurizer, nn.Linear(featurizer.n_outputs, len(LETTERS)))
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    random = np.random.RandomState(seed)
    with tqdm(range(n_steps), unit="step", disable=None) as progress:
        for _ in progress:
            x, y = batch(glyphs[~held_out], batch_size, random)
            loss = F.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    with torch.no_grad():
        x, y = batch(glyphs[held_out], 1000, np.random.RandomState(seed + 1))
        accuracy = float((network(x).argmax(1) == y).float().mean())
    header = {
        "made_by": "python -m domainbed.scripts.make_letters",
        "task": f"{len(LETTERS)} printed letters, no digits",
        "fonts": [font.name for font in fonts],
        "steps": n_steps,
        "seed": seed,
        "held_out_font_accuracy": accuracy,
    }
    weights.save(path, weights.tensors(featurizer), header)
    return accuracy
