"""Do one job in its run folder: start it, keep what went wrong, mark it done."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from pathlib import Path

import torch

from domainbed import __version__
from domainbed.engine import checkpoint, initial_weights, sinks
from domainbed.engine.options import Options
from domainbed.engine.run import Run, hparams_of
from domainbed.engine.trainer import RunFailed
from domainbed.jobs import Job
from domainbed.lib.machine import freed_memory_kept
from domainbed.registry import InputError, resolve
from domainbed.runs import RunFolder

logger = logging.getLogger(__name__)

LOCK_SECONDS = 2.0
"""How long to wait for a run folder's lock, since a run that was interrupted may be ending."""


def execute(options: Options, function: str | None = None) -> None:
    """Do the job that `options` describe, unless its folder says that it is done.

    function: what to do with the run, as "module:function"; None for what its algorithm does.
    Raises `InputError` for what the user can mend and `RunFailed` for a run that cannot go on;
    both, and any other error, are kept in the folder's `failed` and err.txt.
    """
    folder = RunFolder(options.output_dir)
    folder.create()
    with folder.lock(LOCK_SECONDS, checkpoint.STOP.lose):
        if not _is_done_already(folder, options):
            _execute(options, folder, function)


def _execute(options: Options, folder: RunFolder, function: str | None) -> None:
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    state = checkpoint.find(folder, options, "cuda" if torch.cuda.is_available() else "cpu")
    if state is None:
        folder.begin({"args": options.recorded(), "code_version": __version__})
    else:
        folder.go_on(state.n_bytes)
    with sinks.logging_to(folder):
        try:
            run = Run(options, _finished_needs(options))
            run.state = state
            folder.describe(run.description())
            _say_what_runs(run)
            with freed_memory_kept():
                resolve(function or run.method.execute)(run)
            folder.finish()
        except (InputError, RunFailed) as error:
            folder.fail(str(error), 2 if isinstance(error, InputError) else 1)
            raise
        except Exception as error:
            folder.fail(f"{type(error).__name__}: {error}".split("\n")[0])
            logger.exception("the run failed")
            raise


def _is_done_already(folder: RunFolder, options: Options) -> bool:
    """Whether this very job is done; a run of other arguments or versions is moved aside."""
    if not folder.holds_work():
        return False
    theirs = folder.description()
    args, version = theirs.get("args"), theirs.get("code_version")
    is_same = args == json.loads(json.dumps(options.recorded()))
    if folder.is_done and (args is None or is_same):
        logger.warning("%s is done; delete it to run it again", folder.path)
        return True
    if is_same and version == __version__:
        return False
    what = "another version" if is_same else "other arguments"
    aside = folder.move_aside()
    logger.warning("%s held a run of %s, which is in %s now", folder.path, what, aside)
    return False


def _finished_needs(options: Options) -> dict[str, list[RunFolder]]:
    """The folders of the runs that this one starts from, by role; all must be done."""
    job = Job(options.identity(), os.path.dirname(options.output_dir) or ".")
    needs: dict[str, list[RunFolder]] = {}
    for need in job.needs:
        needs.setdefault(need.role, []).append(need.job.folder)
    waiting = [need.job for need in job.needs if not need.job.folder.is_done]
    if waiting:
        raise InputError(
            f"{options.algorithm} needs {len(job.needs)} finished runs, of which {len(waiting)} "
            f"are not there, such as {waiting[0].output_dir} ({waiting[0].command_str}); "
            f"run them first, or let `python -m domainbed.scripts.sweep launch --algorithms "
            f"{options.algorithm} ...` do so"
        )
    return needs


def _say_what_runs(run: Run) -> None:
    logger.info("Environment:")
    logger.info("\tPython: %s", platform.python_version())
    logger.info("\tPyTorch: %s, %d threads", torch.__version__, torch.get_num_threads())
    logger.info("\tCUDA: %s", torch.version.cuda if torch.cuda.is_available() else "not used")
    logger.info("\tDevice: %s", run.device)
    logger.info("Args:")
    for key, value in sorted(run.options.recorded().items()):
        logger.info("\t%s: %s", key, value)
    logger.info("HParams:")
    for key, value in sorted(run.hparams.items()):
        logger.info("\t%s: %s", key, value)


def run_main(options: Options, function: str | None = None) -> int:
    """Do a job for a command line: 0 if it is done, 2 for a wrong input, 1 for a failed run.

    SIGINT, SIGTERM and SIGUSR1 save the state of a run that is training; the code is 75 then.
    """
    try:
        if not Path(options.output_dir).exists():
            initial_weights.check(options, hparams_of(options))
        with checkpoint.listening():
            execute(options, function)
    except checkpoint.Interrupted:
        print(f"interrupted; run it again to go on: {options.output_dir}", file=sys.stderr)
        return checkpoint.EXIT_CODE
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        print(
            f"failed: {type(error).__name__}: {error}".split("\n")[0]
            + f" (see {Path(options.output_dir) / 'err.txt'})",
            file=sys.stderr,
        )
        return 1
    return 0
