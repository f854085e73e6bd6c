import json
import shlex

import pytest

from domainbed import jobs
from domainbed.jobs import Job, make_args_list
from domainbed.registry import InputError


def sweep(algorithms, n_hparams=4, dataset="PACS", **further):
    further = {"aux_datasets": ["VLCS", "OfficeHome", "TerraIncognita"], **further}
    args_list = make_args_list(
        further.pop("n_trials", 1), [dataset], algorithms, 0, n_hparams, 5, None,
        "domain_generalization", 0.2, True, further.pop("hparams", None), **further,
    )  # fmt: skip
    return [Job(args, "/out") for args in args_list]


@pytest.fixture(autouse=True)
def datasets_are_there(monkeypatch):
    monkeypatch.setattr("domainbed.datasets.check", lambda name, data_dir: None)


def test_golden_jobs(golden):
    for args, folder, command in golden["sweep_jobs"]:
        job = Job(args, "/out")
        assert (job.output_dir, job.command_str) == (folder, command)
        assert jobs.run_seed(args) == args["seed"]


def test_golden_sweeps_are_planned_argument_by_argument(golden):
    planned = make_args_list(
        1, ["PACS"], ["ERM"], 0, 2, None, "/data", "domain_generalization", 0.2, True, None
    )
    expected = [args for args, _, _ in golden["sweep_jobs"] if args["dataset"] == "PACS"]
    assert planned[: len(expected)] == expected
    pairs = make_args_list(
        1, ["RotatedMNIST"], ["ERM"], 0, 2, 300, "/data", "domain_generalization", 0.2, False,
        '{"lr": 0.001}',
    )  # fmt: skip
    for args, _, _ in golden["sweep_jobs"]:
        assert args in planned + pairs


def test_golden_number_of_jobs_over_all_test_env_combinations(golden):
    planned = make_args_list(
        2, ["RotatedMNIST"], ["ERM"], 0, 2, None, "/data", "domain_generalization", 0.2, False, None
    )
    assert len(planned) == golden["sweep_count_all_test_envs"]


def test_no_argument_breaks_out_of_the_command():
    args = {"data_dir": "/a b; rm -rf $HOME", "hparams": '{"x": "\'"}', "test_envs": [0, 1]}
    words = shlex.split(Job(args, "/out").command_str)
    assert words[:3] == ["python", "-m", "domainbed.scripts.train"]
    assert args["data_dir"] in words and args["hparams"] in words


def test_averages_need_their_members_and_these_one_probe():
    diwa, rata = (sweep([name])[0] for name in ("DiWA_uniform", "Ratatouille_uniform"))
    assert [need.role for need in diwa.needs] == ["member"] * 4
    members = [need.job for need in diwa.needs]
    assert [m.train_args["hparams_seed"] for m in members] == [0, 1, 2, 3]
    assert [m.id for m in members] == [job.id for job in sweep(["FineTuning"])[:4]]
    probes = {n.job.output_dir for m in members for n in m.needs}
    recycled = [need.job for need in rata.needs]
    assert probes == {m.needs[0].job.output_dir for m in recycled}
    assert len(probes) == 1 and probes.pop().startswith("/out/lp/")
    assert [m.id for m in recycled] == [job.id for job in sweep(["InterTraining"])[:4]]


def test_assignment_uses_every_auxiliary_run_once_in_the_papers_protocol():
    sources = ["VLCS", "OfficeHome", "TerraIncognita", "DomainNet"]
    runs = sweep(["InterTraining"], n_hparams=20, aux_datasets=sources)[:20]
    used = [n.job for run in runs for n in run.needs if n.role == "auxiliary"]
    assert len(used) == 16 == len({job.output_dir for job in used})
    for k, run in enumerate(runs):
        auxiliary = [n.job for n in run.needs if n.role == "auxiliary"]
        if k % 5 == 0:
            assert auxiliary == []
        else:
            (job,) = auxiliary
            assert job.train_args["dataset"] == sources[k % 5 - 1]
            assert job.train_args["hparams_seed"] == k % 4
            assert job.train_args["test_envs"] == [-1]


