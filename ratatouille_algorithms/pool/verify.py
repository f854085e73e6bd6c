"""Whether an ingredient is what its card says, how far it has come, and whether one can go back.

Linear mode connectivity before the fine-tuning on the target (Rame et al. 2023, arXiv 2212.10445,
hypothesis 2, with the foundation as one end): a head is probed on the foundation's features, and
the accuracy under it is measured along the segment from the foundation to the ingredient.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from domainbed import datasets
from domainbed.datasets.base import evaluation_view
from domainbed.engine import rng
from domainbed.engine.evaluator import BATCH_IN_MEMORY, BATCH_OF_FILES
from domainbed.engine.loading import Sequential, is_in_memory
from domainbed.engine.options import Options
from domainbed.engine.run import Run
from domainbed.lib import stored, weights
from domainbed.registry import InputError
from ratatouille_algorithms.pool import network
from ratatouille_algorithms.pool.cards import Card
from ratatouille_algorithms.pool.network import PREFIX, Architecture
from ratatouille_algorithms.pool.pool import Ingredient

POINTS = [i / 10 for i in range(11)]
WEIGHT_DECAY = 1e-4


@dataclass(frozen=True)
class Distance:
    """||ingredient - foundation|| / ||foundation||, of all parameters and of the farthest layer."""

    overall: float
    most: float
    where: str


@dataclass(frozen=True)
class Curve:
    """Accuracies at `POINTS` from the foundation to an ingredient, on n_samples."""

    accs: list[float]
    n_samples: int

    @property
    def worst(self) -> tuple[float, float]:
        """The least of accuracy minus chord, never above the 0 of the ends, and its l."""
        gaps = [acc - chord for acc, chord in zip(self.accs[1:-1], self._chord[1:-1])]
        gaps = [0.0, *gaps, 0.0]
        i = min(range(len(gaps)), key=gaps.__getitem__)
        return gaps[i], POINTS[i]

    @property
    def _chord(self) -> list[float]:
        first, last = self.accs[0], self.accs[-1]
        return [first + lam * (last - first) for lam in POINTS]

    @property
    def error(self) -> float:
        """Two standard errors of an accuracy like the chord's, where the gap is worst."""
        acc = self._chord[POINTS.index(self.worst[1])]
        return 2 * math.sqrt(acc * (1 - acc) / self.n_samples)


def check(ingredient: Ingredient) -> None:
    """Raise `InputError` unless bytes, header, names, shapes and dtypes fit and all is finite.

    Tensors are read only once all of them are known to be what the backbone has.
    """
    ingredient.check_bytes()
    path, provenance = ingredient.weights, {"provenance": ingredient.card.provenance()}
    if stored.read_header(path) != {**provenance, "aliases": {}}:
        raise InputError(f"{path} has more in its header than its card's provenance; refused")
    with weights.opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        found = {n: f"{_torch(s.get_dtype())} {list(s.get_shape())}" for n, s in slices.items()}
        check_layout(found, ingredient.card, path)
        for name in found:
            check_finite(file.get_tensor(name), name, path)


def _torch(dtype: str) -> str:
    """The name in torch of a dtype of safetensors, such as F32, I64, BF16 or BOOL."""
    kinds = {"F": "float", "I": "int", "U": "uint", "BF": "bfloat"}
    match = re.fullmatch("(F|I|U|BF)([0-9]+)", dtype)
    return f"{kinds[match[1]]}{match[2]}" if match else dtype.lower()


def check_layout(found: Mapping[str, str], card: Card, where: object) -> None:
    """Raise `InputError` unless tensors, as `network.describe` has them, are the backbone's.

    The network is laid out without memory, so what a card claims to be cannot take any.
    """
    expected = {PREFIX + n: what for n, what in Architecture.of_card(card).layout().items()}
    odd = sorted(found.keys() ^ expected.keys())
    if odd:
        word = "lacks" if odd[0] in expected else "holds"
        raise InputError(
            f"{where} {word} {odd[0]!r} ({len(odd)} tensors differ); expected those of "
            f"{card.backbone} for inputs of shape {list(card.input_shape)}"
        )
    for name, what in expected.items():
        if found[name] != what:
            raise InputError(f"{where} has {name!r} of {found[name]}; expected {what}")


def check_finite(tensor: torch.Tensor, name: str, where: object) -> None:
    """Raise `InputError` that names a tensor with a number that is not finite."""
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise InputError(f"{where} holds a number that is not finite, in {name!r}; leave it out")


