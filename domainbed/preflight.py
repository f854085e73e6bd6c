"""What can be known to go wrong before any job of a sweep is launched."""

from __future__ import annotations

from collections.abc import Iterable

from domainbed import algorithms
from domainbed.engine import compiling
from domainbed.engine.options import Options
from domainbed.engine.precision import image_featurizers
from domainbed.engine.run import Run, check_batch, hparams_of
from domainbed.jobs import Job


def check(jobs: Iterable[Job]) -> None:
    """Raise `InputError` for what would make jobs fail.

    The first job of each (dataset, hparam overrides) is built up to its first step, so that images
    are verified and weights found and read; each further one has its batches checked.
    """
    tried: dict[tuple, Run] = {}
    for job in jobs:
        options = Options.of_args(job.args)
        if options.compile:
            compiling.check_class(algorithms.get_method(options.algorithm).load())
        run = tried.get((options.dataset, options.hparams))
        if run is None:
            run = tried[options.dataset, options.hparams] = Run(options, {})
            algorithm = run.build()
            if options.compile:
                image_featurizers(algorithm, "--compile")
            continue
        batch = hparams_of(options)["batch_size"]
        for env, name in enumerate(run.env_names):
            if env not in options.test_envs:
                n = len(run.dataset[env])
                check_batch(options.dataset, name, n - int(n * options.holdout_fraction), batch)
