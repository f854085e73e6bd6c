"""Algorithms on small images, as tests of how featurizers compute want them."""

import torch

from domainbed import algorithms, hparams_registry

SHAPE, N_CLASSES, N_DOMAINS = (3, 28, 28), 3, 3


def build(name):
    """An algorithm whose penalties set in at once, from the same initial weights each time."""
    torch.manual_seed(0)
    hparams = hparams_registry.default_hparams(name, "Debug28")
    at_once = {key: 0 for key in hparams if key.endswith(("anneal_iters", "burnin_iters"))}
    cls = algorithms.get_algorithm_class(name)
    return cls(SHAPE, N_CLASSES, N_DOMAINS, {**hparams, **at_once})
