"""Expert trajectories on a stand-in Hub, by the real client."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from distillkit import compress, storage
from distillkit.errors import ArtifactError, ConfigError, NotFoundError, TrajectoryError
from distillkit.hub.address import parse_address
from distillkit.hub.client import Cache
from distillkit.sharing.experts import LIST, plan_push_experts, pull_experts, push_experts
from distillkit.sharing.experts_card import front_matter
from distillkit.sharing.publication import PushOptions
from distillkit.trajectories.store import TrajectoryStore, experts_root
from tests.helpers import TINY

REPO = "org/digits-experts"
CONVEX = {"trajectories.form": "convex", "trajectories.waypoints": 3}


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A cache folder with two raw experts of digits and their convex form, made by a tiny run of MCT."""
    import os

    folder, before = tmp_path_factory.mktemp("experts"), os.environ.get("DISTILLKIT_CACHE")
    os.environ["DISTILLKIT_CACHE"] = str(folder / "cache")
    settings = {**TINY, **CONVEX, "trajectories.keep_raw": True}
    compress("digits", ipc=1, method="mct", preset="smoke", settings=settings, out=folder / "set", device="cpu")
    if before is None:
        del os.environ["DISTILLKIT_CACHE"]
    else:
        os.environ["DISTILLKIT_CACHE"] = before
    return folder / "cache"


@pytest.fixture
def store(cached, tmp_path):
    """The convex store in this test's own cache."""
    shutil.copytree(cached / "experts", experts_root(), dirs_exist_ok=True)
    return next(store for store in stores() if store.form == "convex")


def stores():
    return [TrajectoryStore.open(path.parent) for path in sorted(experts_root().glob("*/setup.json"))]


def test_keep_raw__both_forms_lie_in_the_cache(store):
    assert sorted(one.form for one in stores()) == ["convex", "raw"]
    assert all([one.state(0), one.state(1)] == ["good", "good"] for one in stores())


def test_conversion__a_raw_trajectory_gives_the_same_bytes_as_building_while_training(store, tiny, tmp_path):
    before = [store.tensors_path(index).read_bytes() for index in range(2)]
    records = [store.record(index) for index in range(2)]
    store.clear()
    settings = {**tiny, **CONVEX}
    compress("digits", ipc=1, method="mct", preset="smoke", settings=settings, out=tmp_path / "a", device="cpu")
    assert [store.tensors_path(index).read_bytes() for index in range(2)] == before
    assert [store.record(index) for index in range(2)] == records


def test_round_trip__pulled_experts_distil_without_training(hub, store, tiny, tmp_path, monkeypatch):
    report = push_experts(store, REPO, PushOptions())
    assert (report.revision, report.changed) == ("v1", True)
    again = push_experts(store, REPO, PushOptions())
    assert (again.changed, again.commit) == (False, report.commit)
    files = {path.name: path.read_bytes() for path in store.folder.glob("expert-*.safetensors")}

    def run(name):
        settings, out = {**tiny, "experts.source": store.folder.name}, tmp_path / name
        return compress("digits", ipc=1, method="mct", preset="smoke", settings=settings, out=out, device="cpu")

    first = run("a")
    shutil.rmtree(experts_root())
    found = pull_experts(parse_address(f"{REPO}@v1"), Cache())
    assert (found.store.folder, found.commit, found.added) == (store.folder, report.commit, 2)
    assert {path.name: path.read_bytes() for path in store.folder.glob("expert-*.safetensors")} == files
    assert pull_experts(parse_address(REPO), Cache()).added == 0

    def no_training(*args):
        raise AssertionError("an expert was trained")

    monkeypatch.setattr("distillkit.stages.workshop.fit_experts", no_training)
    second = run("b")
    assert torch.equal(first.images, second.images)
    assert second.config["experts"]["fingerprint"] == store.folder.name


def test_card__front_matter_and_what_to_type(hub, store):
    push_experts(store, REPO, PushOptions(tag="v7"))
    files = hub.repos[REPO].commits[hub.repos[REPO].branches["main"]]
    card = files["README.md"].decode()
    matter = yaml.safe_load(card.split("---")[1])
    assert matter["tags"] == ["distillkit", "dataset-distillation", "expert-trajectories"]
    assert f"distillkit experts pull {REPO}@v7" in card
    assert f"--set experts.source={store.folder.name}" in card
    assert "3 waypoints stored as float32" in card
    assert sorted(set(files) - {".gitattributes"}) == [
        "README.md",
        "expert-0000.safetensors",
        "expert-0001.safetensors",
        LIST,
    ]
    assert str(experts_root().parent) not in card + files[LIST].decode()


