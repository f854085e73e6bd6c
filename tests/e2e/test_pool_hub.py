"""Pools through a hub: a small server that speaks its file protocol, and its own client."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from hub_server import TOKEN, Handler

from domainbed.engine.initial_weights import InitialWeights
from domainbed.engine.options import Options
from domainbed.engine.run import Run
from domainbed.lib import weights
from domainbed.networks import foundations
from domainbed.registry import InputError
from domainbed.runs import LAST
from ratatouille_algorithms import pool as pools
from ratatouille_algorithms.algorithms import load_ingredient
from ratatouille_algorithms.pool import CARD, LOCK, hub, lock
from ratatouille_algorithms.scripts import pool

pytest.importorskip("huggingface_hub", reason="the extra [hub] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's
REPO = "someone/recycled"


@pytest.fixture
def server(monkeypatch):
    """Holds `repos`, notes the files `asked`, `serves` other bytes and announces other `sizes`."""
    from huggingface_hub import constants

    state = SimpleNamespace(
        repos={}, asked=[], asked_at=set(), serves={}, sizes={}, lfs={}, created=[]
    )

    def commit(repo, files):
        commits = state.repos.setdefault(repo, [])
        whole = {**(commits[-1][1] if commits else {}), **files}
        name = hashlib.sha1(repr((len(commits), sorted(whole.items()))).encode()).hexdigest()
        commits.append((name, whole))
        return name

    state.commit = commit
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.state, http.daemon_threads = state, True
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", state.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", state.url + template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def make(folder, name, seen, scale=1.001):
    """Add a scaled copy of the letters' network to a pool."""
    state = {key: tensor * scale for key, tensor in weights.read(foundations.LETTERS)[0].items()}
    file = folder.parent / f"{name}.safetensors"
    weights.save(file, state, {})
    arguments = ["--backbone", "mnist_cnn", "--input_shape", "1", "28", "28", "--licence", "MIT"]
    arguments += ["--foundation", "letters", "--name", name, "--datasets_seen", seen]
    assert pool.main(["add", "--pool", str(folder), str(file), *arguments]) == 0


@pytest.fixture
def mine(tmp_path):
    """A pool of two ingredients."""
    folder = tmp_path / "mine"
    make(folder, "ink", "InkDigits")
    make(folder, "noisy", "NoisyDigits", 1.002)
    return folder


@pytest.fixture
def pushed(server, mine):
    assert pool.main(["push", REPO, "--pool", str(mine)]) == 0
    return server


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK
    }


def refusal(capsys, *arguments):
    """The one line that a refused command tells."""
    capsys.readouterr()
    assert pool.main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_is_pushed_is_pulled_elsewhere_and_nothing_else(pushed, mine, tmp_path, capsys):
    extra = {"README.md": b"# hi", "ink/setup.py": b"boom", "ink/model.pkl": b"boom"}
    commit = pushed.commit(REPO, extra)
    there = tmp_path / "there"
    assert pool.main(["pull", REPO, "--pool", str(there)]) == 0
    assert contents(there) == contents(mine)
    wanted = {f"{name}/{file}" for name in ("ink", "noisy") for file in pools.FILES}
    assert set(pushed.asked) == wanted
    pin = lock.read(there)[REPO]
    assert pin.revision == commit
    assert pin.files == {k: hashlib.sha256(v).hexdigest() for k, v in contents(mine).items()}
    assert sorted(path.name for path in there.iterdir()) == ["ink", "noisy", LOCK]

    pushed.asked.clear()
    assert pool.main(["pull", "--pool", str(there)]) == 0
    assert not pushed.asked and "ink is here as pinned" in capsys.readouterr().out


def test_a_pulled_ingredient_is_what_a_run_starts_from(pushed, tmp_path):
    assert pool.main(["pull", REPO, "--pool", str(tmp_path / "there"), "--names", "ink"]) == 0
    (one,) = pools.usable(pools.read(tmp_path / "there"), "RotatedDigits")
    for target, may in (("RotatedDigits", True), ("InkDigits", False)):
        options = Options(
            dataset=target,
            algorithm="FineTuning",
            foundation="letters",
            hparams='{"batch_size": 2}',
        )
        run = Run(options, {})
        initial = InitialWeights(run, run.build())
        if not may:
            with pytest.raises(InputError, match="among them the target InkDigits"):
                load_ingredient(initial, one.weights)
            continue
        load_ingredient(initial, one.weights)
        assert initial.provenance["datasets_seen"] == ["InkDigits"]
        loaded = weights.tensors(initial.algorithm.featurizer)
        for name, tensor in weights.read(one.weights)[0].items():
            assert torch.equal(loaded[name.removeprefix("featurizer.")], tensor)