def distance(ingredient: Ingredient, foundation: str | None) -> Distance:
    """How far an ingredient is from its foundation; raises `InputError` if that is another.

    Buffers are left out: running variances would drown the parameters.
    """
    origin = network.foundation_of(ingredient.card, foundation).named_parameters()
    moved, norms, layers = 0.0, 0.0, [(0.0, "")]
    with weights.opened(ingredient.weights) as file:
        for name, parameter in origin:
            start = parameter.detach().double()
            square = float((file.get_tensor(PREFIX + name).double() - start).square().sum())
            norm = float(start.square().sum())
            moved, norms = moved + square, norms + norm
            if start.ndim > 1 and norm:
                layers.append((math.sqrt(square / norm), name))
    return Distance(math.sqrt(moved / norms) if norms else math.inf, *max(layers))


def curves(
    ingredients: Sequence[Ingredient], dataset: str, data_dir: str | None, foundation: str | None
) -> Iterator[tuple[Ingredient, Curve]]:
    """The curve of each ingredient on a dataset that the user has; heads are shared."""
    last, segment = None, None
    for one in ingredients:
        key = (Architecture.of_card(one.card), one.card.foundation.sha256)
        if segment is None or key != last:
            last, segment = key, Segment(one.card, dataset, data_dir, foundation)
        yield one, segment.curve(one)


class Segment:
    """A foundation under a head that was probed on a dataset, and the way to its ingredients."""

    def __init__(
        self, card: Card, dataset: str, data_dir: str | None, foundation: str | None
    ) -> None:
        architecture, height = Architecture.of_card(card), card.input_shape[-1]
        hparams = {**dict(architecture.further), "backbone": card.backbone, "batch_size": 1}
        if len(card.input_shape) == 3 and not datasets.is_small(dataset):
            hparams["image_size"] = height
        options = Options(
            data_dir=data_dir,
            dataset=dataset,
            algorithm="FineTuning",
            hparams=json.dumps(hparams),
            test_envs=(-1,),
            foundation=network.named(card, foundation),
        )
        self.run = Run(options, {})
        shape = tuple(self.run.dataset.input_shape)
        if shape != card.input_shape:
            raise InputError(
                f"{dataset} has inputs of shape {list(shape)}, {card.name} is for "
                f"{list(card.input_shape)}; choose another --dataset to measure on"
            )
        network.foundation_of(card, foundation)
        self.algorithm = self.run.build().eval()
        state = weights.tensors(self.algorithm.featurizer)
        self.start = {n: t.clone() for n, t in state.items() if t.is_floating_point()}
        self._probe()

    def _probe(self) -> None:
        """Fit the head on all training samples, un-augmented, from zero: the same at any time."""
        parts = [self._features(env) for env in self.run.train_envs]
        x, y = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
        head = self.algorithm.classifier
        for parameter in head.parameters():
            torch.nn.init.zeros_(parameter)
        optimizer = torch.optim.LBFGS(
            head.parameters(), max_iter=200, line_search_fn="strong_wolfe"
        )

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            decay = sum(p.square().sum() for p in head.parameters())
            value = F.cross_entropy(head(x), y) + WEIGHT_DECAY * decay
            value.backward()
            return value

        optimizer.step(loss)

    def _features(self, env: int) -> tuple[torch.Tensor, torch.Tensor]:
        environment, keys = evaluation_view(self.run.environments[env]), self.run.splits[env].in_
        in_memory = is_in_memory(environment)
        size, workers = (
            (BATCH_IN_MEMORY, 0) if in_memory else (BATCH_OF_FILES, self.run.num_workers)
        )
        features, labels = [], []
        with rng.preserved(), torch.no_grad():
            for x, y in Sequential(environment, keys, size, env).loader(workers):
                features.append(self.algorithm.featurizer(x.to(self.run.device)))
                labels.append(y.to(self.run.device))
        return torch.cat(features), torch.cat(labels)

    def curve(self, ingredient: Ingredient) -> Curve:
        """Mean accuracy on the domains' out splits at `POINTS`."""
        own = weights.tensors(self.algorithm.featurizer)
        with weights.opened(ingredient.weights) as file:
            end = {n: file.get_tensor(PREFIX + n).to(t.device) for n, t in self.start.items()}
        accs = []
        for lam in POINTS:
            for name, start in self.start.items():
                own[name].copy_(torch.lerp(start, end[name], lam))
            found = self.run.evaluator.evaluate(self.algorithm, self.run.train_envs, ("out",))
            accs.append(self.run.id_score(found))
        return Curve(accs, sum(len(self.run.splits[env].out) for env in self.run.train_envs))