@pytest.mark.parametrize(
    ("stated", "head"),
    [
        ("CC BY 4.0", {"license": "cc-by-4.0"}),
        ("mit", {"license": "mit"}),
        ("Custom, non-commercial", {"license": "other", "license_name": "custom-non-commercial"}),
        (None, {"license": "unknown"}),
    ],
)
def test_card__its_licence_is_one_that_the_hub_knows(stated, head):
    about = SimpleNamespace(
        license=stated, hub_id=None, experts=[1, 2], setup=SimpleNamespace(dataset="digits"), source=None
    )
    assert front_matter(about).items() >= head.items()


def test_push__experts_of_a_method_file_say_which_code_made_them(hub, tiny, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import dataclasses\nfrom distillkit import METHODS\n"
        "METHOD = dataclasses.replace(METHODS['mct'], name='mine', title='Mine')\n"
    )
    asked = {key: value for key, value in {**tiny, **CONVEX}.items() if key.startswith(("experts", "traj", "dataset"))}
    method = f"{tmp_path / 'mine.py'}:METHOD"
    compress("digits", ipc=1, method=method, preset="smoke", settings=asked, out=tmp_path / "a", device="cpu")
    own = next(store for store in stores() if store.form == "convex")
    assert len(own.setup["code"]) >= 16
    push_experts(own, REPO, PushOptions())
    shutil.rmtree(experts_root())
    assert pull_experts(parse_address(REPO), Cache()).store.setup["code"] == own.setup["code"]


def test_own_section__survives_a_second_push(hub, store):
    push_experts(store, REPO, PushOptions())
    card = store.folder / "README.md"
    card.write_text(card.read_text().replace("between these two lines -->\n", "between these two lines -->\nMine.\n"))
    report = push_experts(store, REPO, PushOptions())
    assert report.changed
    assert "Mine." in hub.repos[REPO].commits[report.commit]["README.md"].decode()


def test_push__raw_trajectories_are_refused_with_the_way_out(store):
    raw = next(one for one in stores() if one.form == "raw")
    with pytest.raises(ConfigError, match=r"are raw, .* MB; only compact ones.*trajectories\.form=convex"):
        plan_push_experts(raw, REPO, PushOptions())


def test_push__damaged_trajectories_are_refused(store):
    path = store.tensors_path(1)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(TrajectoryError, match=r"expert 1 of .* is damaged; train it again"):
        plan_push_experts(store, REPO, PushOptions())


def put(hub, name, content):
    repo = hub.repos[REPO]
    repo.commits[repo.branches["main"]][name] = content
    hub.large.clear() if name == LIST else None


def resealed(change):
    """A change of the set-up whose fingerprint follows it."""

    def both(value):
        change(value["setup"])
        value["fingerprint"] = storage.fingerprint(value["setup"])

    return both


def changed_list(hub, change):
    repo = hub.repos[REPO]
    value = json.loads(repo.commits[repo.branches["main"]][LIST])
    change(value)
    put(hub, LIST, storage.json_bytes(value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format_version="9.0"), "upgrade it"),
        (lambda v: v.update(kind="pickles"), "kind"),
        (lambda v: v["setup"].update(seed=7), "the fingerprint is not that of its set-up"),
        (lambda v: v["setup"].update(data="../../etc/passwd"), "setup.data"),
        (lambda v: v.update(experts=[]), "experts"),
        (lambda v: v["experts"][0].update(sha256="0" * 64), "expert-0000.safetensors is not the file"),
        (lambda v: v["experts"][0].update(epochs=5), "more epochs than all may"),
        (lambda v: v.update(parameters=12), "expert-0000.safetensors does not fit"),
        (lambda v: v.update(surprise=1), "surprise"),
        (resealed(lambda setup: setup.update(network={})), "network is not complete"),
        (lambda v: v["setup"].update(recipe={}), "recipe.order"),
        (resealed(lambda setup: setup["recipe"].update(epochs=3)), "nowhere, or twice"),
        (resealed(lambda setup: setup.pop("epochs")), "nowhere, or twice"),
        (resealed(lambda setup: setup["recipe"].update(order="easy-to-hard")), "lacks the data scheduler"),
        (lambda v: v["experts"][0]["curve"].update(loss=[1.0]), "not a number for every epoch"),
        (resealed(lambda setup: setup["form"].update(waypoints=10**6)), "waypoints=1000000 must be 2 to 4"),
        (resealed(lambda setup: setup["form"].update(waypoints=2)), "does not fit"),
    ],
)
def test_pull__a_list_that_lies_is_refused_and_nothing_enters_the_cache(hub, store, change, message):
    push_experts(store, REPO, PushOptions())
    shutil.rmtree(experts_root())
    changed_list(hub, change)
    with pytest.raises(ArtifactError, match=message):
        pull_experts(parse_address(REPO), Cache())
    assert not list(experts_root().glob("*/expert-*.safetensors"))