def test_a_branch_that_moves_is_followed_only_when_told(pushed, mine, tmp_path, capsys):
    there, first = tmp_path / "there", pushed.repos[REPO][0][0]
    pull = ["pull", REPO, "--pool", str(there)]
    assert pool.main(pull) == 0
    make(tmp_path / "later", "ink", "InkDigits", 1.01)
    assert pool.main(["push", REPO, "--pool", str(tmp_path / "later")]) == 0
    before = contents(there)
    assert pool.main(pull) == 0 and contents(there) == before
    assert pool.main(["remove", "noisy", "--pool", str(there), "--yes"]) == 0
    pushed.asked.clear()
    assert pool.main(pull) == 0 and contents(there) == before
    assert pushed.asked_at == {first}
    assert "but pool.lock pins" in refusal(capsys, *pull, "--revision", "main")
    assert contents(there) == before and lock.read(there)[REPO].revision == first
    assert pool.main([*pull, "--update"]) == 0
    assert (there / "ink" / LAST).read_bytes() == (tmp_path / "later/ink" / LAST).read_bytes()
    assert (there / "noisy" / LAST).read_bytes() == (mine / "noisy" / LAST).read_bytes()
    assert lock.read(there)[REPO].revision == pushed.repos[REPO][1][0]


def test_a_shared_lock_gives_the_same_bytes_or_refuses(pushed, mine, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert pool.main(["pull", REPO, "--pool", str(first), "--names", "ink"]) == 0
    second.mkdir()
    (second / LOCK).write_bytes((first / LOCK).read_bytes())
    make(tmp_path / "other", "ink", "InkDigits", 1.01)
    pushed.serves = {
        f"ink/{file}": (tmp_path / "other/ink" / file).read_bytes() for file in pools.FILES
    }
    line = refusal(capsys, "pull", "--pool", str(second))
    assert "ink/card.toml of someone/recycled has sha256" in line and "pool.lock pins" in line
    assert [path.name for path in second.iterdir()] == [LOCK]
    pushed.serves.clear()
    assert pool.main(["pull", "--pool", str(second)]) == 0
    assert contents(first) == contents(second)


def test_what_was_edited_or_is_anothers_is_not_overwritten(pushed, mine, tmp_path, capsys):
    there = tmp_path / "there"
    assert pool.main(["pull", REPO, "--pool", str(there)]) == 0
    with open(there / "ink" / CARD, "a") as card:
        card.write("\n# mine\n")
    line = refusal(capsys, "pull", REPO, "--pool", str(there))
    assert "ink is there already and differs from what pool.lock pins" in line
    line = refusal(capsys, "pull", REPO, "--pool", str(mine))
    assert "ink is there already and is not from there" in line
    assert pool.main(["remove", "ink", "--pool", str(there), "--yes"]) == 0
    assert lock.read(there)[REPO].names == ["noisy"]
    assert pool.main(["pull", REPO, "--pool", str(there)]) == 0
    assert contents(there) == contents(mine)


def test_sizes_are_refused_before_anything_is_fetched(pushed, tmp_path, capsys):
    pull = ["pull", REPO, "--pool", str(tmp_path / "there")]
    assert "more than --max_gib 0.001" in refusal(capsys, *pull, "--max_gib", "0.001")
    pushed.sizes["ink/model.safetensors"] = 2**49
    line = refusal(capsys, *pull, "--max_gib", "1e6")
    assert "GB left" in line and "are needed" in line
    pushed.sizes = {"ink/card.toml": 10**6}
    assert "ink of someone/recycled has a card of 1000000 bytes" in refusal(capsys, *pull)
    assert not pushed.asked
    pushed.sizes = {"ink/model.safetensors": 1000}
    assert "of weights of another size" in refusal(capsys, *pull)
    assert not any(name.endswith("safetensors") for name in pushed.asked)
    assert not contents(tmp_path / "there")


def evil_weights(mine, **changes):
    """The weights of `ink` with tensors changed, under the same header."""
    state, header = weights.read(mine / "ink" / LAST)
    weights.save(mine / "evil.safetensors", {**state, **changes}, header)
    return (mine / "evil.safetensors").read_bytes()


def with_card_of(mine, content, **changes):
    """The card of `ink`, made to fit other bytes, and other values."""
    fit = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **changes}
    text = (mine / "ink" / CARD).read_text()
    for key, value in fit.items():
        text = re.sub(rf"^{key} = .*$", f"{key} = {json.dumps(value)}", text, count=1, flags=re.M)
    return text.encode()


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("hash", "its card says"),
        ("nan", "not finite, in 'featurizer.conv1.bias'"),
        ("shape", "has 'featurizer.conv1.bias' of float32"),
        ("extra", "holds 'featurizer.evil'"),
        ("past", "gives datasets_seen as"),
        ("name", "is that of 'other'; expected 'ink'"),
        ("escape", "has name = '../ink'; expected a folder's name"),
        ("pickle", "it is not safetensors"),
    ],
)
def test_what_is_not_sound_is_not_pulled(server, mine, tmp_path, capsys, kind, reason):
    bias = torch.zeros(64)
    content = {
        "nan": lambda: evil_weights(mine, **{"featurizer.conv1.bias": bias / 0}),
        "shape": lambda: evil_weights(mine, **{"featurizer.conv1.bias": torch.zeros(65)}),
        "extra": lambda: evil_weights(mine, **{"featurizer.evil": bias}),
        "pickle": lambda: b"\x80\x04cposix\nsystem\n",
    }.get(kind, lambda: (mine / "ink" / LAST).read_bytes())()
    changes = {
        "hash": {"sha256": "0" * 64},
        "past": {"datasets_seen": ["NoisyDigits"]},
        "name": {"name": "other"},
        "escape": {"name": "../ink"},
    }.get(kind, {})
    files = {"ink/card.toml": with_card_of(mine, content, **changes), "ink/" + LAST: content}
    server.commit(REPO, {**files, "../up/card.toml": b"", "../up/" + LAST: b""})
    there = tmp_path / "there"
    line = refusal(capsys, "pull", REPO, "--pool", str(there))
    assert reason in line
    assert not contents(there) and not (tmp_path / "up").exists()


