"""Augmentation on tensors against torchvision's on PIL images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as pil

from domainbed.datasets import augmentation
from domainbed.datasets.images import IMAGENET_MEAN, IMAGENET_STD

SIZE, N_DRAWS = 32, 400
TO_TENSOR = [
    v2.ToImage(),
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    v2.ToPureTensor(),
]


@pytest.fixture(scope="module")
def photo():
    """Colours that change to the right and downwards, so that crops and flips show; (70, 90, 3)."""
    rng = np.random.RandomState(0)
    y, x = np.mgrid[:70, :90] / 90
    planes = [0.2 + 0.5 * x, 0.8 - 0.7 * y, 0.3 + 0.3 * x * y + 0.1 * rng.rand(70, 90)]
    return (255 * np.stack(planes, 2)).astype(np.uint8)


def levels(image):
    """A PIL image as float32 (3, h, w)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().contiguous()


def test_evaluation_equals_pil(photo):
    from domainbed.datasets.decoding import Resized

    expected = v2.Compose([v2.Resize((SIZE, SIZE)), *TO_TENSOR])(Image.fromarray(photo))
    assert torch.equal(augmentation.to_input(Resized([photo], SIZE)[0]), expected)


@pytest.mark.parametrize("factor", [0.7, 0.93, 1.3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_adjustments_equal_pils(name, factor, photo):
    image = Image.fromarray(photo)
    ours = getattr(augmentation, f"adjust_{name}")(levels(image), factor)
    difference = (ours - levels(getattr(pil, f"adjust_{name}")(image, factor))).abs()
    assert difference.max() <= 1 and difference.mean() < 0.002


@pytest.mark.parametrize("turns", [-0.3, -0.1, 0.02, 0.3])
def test_hue_equals_that_of_tensors_and_is_near_pils(turns, photo):
    image = Image.fromarray(photo)
    ours = augmentation.adjust_hue(levels(image), turns)
    exact = pil.adjust_hue(levels(image) / 255, turns) * 255
    assert (ours - exact).abs().max() < 0.01
    assert (ours - levels(pil.adjust_hue(image, turns))).abs().mean() < 2
    grey = torch.full((3, 4, 4), 77.0)
    assert torch.equal(augmentation.adjust_hue(grey.clone(), turns), grey)


def test_crops_are_within_a_level_of_pils(photo):
    image = torch.from_numpy(photo).permute(2, 0, 1)[:, 3:60, 5:80]
    expected = levels(pil.resized_crop(Image.fromarray(photo), 3, 5, 57, 75, [SIZE, SIZE]))
    difference = (augmentation.crop(image, SIZE, is_flipped=False) - expected).abs()
    assert difference.max() <= 1 and difference.mean() < 0.05
    flipped = augmentation.crop(image, SIZE, is_flipped=True)
    assert torch.equal(flipped.flip(2), augmentation.crop(image, SIZE, is_flipped=False))


def test_a_sample_follows_from_the_seed(photo):
    def draw(seed):
        torch.manual_seed(seed)
        return augmentation.augmented(photo, SIZE)

    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))
    assert draw(0).shape == (3, SIZE, SIZE) and draw(0).dtype == torch.float32


def statistics(draw):
    """What crop, flip, jitter and grey change, of each of many draws (n_draws, n_statistics)."""
    rows = []
    for _ in range(N_DRAWS):
        x = draw().double() * torch.tensor(IMAGENET_STD).view(3, 1, 1)
        x += torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        red, green, blue = x
        luma, chroma = x.mean(0), x.amax(0) - x.amin(0)
        across, down = luma.mean(0).diff(), luma.mean(1).diff()
        colour = [chroma.mean(), chroma.std(), (red - green).mean(), (green - blue).mean()]
        slopes = [across.mean(), across.abs().mean(), down.mean(), down.std()]
        is_grey = float(chroma.max() < 0.01)
        rows.append([luma.mean(), luma.std(), *colour, *slopes, is_grey, x.amax(), x.amin()])
    return np.array(rows)


def least_p(one, two):
    """The least p value, over statistics, that two samples are of one distribution."""
    from scipy.stats import ks_2samp

    return min(ks_2samp(a, b).pvalue for a, b in zip(one.T, two.T))


@pytest.fixture(scope="module")
def public(photo):
    """Statistics of DomainBed's augmentation."""
    steps = [
        v2.RandomResizedCrop(SIZE, scale=(0.7, 1.0)),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.3, 0.3, 0.3, 0.3),
        v2.RandomGrayscale(0.1),
    ]
    transform, image = v2.Compose([*steps, *TO_TENSOR]), Image.fromarray(photo)
    torch.manual_seed(0)
    return statistics(lambda: transform(image))


def test_distributions_are_domainbeds(photo, public):
    torch.manual_seed(1)
    ours = statistics(lambda: augmentation.augmented(photo, SIZE))
    assert least_p(ours, public) > 0.001
    error = np.sqrt((ours.var(0) + public.var(0)) / N_DRAWS)
    assert (np.abs(ours.mean(0) - public.mean(0)) < 3.5 * error).all()
    assert (np.abs(np.log(ours.std(0) / public.std(0))) < 0.2).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("SCALE", (0.4, 1.0)), ("JITTER", 0.2), ("GREY_CHANCE", 0.3), ("chance", lambda p: p > 0.4)],
)
def test_other_distributions_are_told_from_domainbeds(name, value, photo, public, monkeypatch):
    monkeypatch.setattr(augmentation, name, value)
    torch.manual_seed(1)
    assert least_p(statistics(lambda: augmentation.augmented(photo, SIZE)), public) < 1e-4