@pytest.mark.parametrize("text", ['{"setup": ' + "[" * 900 + "]" * 900 + "}", '{"setup": {"seed": 1e400}}', "[]", "{"])
def test_pull__a_list_of_strange_values_is_refused_by_our_errors(hub, store, text):
    push_experts(store, REPO, PushOptions())
    put(hub, LIST, text.encode())
    with pytest.raises(ArtifactError):
        pull_experts(parse_address(REPO), Cache())


def test_pull__what_was_pulled_is_known_by_its_revision(hub, store, tiny, tmp_path):
    commit = push_experts(store, REPO, PushOptions()).commit
    shutil.rmtree(experts_root())
    pull_experts(parse_address(REPO), Cache())
    settings = {**tiny, **CONVEX}
    ds = compress("digits", ipc=1, method="mct", preset="smoke", settings=settings, out=tmp_path / "a", device="cpu")
    assert ds.config["experts"]["pulled_from"] == [f"{REPO}@{commit}"]


def test_pull__an_experts_file_that_is_damaged_or_too_large_is_refused(hub, store, tmp_path):
    push_experts(store, REPO, PushOptions())
    good = load_file(store.tensors_path(0))
    shutil.rmtree(experts_root())
    good["start"][0] = float("nan")
    save_file(good, tmp_path / "x")
    bad = (tmp_path / "x").read_bytes()
    put(hub, "expert-0000.safetensors", bad)
    changed_list(hub, lambda v: v["experts"][0].update(sha256=storage.sha256_file(tmp_path / "x")))
    with pytest.raises(ArtifactError, match="not all of its numbers are finite"):
        pull_experts(parse_address(REPO), Cache())
    put(hub, "expert-0000.safetensors", bad + b"0" * 2**23)
    requests = len(hub.requests)
    with pytest.raises(ArtifactError, match=r"expert-0000\.safetensors has \d+ bytes, it may have"):
        pull_experts(parse_address(REPO), Cache())
    assert not any("expert-0000" in str(one) and "resolve" in str(one) for one in hub.requests[requests:])


def test_pull__what_is_no_set_of_trajectories(hub, made, tmp_path):
    hub.add("org/set", made)
    with pytest.raises(ArtifactError, match=r"org/set holds no expert trajectories: it has no trajectories\.json"):
        pull_experts(parse_address("org/set"), Cache())
    with pytest.raises(NotFoundError):
        pull_experts(parse_address("org/nothing"), Cache())


def test_pull__completes_experts_that_were_trained_less_far_here(hub, store, monkeypatch):
    push_experts(store, REPO, PushOptions())
    whole, state = store.tensors_path(1).read_bytes(), TrajectoryStore.state
    store.tensors_path(1).write_bytes(b"shorter")

    def short(self, expert, epochs=0):  # good as far as it goes
        is_short = expert == 1 and self.tensors_path(1).read_bytes() == b"shorter"
        return ("short" if epochs else "good") if is_short else state(self, expert, epochs)

    monkeypatch.setattr(TrajectoryStore, "state", short)
    assert pull_experts(parse_address(REPO), Cache()).added == 1
    assert store.tensors_path(1).read_bytes() == whole


def test_source__must_fit_the_run(store, tiny, tmp_path):
    def run(**settings):
        given, out = {**tiny, "experts.source": store.folder.name, **settings}, tmp_path / str(len(settings))
        words = {"method": "mct", "preset": "smoke", "device": "cpu", "replace": True}
        return compress("digits", ipc=1, settings=given, out=out, **words)

    with pytest.raises(ConfigError, match="was trained with another network"):
        run(**{"network.width": 5})
    with pytest.raises(ConfigError, match=r"was trained with other data \(or another split of them\)"):
        run(**{"dataset.max_train": 300})
    with pytest.raises(ConfigError, match=r"holds 2 experts, experts\.count asks for 9; `experts\.count=2`"):
        run(**{"experts.count": 9})
    with pytest.raises(ConfigError, match="no fingerprint of 16 hex digits"):
        run(**{"experts.source": "../x"})
    with pytest.raises(NotFoundError, match="no expert trajectories called 0123456789abcdef"):
        run(**{"experts.source": "0123456789abcdef"})
    store.tensors_path(1).unlink()
    with pytest.raises(TrajectoryError, match=r"expert 1 of .* is damaged; pull it again"):
        run()


@pytest.mark.parametrize("method", ["mtt", "ast"])
def test_form__any_method_can_take_it(method, tiny, tmp_path):
    settings = {**tiny, **CONVEX, "distill.sampler": "continuous", "distill.expert_epochs": 1.5}
    ds = compress("digits", ipc=1, method=method, preset="smoke", settings=settings, out=tmp_path / "x", device="cpu")
    assert ds.config["settings"]["distill"]["expert_epochs"] == 1.5
