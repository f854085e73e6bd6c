"""The built-in algorithms: where the class of each is, and the hyper-parameters that it adds.

Names, defaults and draws are DomainBed's. Nothing here imports torch.
"""

from __future__ import annotations

from domainbed import datasets
from domainbed.hparams_registry import (
    DEPTH,
    WIDTH,
    HParam,
    Space,
    choice,
    log_uniform,
)
from domainbed.lib.bounds import (
    AT_LEAST_ONE,
    COUNT,
    MOMENTUM,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Bounds,
    OneOf,
    Within,
)


def uniform(
    name: str, default: float, low: float, high: float, bounds: Bounds = NOT_NEGATIVE
) -> HParam:
    """A hyper-parameter drawn as U(low, high)."""
    return HParam(name, default, lambda r: r.uniform(low, high), bounds)


def uniform_int(name: str, default: int, low: int, high: int, bounds: Bounds = COUNT) -> HParam:
    """A hyper-parameter drawn as int(U(low, high))."""
    return HParam(name, default, lambda r: int(r.uniform(low, high)), bounds)


def log_int(
    name: str,
    default: int,
    low: float,
    high: float,
    base: int = 10,
    bounds: Bounds = COUNT,
) -> HParam:
    """A hyper-parameter drawn as int(base ** U(low, high))."""
    return HParam(name, default, lambda r: int(base ** r.uniform(low, high)), bounds)


IRM = [
    log_uniform("irm_lambda", 100.0, -1, 5),
    log_int("irm_penalty_anneal_iters", 500, 0, 4),
]
IB = [
    log_uniform("ib_lambda", 100.0, -1, 5),
    log_int("ib_penalty_anneal_iters", 500, 0, 4),
]
MMD = [log_uniform("mmd_gamma", 1.0, -1, 1)]
CAD = [
    choice("lmbda", 0.1, [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2], NOT_NEGATIVE),
    choice("temperature", 0.1, [0.05, 0.1], POSITIVE),
    HParam("is_normalized", False),
    HParam("is_project", False),
    HParam("is_flipped", True),
]


def _learning_rate(name: str, dataset: str) -> HParam:
    if datasets.is_small(dataset):
        return log_uniform(name, 1e-3, -4.5, -2.5, bounds=POSITIVE)
    return log_uniform(name, 5e-5, -5, -3.5, bounds=POSITIVE)


def _adversarial(dataset: str) -> list[HParam]:
    small = datasets.is_small(dataset)
    return [
        log_uniform("lambda", 1.0, -2, 2),
        log_uniform("weight_decay_d", 0.0, -6, -2),
        log_int("d_steps_per_g_step", 1, 0, 3, base=2, bounds=AT_LEAST_ONE),
        log_uniform("grad_penalty", 0.0, -2, 1),
        choice("beta1", 0.5, [0.0, 0.5], MOMENTUM),
        log_int("mlp_width", 256, 6, 10, base=2, bounds=WIDTH),
        choice("mlp_depth", 3, [3, 4, 5], DEPTH),
        choice("mlp_dropout", 0.0, [0.0, 0.1, 0.5], SHARE),
        _learning_rate("lr_g", dataset),
        _learning_rate("lr_d", dataset),
        HParam("weight_decay_g", 0.0, bounds=NOT_NEGATIVE)
        if small
        else log_uniform("weight_decay_g", 0.0, -6, -2),
    ]


def _arm(dataset: str) -> list[HParam]:
    return [] if datasets.is_small(dataset) else [HParam("batch_size", 8)]


def _rdm(dataset: str) -> list[HParam]:
    net = dataset == "DomainNet"
    strong = dataset in ("PACS", "TerraIncognita")
    uneven = dataset in ("TerraIncognita", "OfficeHome", "DomainNet")
    space = [
        uniform("rdm_lambda", 0.5, 0.1, 1.0)
        if net
        else uniform("rdm_lambda", 5.0, 1.0 if strong else 0.1, 10.0),
        uniform_int("rdm_penalty_anneal_iters", 2400, 1500, 3000)
        if net
        else uniform_int("rdm_penalty_anneal_iters", 1500, 800, 2700),
        HParam("variance_weight", 0.0, bounds=NOT_NEGATIVE)
        if uneven
        else uniform("variance_weight", 0.004, 0.001, 0.007),
        uniform("rdm_lr", 1.5e-5, 8e-6, 2e-5, POSITIVE),
    ]
    if datasets.is_small(dataset):
        return space
    if dataset in ("DomainNet", "TerraIncognita"):
        return [*space, uniform_int("batch_size", 40, 30, 60, AT_LEAST_ONE)]
    return [*space, uniform_int("batch_size", 88, 70, 100, AT_LEAST_ONE)]


def _adrmx(dataset: str) -> list[HParam]:
    small = datasets.is_small(dataset)
    return [
        choice("lr", 3e-3, [5e-4, 1e-3, 2e-3, 3e-3])
        if small
        else choice("lr", 3e-5, [2e-5, 3e-5, 4e-5, 5e-5]),
        HParam("cnt_lambda", 1.0, bounds=NOT_NEGATIVE),
        HParam("dclf_lambda", 1.0, bounds=NOT_NEGATIVE),
        HParam("disc_lambda", 0.75, bounds=NOT_NEGATIVE),
        HParam("rmxd_lambda", 1.0, bounds=NOT_NEGATIVE),
        HParam("d_steps_per_g_step", 2, bounds=AT_LEAST_ONE),
        HParam("beta1", 0.5, bounds=MOMENTUM),
        HParam("mlp_width", 256),
        choice("mlp_depth", 9, [8, 9, 10]),
        HParam("mlp_dropout", 0.0),
    ]