def test_a_folder_that_names_no_ingredient_is_refused(server, mine, tmp_path, capsys):
    files = {f"-ink/{file}": (mine / "ink" / file).read_bytes() for file in pools.FILES}
    server.commit(REPO, files)
    line = refusal(capsys, "pull", REPO, "--pool", str(tmp_path / "there"))
    assert "'-ink' names no ingredient" in line and not server.asked


def test_who_may_not_push_is_told_in_one_line(server, mine, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    line = refusal(capsys, "push", REPO, "--pool", str(mine))
    assert line.startswith("error: someone/recycled cannot be pushed to (") and "401" in line
    card = mine / "ink" / CARD
    card.write_text(card.read_text().replace('licence = "MIT"\n', ""))
    assert "gives no licence" in refusal(capsys, "push", REPO, "--pool", str(mine))
    assert REPO not in server.repos


@pytest.mark.parametrize(
    "repo, revision, reason",
    [
        ("someone/nothing", [], "cannot be listed (RepositoryNotFoundError"),
        (REPO, ["--revision", "v9"], "cannot be listed (RevisionNotFoundError"),
        ("recycled", [], "expected OWNER/NAME"),
        ("../../etc", [], "expected OWNER/NAME"),
    ],
)
def test_what_is_not_on_the_hub_is_told_in_one_line(
    pushed, tmp_path, capsys, repo, revision, reason
):
    assert reason in refusal(capsys, "pull", repo, *revision, "--pool", str(tmp_path / "there"))


def test_without_the_client_the_extra_is_named(mine, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = refusal(capsys, "push", REPO, "--pool", str(mine))
    assert 'pip install "domainbed-ratatouille[hub]"' in line
    with pytest.raises(InputError, match="hub"):
        hub.offer(REPO, None)


def test_the_command_line_reads_the_endpoint_from_its_environment(server, mine, tmp_path):
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "ratatouille_algorithms.scripts.pool"]
    for words in (
        ["push", REPO, "--pool", str(mine), "--names", "noisy", "--private"],
        ["pull", REPO, "--pool", str(tmp_path / "there")],
    ):
        done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert server.created[0].get("visibility") == "private" or server.created[0].get("private")
    assert contents(tmp_path / "there" / "noisy") == contents(mine / "noisy")
    assert not (tmp_path / "there" / "ink").exists()