def test_auxiliary_runs_are_the_same_whatever_the_target():
    a = sweep(["InterTraining"], dataset="PACS", aux_datasets=["PACS", "VLCS", "OfficeHome"])
    b = sweep(["InterTraining"], dataset="VLCS", aux_datasets=["PACS", "VLCS", "OfficeHome"])
    names = [
        {n.job.output_dir for job in some for n in job.needs if n.role == "auxiliary"
         and n.job.train_args["dataset"] == "OfficeHome"}
        for some in (a, b)
    ]  # fmt: skip
    assert names[0] & names[1]


def test_the_target_is_never_its_own_auxiliary_task():
    for job in jobs.with_needs(sweep(["Ratatouille_uniform"], aux_datasets=["PACS", "VLCS"])):
        if job.train_args["algorithm"] == "InterTraining":
            assert job.train_args["aux_datasets"] == ["VLCS"]
    with pytest.raises(InputError, match="no auxiliary dataset for PACS"):
        sweep(["Ratatouille_uniform"], aux_datasets=["PACS"])


def test_a_probe_serves_all_trials_unless_each_is_asked_for_its_own():
    shared = sweep(["FineTuning"], n_trials=2)
    own = sweep(["FineTuning"], n_trials=2, probe_per_trial=True)
    assert len({need.job.id for job in shared for need in job.needs}) == 4
    probes = {need.job.id: need.job.train_args for job in own for need in job.needs}
    assert sorted(args["trial_seed"] for args in probes.values()) == [0] * 4 + [1] * 4
    assert {need.job.id for job in shared for need in job.needs} < set(probes)


def test_options_of_one_algorithm_do_not_move_the_identity_of_another():
    plain = {job.id for job in sweep(["ERM"])}
    assert plain == {job.id for job in sweep(["ERM"], aux_hparams=2, aux_dir="/elsewhere")}


def test_overrides_reach_the_algorithms_that_know_them():
    text = '{"lr": 0.01, "lp_steps": 3}'
    graph = jobs.with_needs(sweep(["ERM", "Ratatouille_uniform"], hparams=text))
    for job in graph:
        given = json.loads(job.train_args["hparams"])
        knows = job.train_args["algorithm"] in ("InterTraining", "Ratatouille_uniform")
        assert ("lp_steps" in given) == knows
        assert given["lr"] == 0.01


def test_a_graph_has_each_job_once_and_after_its_needs():
    asked = sweep(["DiWA_uniform", "DiWA_greedy", "FineTuning", "Ratatouille_greedy"])
    graph = jobs.with_needs(asked)
    names = [job.output_dir for job in graph]
    assert len(names) == len(set(names)) > len(asked)
    for job in graph:
        for need in job.needs:
            assert names.index(need.job.output_dir) < names.index(job.output_dir)


def test_a_sweep_seed_moves_every_seed_and_folder():
    one, two = (
        {job.id for job in jobs.with_needs(sweep(["DiWA_uniform"], sweep_seed=seed))}
        for seed in (None, 7)
    )
    assert not one & two


def test_plain_probes_see_no_augmentation_and_nothing_else_differs():
    given = '{"batch_size": 8}'
    for algorithm in ("FineTuning", "InterTraining", "DiWA_uniform"):
        plain, usual = (
            jobs.with_needs(sweep([algorithm], 1, hparams=given, plain_probe=flag))
            for flag in (True, None)
        )
        assert len(plain) == len(usual)
        for one, other in zip(plain, usual):
            hparams = [json.loads(job.train_args["hparams"]) for job in (one, other)]
            if one.train_args.get("what_is_trainable") == "classifier":
                assert hparams[0] == {**hparams[1], "data_augmentation": False}
                assert "plain_probe" not in one.train_args
            else:
                assert hparams[0] == hparams[1] == {"batch_size": 8}
                assert one.train_args["plain_probe"] is True