def _urm(dataset: str) -> list[HParam]:
    small = datasets.is_small(dataset)
    return [
        HParam("urm", "adversarial", bounds=OneOf(("adversarial",))),
        uniform("urm_adv_lambda", 0.1, 0.0, 0.2),
        HParam("urm_discriminator_label_smoothing", 0.0, bounds=SHARE),
        HParam("urm_discriminator_optimizer", "adam", bounds=OneOf(("adam", "sgd"))),
        choice("urm_discriminator_hidden_layers", 1, [1, 2, 3], Within(0, 1000)),
        choice("urm_generator_output", "tanh", ["tanh", "relu"]),
        log_uniform("urm_discriminator_lr", 1e-3, -5.5, -3.5, bounds=POSITIVE)
        if small
        else log_uniform("urm_discriminator_lr", 5e-5, -6, -4.5, bounds=POSITIVE),
    ]


BUILTIN: dict[str, tuple[str, Space]] = {
    "ERM": ("erm", []),
    "ERMPlusPlus": ("erm_plus_plus", [log_uniform("linear_lr", 5e-5, -5, -3.5, bounds=POSITIVE)]),
    "Fish": ("fish", [choice("meta_lr", 0.5, [0.05, 0.1, 0.5], NOT_NEGATIVE)]),
    "IRM": ("irm", IRM),
    "GroupDRO": ("group_dro", [log_uniform("groupdro_eta", 1e-2, -3, -1)]),
    "Mixup": ("mixup", [log_uniform("mixup_alpha", 0.2, -1, 1, bounds=POSITIVE)]),
    "MLDG": (
        "mldg",
        [log_uniform("mldg_beta", 1.0, -1, 1), choice("n_meta_test", 2, [1, 2], AT_LEAST_ONE)],
    ),
    "CORAL": ("mmd", MMD),
    "MMD": ("mmd", MMD),
    "DANN": ("dann", _adversarial),
    "CDANN": ("dann", _adversarial),
    "MTL": ("mtl", [choice("mtl_ema", 0.99, [0.5, 0.9, 0.99, 1.0], SHARE)]),
    "SagNet": ("sagnet", [log_uniform("sag_w_adv", 0.1, -2, 1)]),
    "ARM": ("arm", _arm),
    "VREx": (
        "vrex",
        [
            log_uniform("vrex_lambda", 10.0, -1, 5),
            log_int("vrex_penalty_anneal_iters", 500, 0, 4),
        ],
    ),
    "RSC": (
        "rsc",
        [
            uniform("rsc_f_drop_factor", 1 / 3, 0, 0.5, SHARE),
            uniform("rsc_b_drop_factor", 1 / 3, 0, 0.5, SHARE),
        ],
    ),
    "SD": ("sd", [log_uniform("sd_reg", 0.1, -5, -1)]),
    "ANDMask": ("and_mask", [uniform("tau", 1.0, 0.5, 1.0, SHARE)]),
    "SANDMask": (
        "and_mask",
        [uniform("tau", 1.0, 0.0, 1.0, Within(-1, 1)), log_uniform("k", 10.0, -3, 5)],
    ),
    "IGA": ("iga", [log_uniform("penalty", 1000.0, 1, 5)]),
    "SelfReg": ("selfreg", []),
    "Fishr": (
        "fishr",
        [
            log_uniform("lambda", 1000.0, 1, 4),
            uniform_int("penalty_anneal_iters", 1500, 0, 5000),
            uniform("ema", 0.95, 0.90, 0.99, SHARE),
        ],
    ),
    "TRM": (
        "trm",
        [
            log_uniform("cos_lambda", 1e-4, -5, 0),
            log_int("iters", 200, 0, 4),
            log_uniform("groupdro_eta", 1e-2, -3, -1),
        ],
    ),
    "IB_ERM": ("information_bottleneck", IB),
    "IB_IRM": ("information_bottleneck", [*IRM, *IB]),
    "CAD": ("cad", CAD),
    "CondCAD": ("cad", CAD),
    "Transfer": (
        "transfer",
        [
            log_uniform("t_lambda", 1.0, -2, 1),
            uniform("delta", 2.0, 0.1, 3.0),
            choice("d_steps_per_g", 10, [1, 2, 5], AT_LEAST_ONE),
            log_uniform("weight_decay_d", 0.0, -6, -2),
            HParam("gda", False, lambda r: True),
            choice("beta1", 0.5, [0.0, 0.5], MOMENTUM),
            log_uniform("lr_d", 1e-3, -4.5, -2.5, bounds=POSITIVE),
        ],
    ),
    "CausIRL_CORAL": ("mmd", MMD),
    "CausIRL_MMD": ("mmd", MMD),
    "EQRM": (
        "eqrm",
        [
            uniform("eqrm_quantile", 0.75, 0.5, 0.99, SHARE),
            HParam("eqrm_burnin_iters", 2500, lambda r: 10 ** r.uniform(2.5, 3.5), COUNT),
            log_uniform("eqrm_lr", 1e-6, -7, -5, bounds=POSITIVE),
        ],
    ),
    "RDM": ("rdm", _rdm),
    "ADRMX": ("adrmx", _adrmx),
    "URM": ("urm", _urm),
}
"""Name -> (module in `domainbed.algorithms`, own hyper-parameters), in the order of the tables."""
