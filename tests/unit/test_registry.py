import subprocess
import sys

import pytest

from domainbed.registry import InputError, Registry, UnknownNameError, nearest


def new_registry() -> Registry:
    registry = Registry("thing", home="domainbed")
    registry["Alpha"] = "collections:OrderedDict"
    return registry


def test_a_lazy_value_is_imported_when_asked_for():
    from collections import OrderedDict

    assert new_registry()["Alpha"] is OrderedDict


def test_an_unknown_name_offers_the_nearest_and_is_caught_as_before():
    with pytest.raises(UnknownNameError, match=r"Unknown thing 'Alpa'\. Did you mean 'Alpha'\?"):
        new_registry()["Alpa"]
    for kind in (KeyError, NotImplementedError, InputError):
        with pytest.raises(kind):
            new_registry()["Alpa"]


def test_nearest_ignores_case_and_lists_all_when_nothing_is_near():
    assert nearest("irm", ["ERM", "IRM"]).startswith("Did you mean 'IRM'")
    assert nearest("zzz", ["ERM", "IRM"]) == "Known: ERM, IRM."


def test_a_second_owner_of_a_name_is_refused_but_a_reloaded_one_is_not():
    registry = new_registry()
    registry["Alpha"] = "collections:OrderedDict"
    with pytest.raises(ValueError, match="already registered by collections"):
        registry["Alpha"] = "collections:deque"


@pytest.mark.parametrize(
    "module",
    [
        "domainbed",
        "domainbed.datasets",
        "domainbed.algorithms",
        "domainbed.hparams_registry",
        "domainbed.jobs",
        "domainbed.scripts.sweep",
        "domainbed.scripts.collect_results",
        "domainbed.scripts.list_top_hparams",
        "ratatouille_algorithms",
    ],
)
def test_reading_and_planning_import_nothing_heavy(module):
    code = (
        f"import sys, {module}; "
        "heavy = {'torch', 'torchvision', 'wilds', 'timm', 'sklearn', 'pandas', 'matplotlib'}; "
        "print(*(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_plugin_is_found_by_name_and_cannot_shadow_a_builtin(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from domainbed.algorithms import ERM, register\n"
        "from domainbed.hparams_registry import HParam\n"
        "@register(hparams=[HParam('mine_lambda', 1.0, lambda r: r.uniform(0, 1))])\n"
        "class Mine(ERM):\n"
        "    pass\n"
    )
    code = (
        "from domainbed.registry import use_plugins; use_plugins(['mine'])\n"
        "from domainbed import algorithms, hparams_registry\n"
        "print(algorithms.get_algorithm_class('Mine').__name__,"
        " hparams_registry.default_hparams('Mine', 'PACS')['mine_lambda'],"
        " 'Mine' in algorithms.ALGORITHMS)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["Mine", "1.0", "False"]


def test_a_plugin_that_the_user_named_and_that_fails_is_an_input_error(monkeypatch):
    from domainbed import registry

    monkeypatch.setenv(registry.PLUGIN_VARIABLE, "")
    with pytest.raises(InputError, match="no_such_module"):
        registry.use_plugins(["no_such_module"])
    monkeypatch.setenv(registry.PLUGIN_VARIABLE, "")
