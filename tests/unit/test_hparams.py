import json

import pytest

from domainbed import hparams_registry as h
from domainbed.algorithms import REGISTRY
from domainbed.lib.seeds import seed_hash
from domainbed.registry import InputError


def test_golden_defaults_and_draws(golden):
    for algorithm, by_dataset in golden["default_hparams"].items():
        if algorithm in REGISTRY:
            for dataset, expected in by_dataset.items():
                assert h.default_hparams(algorithm, dataset) == expected
    for algorithm, by_dataset in golden["random_hparams"].items():
        if algorithm in REGISTRY:
            for dataset, by_seed in by_dataset.items():
                for seed, expected in by_seed.items():
                    drawn = h.random_hparams(algorithm, dataset, seed_hash(int(seed), 0))
                    assert drawn == expected


def test_all_values_are_plain():
    for seed in range(1, 30):
        for value in h.random_hparams("InterTraining", "PACS", seed).values():
            assert type(value) in (bool, int, float, str)


def test_mild_draws_of_the_paper():
    first = [(5e-5, 0, 0), (3e-5, 1e-4, 0.5), (1e-5, 1e-6, 0.5), (3e-5, 1e-6, 0), (1e-5, 1e-6, 0)]
    last = [(5e-5, 1e-4, 0.1), (5e-5, 1e-6, 0), (3e-5, 1e-6, 0)]
    drawn = [h.resolve("FineTuning", "PACS", seed_hash(k, 0) if k else None, {}) for k in range(20)]
    seen = [(d["lr"], d["weight_decay"], d["resnet_dropout"]) for d in drawn]
    assert seen[:5] == first
    assert seen[-3:] == last
    assert {d["batch_size"] for d in drawn} == {32}
    assert {(d["freeze_bn"], d["resnet50_augmix"]) for d in drawn} == {(True, False)}


def test_a_draw_depends_on_seed_and_name_alone():
    alone = h.HParam("lr", 1e-3, lambda r: r.uniform(0, 1)).sample(7)
    assert alone == h.HParam("lr", 5.0, lambda r: r.uniform(0, 1)).sample(7)
    assert alone != h.HParam("lr2", 1e-3, lambda r: r.uniform(0, 1)).sample(7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"lrr": 1}', "Unknown hparam 'lrr'. Did you mean 'lr'"),
        ('{"resnet18": "True"}', "expected true or false, such as false"),
        ('{"batch_size": 1.5}', "expected an integer of at least 1, such as 32"),
        ('{"batch_size": true}', "expected an integer of at least 1"),
        ('{"lr": "0.1"}', "expected a number above 0"),
        ("{lr: 1}", "not JSON"),
        ("[1]", "expected a JSON object"),
    ],
)
def test_wrong_overrides_are_told(text, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        h.resolve("ERM", "PACS", None, h.parse_overrides(text))


def test_right_overrides_win_over_defaults_and_draws():
    overrides = {"lr": 1, "backbone": "resnet18", "image_size": 64}
    for seed in (None, 5):
        resolved = h.resolve("ERM", "PACS", seed, overrides)
        assert {key: resolved[key] for key in overrides} == overrides
    assert "backbone" not in json.dumps(h.default_hparams("ERM", "PACS"))
