"""The built-in algorithms: where the class of each is, and the hyper-parameters that it adds.

Names, defaults and draws are DomainBed's. Nothing here imports torch.
"""

from __future__ import annotations

from domainbed import datasets
from domainbed.hparams_registry import HParam, Space, choice, log_uniform


def uniform(name: str, default: float, low: float, high: float) -> HParam:
    """A hyper-parameter drawn as U(low, high)."""
    return HParam(name, default, lambda r: r.uniform(low, high))


def uniform_int(name: str, default: int, low: int, high: int) -> HParam:
    """A hyper-parameter drawn as int(U(low, high))."""
    return HParam(name, default, lambda r: int(r.uniform(low, high)))


def log_int(name: str, default: int, low: float, high: float, base: int = 10) -> HParam:
    """A hyper-parameter drawn as int(base ** U(low, high))."""
    return HParam(name, default, lambda r: int(base ** r.uniform(low, high)))


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
    choice("lmbda", 0.1, [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2]),
    choice("temperature", 0.1, [0.05, 0.1]),
    HParam("is_normalized", False),
    HParam("is_project", False),
    HParam("is_flipped", True),
]


def _learning_rate(name: str, dataset: str) -> HParam:
    if datasets.is_small(dataset):
        return log_uniform(name, 1e-3, -4.5, -2.5)
    return log_uniform(name, 5e-5, -5, -3.5)


def _adversarial(dataset: str) -> list[HParam]:
    small = datasets.is_small(dataset)
    return [
        log_uniform("lambda", 1.0, -2, 2),
        log_uniform("weight_decay_d", 0.0, -6, -2),
        log_int("d_steps_per_g_step", 1, 0, 3, base=2),
        log_uniform("grad_penalty", 0.0, -2, 1),
        choice("beta1", 0.5, [0.0, 0.5]),
        log_int("mlp_width", 256, 6, 10, base=2),
        choice("mlp_depth", 3, [3, 4, 5]),
        choice("mlp_dropout", 0.0, [0.0, 0.1, 0.5]),
        _learning_rate("lr_g", dataset),
        _learning_rate("lr_d", dataset),
        HParam("weight_decay_g", 0.0) if small else log_uniform("weight_decay_g", 0.0, -6, -2),
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
        HParam("variance_weight", 0.0)
        if uneven
        else uniform("variance_weight", 0.004, 0.001, 0.007),
        uniform("rdm_lr", 1.5e-5, 8e-6, 2e-5),
    ]
    if datasets.is_small(dataset):
        return space
    if dataset in ("DomainNet", "TerraIncognita"):
        return [*space, uniform_int("batch_size", 40, 30, 60)]
    return [*space, uniform_int("batch_size", 88, 70, 100)]


def _adrmx(dataset: str) -> list[HParam]:
    small = datasets.is_small(dataset)
    return [
        choice("lr", 3e-3, [5e-4, 1e-3, 2e-3, 3e-3])
        if small
        else choice("lr", 3e-5, [2e-5, 3e-5, 4e-5, 5e-5]),
        HParam("cnt_lambda", 1.0),
        HParam("dclf_lambda", 1.0),
        HParam("disc_lambda", 0.75),
        HParam("rmxd_lambda", 1.0),
        HParam("d_steps_per_g_step", 2),
        HParam("beta1", 0.5),
        HParam("mlp_width", 256),
        choice("mlp_depth", 9, [8, 9, 10]),
        HParam("mlp_dropout", 0.0),
    ]


def _urm(dataset: str) -> list[HParam]:
    small = datasets.is_small(dataset)
    return [
        HParam("urm", "adversarial"),
        uniform("urm_adv_lambda", 0.1, 0.0, 0.2),
        HParam("urm_discriminator_label_smoothing", 0.0),
        HParam("urm_discriminator_optimizer", "adam"),
        choice("urm_discriminator_hidden_layers", 1, [1, 2, 3]),
        choice("urm_generator_output", "tanh", ["tanh", "relu"]),
        log_uniform("urm_discriminator_lr", 1e-3, -5.5, -3.5)
        if small
        else log_uniform("urm_discriminator_lr", 5e-5, -6, -4.5),
    ]


BUILTIN: dict[str, tuple[str, Space]] = {
    "ERM": ("erm", []),
    "ERMPlusPlus": ("erm_plus_plus", [log_uniform("linear_lr", 5e-5, -5, -3.5)]),
    "Fish": ("fish", [choice("meta_lr", 0.5, [0.05, 0.1, 0.5])]),
    "IRM": ("irm", IRM),
    "GroupDRO": ("group_dro", [log_uniform("groupdro_eta", 1e-2, -3, -1)]),
    "Mixup": ("mixup", [log_uniform("mixup_alpha", 0.2, -1, 1)]),
    "MLDG": (
        "mldg",
        [log_uniform("mldg_beta", 1.0, -1, 1), choice("n_meta_test", 2, [1, 2])],
    ),
    "CORAL": ("mmd", MMD),
    "MMD": ("mmd", MMD),
    "DANN": ("dann", _adversarial),
    "CDANN": ("dann", _adversarial),
    "MTL": ("mtl", [choice("mtl_ema", 0.99, [0.5, 0.9, 0.99, 1.0])]),
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
            uniform("rsc_f_drop_factor", 1 / 3, 0, 0.5),
            uniform("rsc_b_drop_factor", 1 / 3, 0, 0.5),
        ],
    ),
    "SD": ("sd", [log_uniform("sd_reg", 0.1, -5, -1)]),
    "ANDMask": ("and_mask", [uniform("tau", 1.0, 0.5, 1.0)]),
    "SANDMask": ("and_mask", [uniform("tau", 1.0, 0.0, 1.0), log_uniform("k", 10.0, -3, 5)]),
    "IGA": ("iga", [log_uniform("penalty", 1000.0, 1, 5)]),
    "SelfReg": ("selfreg", []),
    "Fishr": (
        "fishr",
        [
            log_uniform("lambda", 1000.0, 1, 4),
            uniform_int("penalty_anneal_iters", 1500, 0, 5000),
            uniform("ema", 0.95, 0.90, 0.99),
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
            choice("d_steps_per_g", 10, [1, 2, 5]),
            log_uniform("weight_decay_d", 0.0, -6, -2),
            HParam("gda", False, lambda r: True),
            choice("beta1", 0.5, [0.0, 0.5]),
            log_uniform("lr_d", 1e-3, -4.5, -2.5),
        ],
    ),
    "CausIRL_CORAL": ("mmd", MMD),
    "CausIRL_MMD": ("mmd", MMD),
    "EQRM": (
        "eqrm",
        [
            uniform("eqrm_quantile", 0.75, 0.5, 0.99),
            HParam("eqrm_burnin_iters", 2500, lambda r: 10 ** r.uniform(2.5, 3.5)),
            log_uniform("eqrm_lr", 1e-6, -7, -5),
        ],
    ),
    "RDM": ("rdm", _rdm),
    "ADRMX": ("adrmx", _adrmx),
    "URM": ("urm", _urm),
}
"""Name -> (module in `domainbed.algorithms`, own hyper-parameters), in the order of the tables."""
