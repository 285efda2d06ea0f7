"""Push, pull and load by the real huggingface_hub client over HTTP against a stand-in Hub."""

import hashlib
import json
import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import yaml
from huggingface_hub import constants

from distillkit import load_distilled, rng, storage
from distillkit.artifact import front_matter, own_section
from distillkit.artifact.layout import FILES, PUBLISHED
from distillkit.artifact.write import write_config
from distillkit.errors import (
    ArtifactError,
    AuthError,
    ConfigError,
    DataError,
    NetworkError,
    NotFoundError,
    PrivateSourceWarning,
    StorageError,
)
from distillkit.hub import upload
from distillkit.hub.address import parse_address
from distillkit.hub.client import Cache
from distillkit.networks.convnet import ConvNet
from distillkit.pipeline import save_reports
from distillkit.records import EvalReport
from distillkit.sharing.pull import glance, pull
from distillkit.sharing.push import PublishedArtifact, PushOptions, plan_push, push
from tests.artifact.small import write_small
from tests.hub_stand_in import Answer, Repository

REPO = "org/digits-ipc2"


def network(seed):
    with rng.global_seed(seed, "test"):
        return ConvNet(1, (8, 8), 10, 4, 2, "instance")


def files_of(hub, revision="main", repo=REPO):
    found = hub.repos[repo]
    return found.commits[found.resolve(revision)]


def commits(hub, repo=REPO):
    return len(hub.repos[repo].messages) - 1  # without the one that the Hub makes itself


def write_own(folder, text):
    path = folder / FILES.card
    before = path.read_text()
    inside = own_section.wrap(own_section.find(before))
    assert inside in before
    path.write_text(before.replace(inside, own_section.wrap(text)))


def lose_the_answer_of_the_next_commit(hub):
    original = hub.commit

    def commit_and_break(*arguments):
        try:
            original(*arguments)
        finally:
            hub.commit = original
            raise ConnectionResetError

    hub.commit = commit_and_break


def test_push__one_commit_a_tag_and_a_card_with_its_own_address(hub, copy):
    report = push(copy, REPO, PushOptions())
    assert (report.revision, report.changed, commits(hub)) == ("v1", True, 1)
    assert hub.repos[REPO].tags == {"v1": report.commit}
    stored = files_of(hub, "v1")
    assert {name for name in stored if name != ".gitattributes"} == set(PUBLISHED)
    for name in PUBLISHED:
        if name not in (FILES.card, FILES.config):
            assert stored[name] == (copy / name).read_bytes()
    card = stored[FILES.card].decode()
    assert f'load_distilled("{REPO}", revision="v1")' in card
    assert (copy / FILES.card).read_text() == card  # the folder's own card names the repository too
    assert report.load_line == f'load_distilled("{REPO}", revision="{report.commit}")'
    assert hub.asked("GET /api/datasets/org/digits-ipc2/tree")


def test_push__repeated_with_no_change_makes_nothing(hub, copy, made, tmp_path):
    first = push(copy, REPO, PushOptions())
    for folder in (copy, shutil.copytree(made, tmp_path / "other")):  # one that knows of the push, one that does not
        again = push(folder, REPO, PushOptions())
        assert (again.changed, again.commit, again.revision) == (False, first.commit, "v1")
    assert (commits(hub), list(hub.repos[REPO].tags)) == (1, ["v1"])
    assert push(copy, REPO, PushOptions(tag="v1")).changed is False


def test_push__a_change_is_the_next_version_and_a_tag_is_never_moved(hub, copy):
    first = push(copy, REPO, PushOptions(tag="v1"))
    write_own(copy, "Made for a talk.")
    with pytest.raises(ConfigError, match="a tag is never moved"):
        push(copy, REPO, PushOptions(tag="v1"))
    second = push(copy, REPO, PushOptions())
    assert (second.revision, commits(hub)) == ("v2", 2)
    assert hub.repos[REPO].tags == {"v1": first.commit, "v2": second.commit}
    assert "Made for a talk." in files_of(hub)[FILES.card].decode()
    assert push(copy, REPO, PushOptions(tag="final")).revision == "final"


def test_push__interrupted_before_the_tag_is_completed_by_the_next(hub, copy):
    hub.fail("POST .*/tag/", 503, 5)
    with pytest.raises(NetworkError, match="503"):
        push(copy, REPO, PushOptions())
    assert hub.repos[REPO].tags == {}
    again = push(copy, REPO, PushOptions())
    assert (again.changed, again.revision, commits(hub)) == (False, "v1", 1)
    assert hub.repos[REPO].tags == {"v1": again.commit}


def test_push__what_was_added_to_the_folder_meanwhile_stays(hub, copy, monkeypatch):
    settle = PublishedArtifact.settle

    def late(*arguments):
        save_reports(copy, {"lenet": EvalReport((0.5,), {"lr": 0.1})})
        write_own(copy, "WRITTEN MEANWHILE")
        settle(*arguments)

    monkeypatch.setattr(PublishedArtifact, "settle", late)
    report = push(copy, REPO, PushOptions())
    ds = load_distilled(copy)
    assert ds.results["architectures"]["lenet"]["accuracies"] == [0.5]
    assert ds.config["hub"]["repo"] == REPO
    assert "lenet" in (copy / FILES.card).read_text()
    assert own_section.find((copy / FILES.card).read_text()) == "WRITTEN MEANWHILE"
    assert "lenet" not in json.loads(files_of(hub)[FILES.results])["architectures"]
    monkeypatch.setattr(PublishedArtifact, "settle", settle)
    assert (push(copy, REPO, PushOptions()).revision, report.revision) == ("v2", "v1")


def test_push__503_twice_then_success(hub, copy):
    hub.fail("POST .*/commit/", 503, 2)
    assert push(copy, REPO, PushOptions()).changed
    assert (len(hub.asked("POST .*/commit/")), commits(hub)) == (3, 1)
    hub.fail("POST .*/commit/", 429, 9)
    write_own(copy, "again")
    with pytest.raises(NetworkError, match="429"):
        push(copy, REPO, PushOptions())
    assert len(hub.asked("POST .*/commit/")) == 3 + 5  # bounded


@pytest.mark.parametrize("what", ["PUT /large/", "POST .*/commit/"])
def test_push__connection_cut_in_the_middle_of_an_upload(hub, copy, what):
    hub.cut(what)
    report = push(copy, REPO, PushOptions())
    assert (report.changed, commits(hub)) == (True, 1)
    assert len(hub.asked(what)) > 1
    assert load_distilled(REPO).revision == report.commit


def test_push__answer_of_the_commit_lost_makes_no_second_one(hub, copy):
    lose_the_answer_of_the_next_commit(hub)
    report = push(copy, REPO, PushOptions())
    assert (commits(hub), report.commit) == (1, hub.repos[REPO].branches["main"])


@pytest.mark.parametrize(
    ("token", "repo", "error", "message"),
    [
        ("wrong", REPO, AuthError, "does not know this token"),
        ("read-token", REPO, AuthError, "refuses"),
        ("write-token", "stranger/set", AuthError, "refuses"),
        (None, REPO, AuthError, "there is no token"),
    ],
)
def test_push__whoever_may_not_is_told_so(hub, copy, monkeypatch, token, repo, error, message):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(error, match=message) as caught:
        push(copy, repo, PushOptions(), token)
    assert caught.value.exit_status == 3
    assert repo not in hub.repos


def test_push__private_is_private_and_never_lands_in_a_public_one(hub, copy):
    push(copy, "org/secret", PushOptions(private=True))
    assert hub.repos["org/secret"].private
    push(copy, REPO, PushOptions())
    write_own(copy, "secret")
    with pytest.raises(ConfigError, match="there already and public"):
        push(copy, REPO, PushOptions(private=True))
    assert commits(hub) == 1


def test_push__pull_request_and_branch(hub, copy):
    push(copy, REPO, PushOptions())
    write_own(copy, "from a friend")
    report = push(copy, REPO, PushOptions(create_pr=True))
    assert (report.revision, report.url) == ("refs/pr/1", f"{hub.url}/datasets/{REPO}/discussions/1")
    again = push(copy, REPO, PushOptions(create_pr=True))
    assert (again.changed, again.revision, again.url, hub.repos[REPO].pulls) == (False, "refs/pr/1", report.url, 1)
    assert list(hub.repos[REPO].tags) == ["v1"]
    assert load_distilled(f"{REPO}@refs/pr/1").revision == report.commit
    branch = push(copy, REPO, PushOptions(branch="next"))
    assert hub.repos[REPO].branches["next"] == branch.commit != hub.repos[REPO].branches["main"]
    with pytest.raises(ConfigError, match="tag it after"):
        push(copy, REPO, PushOptions(create_pr=True, tag="v9"))


def test_push__whoever_pushed_meanwhile_is_not_overwritten(hub, copy, monkeypatch):
    push(copy, REPO, PushOptions())
    write_own(copy, "mine")
    original = hub.write

    def race(name, repo, rest, *others):
        if rest.startswith("/commit/"):
            hub.write = original
            repo.commit("main", {**repo.commits[repo.branches["main"]], "extra.txt": b"theirs"}, "theirs")
        original(name, repo, rest, *others)

    hub.write = race
    with pytest.raises(DataError, match="in the meantime"):
        push(copy, REPO, PushOptions())
    assert "extra.txt" in files_of(hub)


def test_own_section__written_on_the_hub_or_here_survives_and_a_conflict_is_refused(hub, copy, made, tmp_path):
    push(copy, REPO, PushOptions())
    repo = hub.repos[REPO]
    files = dict(files_of(hub))
    files[FILES.card] = files[FILES.card].replace(
        own_section.wrap("").encode(), own_section.wrap("On the Hub").encode()
    )
    repo.commit("main", files, "edited in the browser")
    fresh = shutil.copytree(made, tmp_path / "fresh")  # a folder that knows nothing of it
    report = push(fresh, REPO, PushOptions())
    assert "On the Hub" in files_of(hub)[FILES.card].decode()
    assert own_section.find((fresh / FILES.card).read_text()) == "On the Hub"
    write_own(copy, "Here")
    with pytest.raises(ConfigError, match="both were changed"):
        push(copy, REPO, PushOptions())
    assert repo.branches["main"] == report.commit
    push(copy, REPO, PushOptions(replace=True))
    assert own_section.find(files_of(hub)[FILES.card].decode()) == "Here"


def test_plan__lists_files_without_a_network(copy, monkeypatch):
    sizes = plan_push(copy, REPO, PushOptions())
    assert set(sizes) == set(PUBLISHED)
    assert sizes[FILES.tensors] == (copy / FILES.tensors).stat().st_size
    with pytest.raises(ConfigError, match="org/name"):
        plan_push(copy, "no-namespace", PushOptions())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / FILES.preview).write_bytes(b"no picture"), "is no picture"),
        (lambda f: (f / FILES.parquet).write_bytes(b"no table"), "cannot be read"),
        (lambda f: (f / FILES.curves).unlink(), "it has no curves"),
        (lambda f: (f / FILES.tensors).write_bytes(b"\0" * 50), "is damaged"),
    ],
)
def test_push__nothing_damaged_is_published(hub, copy, damage, message):
    damage(copy)
    with pytest.raises(ArtifactError, match=message):
        push(copy, REPO, PushOptions())
    assert hub.requests == []


def test_push__what_mends_an_incomplete_artifact_is_told(hub, copy):
    (copy / FILES.preview).unlink()
    (copy / FILES.curves).unlink()
    with pytest.raises(ArtifactError, match=r"no preview\.png, no curves\.png; run the command that made it once more"):
        push(copy, REPO, PushOptions())
    shutil.rmtree(copy / FILES.run)
    with pytest.raises(ArtifactError, match=r"get or make the whole artifact again: here is no run/ to pack it from"):
        push(copy, REPO, PushOptions())


def test_push__results_must_be_there(hub, copy):
    results = json.loads((copy / FILES.results).read_text())
    (copy / FILES.results).write_text(json.dumps({**results, "architectures": {}}))
    write_config(copy, json.loads((copy / FILES.config).read_text()))
    with pytest.raises(ArtifactError, match="has no results"):
        push(copy, REPO, PushOptions())


def test_push__only_the_artifact_leaves_the_machine(hub, copy):
    (copy / "secret.txt").write_text("token")
    (copy / "run" / "notes.txt").write_text("mine")
    push(copy, REPO, PushOptions())
    assert not [name for name in files_of(hub) if "secret" in name or "run" in name]


def test_push__by_xet_as_the_client_does_by_default(hub, copy, tmp_path, monkeypatch):
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.xet = tmp_path / "cas"
    hub.xet.mkdir()
    report = push(copy, REPO, PushOptions())
    stored = files_of(hub, "v1")
    assert (report.changed, commits(hub)) == (True, 1)
    content = (copy / FILES.tensors).read_bytes()
    assert stored[FILES.tensors].decode() == f"xet:{hashlib.sha256(content).hexdigest()}:{len(content)}"
    assert hub.asked("xet-write-token")
    assert not hub.asked("PUT /large/")


def test_push__pull_request_whose_answer_was_lost_is_not_opened_twice(hub, copy):
    push(copy, REPO, PushOptions())
    write_own(copy, "from a friend")
    lose_the_answer_of_the_next_commit(hub)
    report = push(copy, REPO, PushOptions(create_pr=True))
    assert (report.revision, hub.repos[REPO].pulls) == ("refs/pr/1", 1)


def test_push__reads_are_tried_again_too(hub, copy):
    hub.fail("GET /api/datasets/org/digits-ipc2$", 503, 1)
    hub.fail("GET .*/refs", 503, 1)
    assert push(copy, REPO, PushOptions()).changed
    write_own(copy, "again")
    hub.fail("POST .*/commit/", 503, 1)
    state, broken = hub.read, []  # the look whether the commit was made fails as well, at first

    def read(name, repo, rest, query, body):
        if len(hub.asked("POST .*/commit/")) == 2 and len(broken) < 5:
            broken.append(rest)
            raise Answer(503, {"error": "out of order"})
        state(name, repo, rest, query, body)

    hub.read = read
    assert push(copy, REPO, PushOptions()).revision == "v2"
    assert broken


def test_push__into_a_repository_of_something_else_only_when_asked(hub, copy, tmp_path):
    (tmp_path / "other" / "data").mkdir(parents=True)
    (tmp_path / "other" / "README.md").write_text("# Written by hand")
    (tmp_path / "other" / "data" / "train-00000-of-00002.parquet").write_bytes(b"rows")
    hub.add(REPO, tmp_path / "other")
    with pytest.raises(
        ConfigError, match=r"is not a distillkit artifact: it holds README\.md, data/train-00000-of-00002"
    ):
        push(copy, REPO, PushOptions())
    assert files_of(hub)["README.md"] == b"# Written by hand"
    push(copy, REPO, PushOptions(replace=True))
    matter = yaml.safe_load(files_of(hub)[FILES.card].decode().split("---\n")[1])
    assert matter["configs"][0]["data_files"][0]["path"] == FILES.parquet  # not the foreign rows


def test_push__a_failed_tag_says_what_was_published(hub, copy):
    hub.fail("POST .*/tag/", 400, 9)
    with pytest.raises(DataError, match=r"published as commit [0-9a-f]{40}, but not tagged v1: .*push again to tag it"):
        push(copy, REPO, PushOptions())
    assert commits(hub) == 1


@pytest.mark.parametrize("tag", ["t" * 300, "../x", "v1..2", "v1.", "a.lock", "main", "HEAD", "", "-x", "a b"])
def test_tag__that_git_or_we_would_stumble_over_is_refused(copy, tag):
    with pytest.raises(ConfigError, match="is no tag"):
        plan_push(copy, REPO, PushOptions(tag=tag))


def test_push__other_answers_keep_the_reason_and_are_not_called_a_network_problem(hub, copy):
    hub.fail("POST .*/commit/", 400, 1)
    with pytest.raises(DataError, match="does not accept"):
        push(copy, REPO, PushOptions())
    assert len(hub.asked("POST .*/commit/")) == 1


def test_push__read_only_token_on_a_repository_that_is_there(hub, copy):
    push(copy, REPO, PushOptions())
    write_own(copy, "changed")
    with pytest.raises(AuthError, match="refuses"):
        push(copy, REPO, PushOptions(), "read-token")
    assert commits(hub) == 1


@pytest.mark.parametrize("token", ["sec ret", "sécret", "", "a\nb"])
def test_token__of_odd_characters_is_neither_sent_nor_shown(hub, copy, token):
    with pytest.raises(AuthError, match="characters that no token has") as caught:
        push(copy, REPO, PushOptions(), token)
    assert not token or token not in str(caught.value)
    assert hub.requests == []


def test_token__white_space_around_it_does_not_matter(hub, copy, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "read-token")
    assert push(copy, REPO, PushOptions(), " write-token\n").changed


def test_push__paths_of_this_machine_stay_here(hub, copy):
    config = json.loads((copy / FILES.config).read_text())
    config["settings"]["dataset"]["name"] = "/home/alice/clients/acme"
    config["source"] |= {"hub_id": None, "name": "acme", "source": "acme"}
    (copy / FILES.config).write_text(json.dumps(config))
    push(copy, REPO, PushOptions())
    assert all(b"alice" not in content for content in files_of(hub).values())
    assert json.loads((copy / FILES.config).read_text())["settings"]["dataset"]["name"] == "/home/alice/clients/acme"
    assert push(copy, REPO, PushOptions()).changed is False


def test_own_section__of_windows_and_damaged_ones_on_the_hub(hub, copy, made, tmp_path):
    write_own(copy, "Line one\nline two")
    push(copy, REPO, PushOptions())
    repo, files = hub.repos[REPO], dict(files_of(hub))
    crlf = files[FILES.card].replace(b"\n", b"\r\n")
    repo.commit("main", {**files, FILES.card: crlf}, "from Windows")
    push(copy, REPO, PushOptions())
    assert own_section.find(files_of(hub)[FILES.card].decode()) == "Line one\nline two"
    broken = files_of(hub)[FILES.card].replace(own_section.END.encode(), b"")
    repo.commit("main", {**files_of(hub), FILES.card: broken}, "damaged")
    with pytest.raises(ConfigError, match=f"the card of {REPO} has 1 lines"):
        push(copy, REPO, PushOptions())
    push(copy, REPO, PushOptions(replace=True))


def test_gated__is_an_authentication_error(hub, copy):
    push(copy, REPO, PushOptions())
    original = hub.resolve

    def gated(*_):
        raise Answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})

    hub.resolve = gated
    with pytest.raises(AuthError, match="is gated"):
        load_distilled(REPO)
    hub.resolve = original


# load


def test_load__trains_bit_for_bit_as_from_the_folder(hub, copy):
    push(copy, REPO, PushOptions())
    ours, theirs = load_distilled(copy), load_distilled(REPO)
    trained = [ds.train(network(3), epochs=2, seed=5) for ds in (ours, theirs)]
    for left, right in zip(trained[0].parameters(), trained[1].parameters(), strict=True):
        assert torch.equal(left, right)
    start = list(network(3).parameters())
    assert not torch.equal(start[0], next(trained[0].parameters()))
    assert ours.evaluate(trained[0]) == theirs.evaluate(trained[1])


def test_load__every_form_of_address_and_the_revision_is_resolved_once(hub, copy):
    first = push(copy, REPO, PushOptions())
    write_own(copy, "second")
    second = push(copy, REPO, PushOptions())
    assert load_distilled(REPO).revision == second.commit
    assert load_distilled(f"{REPO}@v1").revision == first.commit
    assert load_distilled(REPO, revision="v1").revision == first.commit
    assert load_distilled(f"hf://datasets/{REPO}@{first.commit}").revision == first.commit
    hub.requests.clear()
    load_distilled(f"{REPO}@v1")
    assert len(hub.requests) == 1  # the revision; the files are in the cache
    hub.requests.clear()
    load_distilled(f"{REPO}@{first.commit}")
    assert hub.requests == []


def test_load__only_what_loading_needs_is_fetched(hub, copy):
    push(copy, REPO, PushOptions())
    hub.requests.clear()
    load_distilled(REPO)
    assert not hub.asked(r"resolve/.*\.(png|parquet|md)")


def test_load__offline_from_the_cache(hub, copy, monkeypatch, tmp_path):
    commit = push(copy, REPO, PushOptions()).commit
    load_distilled(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert load_distilled(REPO).revision == commit
    assert hub.requests == []
    with pytest.raises(NetworkError, match=r"offline mode|out of reach"):
        load_distilled("org/never-seen")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert load_distilled(REPO, local_files_only=True).revision == commit
    with pytest.raises(NetworkError, match="local cache"):
        load_distilled(REPO, local_files_only=True, cache_dir=tmp_path / "empty")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody there
    assert load_distilled(REPO).revision == commit
    with pytest.raises(NetworkError, match=r"out of reach|cannot be reached"):
        load_distilled("org/never-seen")


def test_load__private_missing_and_wrong_token(hub, copy, monkeypatch):
    push(copy, "org/secret", PushOptions(private=True))
    assert len(load_distilled("org/secret")) == 20
    for token in (False, "stranger-token"):
        with pytest.raises(NotFoundError, match="or it is private"):
            load_distilled("org/secret", token=token)
    with pytest.raises(AuthError, match="does not know this token"):
        load_distilled("org/secret", token="wrong")
    with pytest.raises(NotFoundError, match="has no data set org/absent"):
        load_distilled("org/absent")
    with pytest.raises(NotFoundError, match="no such revision"):
        load_distilled("org/secret@v9")


def test_load__no_artifact_newer_format_damaged_or_too_large(hub, copy, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.csv").write_text("1,2")
    hub.add("org/other", tmp_path / "other")
    with pytest.raises(ArtifactError, match=r"org/other is not a distillkit artifact: it has no distill_config\.json"):
        load_distilled("org/other")
    push(copy, REPO, PushOptions())
    files = dict(files_of(hub))

    def variant(name, **changes):
        hub.repos[name] = type(hub.repos[REPO])()
        hub.repos[name].commit("main", {key: value for key, value in {**files, **changes}.items() if value}, "variant")

    config = json.loads(files[FILES.config])
    variant("org/newer", **{FILES.config: json.dumps({**config, "format_version": "99.0"}).encode()})
    with pytest.raises(ArtifactError, match="upgrade"):
        load_distilled("org/newer")
    variant("org/cut", **{FILES.tensors: files[FILES.tensors][:-9]})
    with pytest.raises(ArtifactError, match="org/cut is damaged"):
        load_distilled("org/cut")
    variant("org/huge", **{FILES.tensors: files[FILES.tensors] + b"\0" * 2_000_000})
    hub.requests.clear()
    with pytest.raises(ArtifactError, match="it may have"):
        load_distilled("org/huge")
    assert not hub.asked("resolve/.*safetensors")  # refused before it was fetched
    variant("org/endless", **{FILES.config: files[FILES.config] + b" " * 2**20})
    hub.requests.clear()
    with pytest.raises(ArtifactError, match=r"distill_config\.json has \d+ bytes, it may have"):
        load_distilled("org/endless")
    assert not hub.asked("resolve/.*json")
    variant("org/without", **{FILES.recipe: None})
    with pytest.raises(ArtifactError, match=r"it has no recipe\.json"):
        load_distilled("org/without")


TENSORS = r"GET .*resolve/.*distilled\.safetensors"


def test_load__connection_cut_in_the_middle_of_a_download(hub, copy):
    """The client asks for the rest, and nobody notices."""
    push(copy, REPO, PushOptions())
    hub.cut(TENSORS)
    assert torch.equal(load_distilled(REPO).images, load_distilled(copy).images)
    assert len(hub.asked(TENSORS)) == 2


def test_load__a_file_that_comes_in_part_is_completed(hub, copy):
    push(copy, REPO, PushOptions())
    hub.shorten(TENSORS, 2)
    assert torch.equal(load_distilled(REPO).images, load_distilled(copy).images)
    assert len(hub.asked(TENSORS)) == 3


def test_load__a_file_that_stays_short_is_a_network_error_and_the_next_load_goes_on(hub, copy):
    push(copy, REPO, PushOptions())
    hub.shorten(TENSORS, 5)
    with pytest.raises(NetworkError, match=f"the Hub sent a part of a file of {REPO} and not the whole") as caught:
        load_distilled(REPO)
    assert caught.value.exit_status == 5
    assert len(hub.asked(TENSORS)) == 5  # bounded
    assert torch.equal(load_distilled(REPO).images, load_distilled(copy).images)


@pytest.mark.parametrize("status", [429, 503])
def test_load__from_the_cache_where_the_hub_keeps_refusing(hub, copy, monkeypatch, caplog, status):
    commit = push(copy, REPO, PushOptions()).commit
    load_distilled(REPO)
    hub.fail(".", status, 10**9)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    for revision in (None, "main"):
        caplog.clear()
        assert load_distilled(REPO, revision=revision).revision == commit
        assert f"Using cached commit hash for '{REPO}'" in caplog.text
    for absent in ("org/never-seen", f"{REPO}@v1"):
        with pytest.raises(NetworkError, match=f"the Hub answered {status} for {absent}") as caught:
            load_distilled(absent)
        assert caught.value.exit_status == 5


def test_load__force_download_fetches_again_and_keeps_the_real_error(hub, copy):
    push(copy, REPO, PushOptions())
    load_distilled(REPO)
    hub.requests.clear()
    load_distilled(REPO, force_download=True)
    assert hub.asked(r"GET .*resolve/.*distilled\.safetensors")
    with pytest.raises(NotFoundError, match="has no data set"):
        load_distilled("org/absent", force_download=True)


def test_push_to_hub__of_a_loaded_set_goes_to_another_repository(hub, copy):
    push(copy, REPO, PushOptions())
    report = load_distilled(REPO).push_to_hub("org/fork", tag="v1")
    assert 'load_distilled("org/fork", revision="v1")' in files_of(hub, repo="org/fork")[FILES.card].decode()
    assert load_distilled("org/fork").revision == report.commit
    assert load_distilled(REPO).config["hub"]["repo"] == REPO  # the cache is not written to


# pull and a look


def test_pull__at_a_revision_into_a_folder(hub, copy, tmp_path):
    first = push(copy, REPO, PushOptions())
    write_own(copy, "second")
    push(copy, REPO, PushOptions())
    out = tmp_path / "pulled"
    fetched = pull(parse_address(f"{REPO}@v1"), out, Cache())
    assert fetched.commit == first.commit
    stored = files_of(hub, "v1")
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == set(PUBLISHED)
    assert all((out / name).read_bytes() == stored[name] for name in PUBLISHED)
    with pytest.raises(ConfigError, match="holds files already"):
        pull(parse_address(REPO), out, Cache())
    pull(parse_address(REPO), out, Cache(), replace=True)
    assert own_section.find((out / FILES.card).read_text()) == "second"
    assert push(out, REPO, PushOptions()).changed is False


def test_pull__nothing_but_the_artifact_comes(hub, copy, tmp_path):
    push(copy, REPO, PushOptions())
    files = dict(files_of(hub))
    hub.repos[REPO].commit("main", {**files, "loader.py": b"import os", "../outside.txt": b"x"}, "hostile")
    pull(parse_address(REPO), tmp_path / "out", Cache())
    assert not (tmp_path / "out" / "loader.py").exists()
    assert not list(tmp_path.rglob("outside.txt"))


def test_pull__damaged_leaves_nothing(hub, copy, tmp_path):
    push(copy, REPO, PushOptions())
    files = dict(files_of(hub))
    hub.repos[REPO].commit("main", {**files, FILES.tensors: files[FILES.tensors][:-1]}, "cut")
    with pytest.raises(ArtifactError, match="is damaged"):
        pull(parse_address(REPO), tmp_path / "out", Cache())
    assert not (tmp_path / "out").exists()


def test_glance__is_one_ranged_request(hub, copy):
    push(copy, REPO, PushOptions())
    hub.requests.clear()
    seen = glance(parse_address(REPO), Cache())
    assert len(hub.requests) == 1
    assert (seen.identity.ipc, seen.identity.num_classes) == (2, 10)
    assert seen.tensors["images"] == ("F32", (20, 1, 8, 8))
    results = json.loads((copy / FILES.results).read_text())
    assert seen.identity.accuracy["random"].mean == results["baselines"]["random"]["mean"]
    with pytest.raises(NotFoundError):
        glance(parse_address("org/absent"), Cache())
    hub.repos[REPO].commit("main", {FILES.tensors: b"\x02\0\0\0\0\0\0\0{}"}, "another safetensors file")
    with pytest.raises(ArtifactError, match="format_version"):
        glance(parse_address(REPO), Cache())


def test_card__front_matter_of_the_pushed_card_is_what_the_hub_wants(hub, copy):
    push(copy, REPO, PushOptions())
    text = files_of(hub)[FILES.card].decode()
    matter = yaml.safe_load(text.split("---\n")[1])
    assert matter["configs"][0]["data_files"] == [{"split": "train", "path": FILES.parquet}]
    assert matter["dataset_info"]["splits"][0]["num_examples"] == 20
    assert hub.asked("POST /api/validate-yaml")


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/datasets/org/x",
        "https://huggingface.co/org/x",
        "https://huggingface.co/spaces/org/x",
        "https://huggingface.co/datasets/org",
        "https://huggingface.co/datasets/org/x/y",
        "https://huggingface.co/datasets/org/../x",
        "https://huggingface.co.evil.org/datasets/org/x",
        "org",
        "a/b/c",
        "../x",
        "org/../x",
        "hf://models/org/x",
        "hf://org/x",
        "org/na me",
        "org/x@",
        "org/x@../y",
        "/abs/x",
    ],
)
def test_address__what_is_none_is_refused(text):
    with pytest.raises(ConfigError):
        parse_address(text)


@pytest.mark.parametrize(
    ("page", "revision"),
    [
        ("", None),
        ("/", None),
        ("/tree/main", "main"),
        ("/tree/v1/data", "v1"),
        ("/blob/v1/README.md", "v1"),
        ("/resolve/v1/README.md?download=true", "v1"),
        ("/commit/0123456789", "0123456789"),
        ("/tree/feature%2Fx", "feature/x"),
        ("/tree/refs%2Fpr%2F1", "refs/pr/1"),
        ("/discussions/3", "refs/pr/3"),
        ("/discussions", None),
        ("/viewer/default/train", None),
        ("?row=3#top", None),
    ],
)
def test_address__of_a_page_in_the_browser(page, revision, monkeypatch):
    for host in ("https://huggingface.co", "https://hf.co", "http://hub.test:8080"):
        monkeypatch.setattr(constants, "ENDPOINT", "http://hub.test:8080")
        found = parse_address(f"{host}/datasets/org/na-me.1{page}")
        assert (found.repo, found.revision) == ("org/na-me.1", revision)


def test_address__of_a_page_is_taken_by_push_pull_load_and_info(hub, copy, tmp_path):
    page = f"{hub.url}/datasets/{REPO}"
    report = push(copy, page, PushOptions())
    assert (report.repo, report.url) == (REPO, page)
    assert load_distilled(report.url).revision == report.commit
    assert load_distilled(f"{page}/tree/v1").revision == report.commit
    assert pull(parse_address(f"{page}/tree/v1"), tmp_path / "out", Cache()).commit == report.commit
    with pytest.raises(ConfigError, match="name a branch with `revision`"):
        push(copy, f"{page}/tree/v1", PushOptions())


def test_address__two_revisions_are_one_too_many(copy):
    assert str(parse_address("hf://datasets/org/x@refs/pr/3")) == "org/x@refs/pr/3"
    with pytest.raises(ConfigError, match="give one of them"):
        parse_address("org/x@a", "b")
    with pytest.raises(ConfigError, match="has no revisions"):
        load_distilled(copy, revision="v1")


# what a commit holds, and whose the card is


def test_push__an_ignore_file_in_the_repository_is_found_out(hub, copy):
    """A commit that lacks files is no success, is not tagged, and is completed once the cause is gone."""
    push(copy, REPO, PushOptions())
    repo = hub.repos[REPO]
    repo.commit("main", {".gitattributes": b"", ".gitignore": b"*.png\ndata/*\n", FILES.config: b"{}"}, "mine")
    with pytest.raises(StorageError, match=r"lacks curves\.png, data/train.*parquet, preview\.png; .*\.gitignore"):
        push(copy, REPO, PushOptions())
    assert list(repo.tags) == ["v1"]
    repo.commit("main", {name: text for name, text in files_of(hub).items() if name != ".gitignore"}, "mended")
    report = push(copy, REPO, PushOptions())
    assert (report.revision, repo.tags["v2"]) == ("v2", report.commit)
    assert set(PUBLISHED) <= set(files_of(hub, "v2"))


def test_push__a_commit_with_other_bytes_is_found_out(hub, copy):
    original = hub.commit

    def swapped(name, repo, *others):
        try:
            original(name, repo, *others)
        finally:
            files = repo.commits[repo.branches["main"]]
            files[FILES.recipe], files["recipes/old.json"] = files[FILES.recipe] + b" ", b"{}"

    hub.commit = swapped
    with pytest.raises(StorageError, match=r"has other bytes in recipe\.json and still has recipes/old\.json"):
        push(copy, REPO, PushOptions())
    assert hub.repos[REPO].tags == {}


def test_push__that_cannot_look_at_its_commit_says_so(hub, copy):
    original = hub.commit

    def then_out_of_order(*arguments):
        hub.fail("GET .*/tree/", 403, 1)
        original(*arguments)

    hub.commit = then_out_of_order
    with pytest.raises(AuthError, match=r"published as commit [0-9a-f]{40}, but it could not be checked: .*refuses"):
        push(copy, REPO, PushOptions())


def change_head(hub, change):
    """What the owner of the repository does to the head of its card, in the browser."""
    files = dict(files_of(hub))
    _, head, body = files[FILES.card].decode().split("---\n", 2)
    files[FILES.card] = f"---\n{change(head)}---\n{body}".encode()
    hub.repos[REPO].commit("main", files, "card edited")


OWNERS = """language: no
extra_gated_prompt: "Be kind: yes?"
extra_gated_fields:
  Affiliation: text
  I agree: checkbox
doi: 10.57967/hf/1234
viewer: false
released: 2026-01-02
"""


def matter_of(hub):
    return front_matter.read(files_of(hub)[FILES.card].decode(), "the card")


def test_card__what_its_owner_wrote_on_the_hub_survives_a_push(hub, copy, made, tmp_path):
    push(copy, REPO, PushOptions())
    before = matter_of(hub)

    def edited(head):
        head = head.replace("license: cc-by-4.0", "license: other\nlicense_name: ours\nlicense_link: LICENSE")
        return head.replace("- distillkit\n", "- distillkit\n- my-own-tag\n").replace("n<1K", "1M<n<10M") + OWNERS

    change_head(hub, edited)
    write_own(copy, "again")
    assert push(copy, REPO, PushOptions()).changed
    after = matter_of(hub)
    assert after["tags"] == [*before["tags"], "my-own-tag"]
    assert (after["license"], after["license_name"], after["license_link"]) == ("other", "ours", "LICENSE")
    assert (after["language"], after["viewer"], after["doi"]) == ("no", False, "10.57967/hf/1234")
    assert after["extra_gated_prompt"] == "Be kind: yes?"
    assert after["extra_gated_fields"] == {"Affiliation": "text", "I agree": "checkbox"}
    assert str(after["released"]) == "2026-01-02"
    assert after["size_categories"] == ["n<1K"]  # of the content: ours
    assert {key: after[key] for key in ("configs", "dataset_info", "pretty_name")} == {
        key: before[key] for key in ("configs", "dataset_info", "pretty_name")
    }
    assert "again" in files_of(hub)[FILES.card].decode()
    fresh = shutil.copytree(made, tmp_path / "fresh")  # a folder that knows nothing of all this
    for folder in (copy, fresh):
        assert push(folder, REPO, PushOptions()).changed is False
    write_own(copy, "and again")
    push(copy, REPO, PushOptions())
    assert matter_of(hub) == after


def licensed(folder, name):
    config = json.loads((folder / FILES.config).read_text())
    write_config(folder, {**config, "source": {**config["source"], "license": name}})


def test_card__a_licence_changed_here_and_there_is_asked_about(hub, copy):
    push(copy, REPO, PushOptions())
    licensed(copy, "mit")
    push(copy, REPO, PushOptions())
    assert matter_of(hub)["license"] == "mit"  # changed here alone
    change_head(hub, lambda head: head.replace("license: mit", "license: cc0-1.0"))
    licensed(copy, "apache-2.0")
    count = commits(hub)
    with pytest.raises(ConfigError, match=r"'cc0-1\.0', that of this folder is 'apache-2\.0', and both were changed"):
        push(copy, REPO, PushOptions())
    assert commits(hub) == count
    push(copy, REPO, PushOptions(replace=True))
    assert matter_of(hub)["license"] == "apache-2.0"


def test_card__of_no_yaml_on_the_hub_is_not_written_over(hub, copy):
    push(copy, REPO, PushOptions())
    change_head(hub, lambda head: head + "tags: [\n")
    write_own(copy, "again")
    with pytest.raises(ConfigError, match=rf"the metadata of the card of {REPO} are no YAML"):
        push(copy, REPO, PushOptions())
    push(copy, REPO, PushOptions(replace=True))
    assert matter_of(hub)["license"] == "cc-by-4.0"


def test_card__gating_of_somebody_elses_repository_stays_and_its_licence_does_not(hub, copy, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / FILES.card).write_text("---\nlicense: mit\ntags: [x]\nextra_gated_prompt: ask\n---\n# Other")
    hub.add(REPO, tmp_path / "other")
    push(copy, REPO, PushOptions(replace=True))
    matter = matter_of(hub)
    assert (matter["extra_gated_prompt"], matter["license"]) == ("ask", "cc-by-4.0")
    assert "x" not in matter["tags"]


TEXTS = [
    "1e3",
    "no",
    "0o17",
    "0x1F",
    "1_000",
    "010",
    "1:20",
    "2024-01-01",
    "a\x85b",
    "c\u2028d",
    ".5",
    "~",
    "True",
    "<<",
]


def test_front_matter__texts_stay_texts_for_readers_of_either_yaml():
    assert front_matter.parse(front_matter.dump({"names": TEXTS})) == {"names": TEXTS}
    assert yaml.safe_load(front_matter.dump({"names": TEXTS})) == {"names": TEXTS}
    lines = front_matter.dump({"names": TEXTS}).splitlines()[1:]
    assert all(line.removeprefix("- ")[0] in "'\"" for line in lines), lines


# reasons, races and references


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (400, DataError, "does not accept org/digits-ipc2: out of order"),
        (402, AuthError, "of the account's plan or quota, not of the token; the Hub says: out of order"),
        (403, AuthError, "it may not write there, .*; the Hub says: out of order"),
        (413, DataError, "does not accept org/digits-ipc2: out of order"),
        (503, NetworkError, "answered 503 for org/digits-ipc2; try again later; the Hub says: out of order"),
    ],
)
def test_push__the_hubs_own_reason_is_told(hub, copy, status, error, message):
    hub.fail("POST .*/commit/", status, 9)
    with pytest.raises(error, match=message) as caught:
        push(copy, REPO, PushOptions())
    assert "hf auth login" in str(caught.value) or status != 403
    assert "hf auth login" not in str(caught.value) or status == 403
    assert str(caught.value).endswith(f"; {REPO} was created for it and is empty: push again, or delete it on the Hub")
    hub.fail("POST .*/commit/", status, 9)
    with pytest.raises(error) as again:
        push(copy, REPO, PushOptions())
    assert "was created" not in str(again.value)


def test_push__three_equal_ones_at_once_are_one(hub, made, tmp_path, monkeypatch):
    folders = [shutil.copytree(made, tmp_path / f"copy-{number}") for number in range(3)]
    commit_at_once, tag_at_once = threading.Barrier(3), threading.Barrier(3)
    commit_folder, create_tag = upload.commit_folder, upload.create_tag
    monkeypatch.setattr(
        upload, "commit_folder", lambda *args, **more: (commit_at_once.wait(60), commit_folder(*args, **more))[1]
    )
    monkeypatch.setattr(upload, "create_tag", lambda *args: (tag_at_once.wait(60), create_tag(*args))[1])
    hub.repos[REPO] = Repository()
    hub.repos[REPO].commit("main", {".gitattributes": b""}, "initial commit")
    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda folder: push(folder, REPO, PushOptions()), folders))
    assert {report.commit for report in reports} == {hub.repos[REPO].tags["v1"]}
    assert (commits(hub), list(hub.repos[REPO].tags)) == (1, ["v1"])


def test_push__a_tag_that_came_in_between_is_never_moved(hub, copy):
    write = hub.write

    def tagged_first(name, repo, rest, *others):
        if rest.startswith("/tag/"):
            repo.tags["v1"] = next(iter(repo.commits))
        write(name, repo, rest, *others)

    hub.write = tagged_first
    with pytest.raises(ConfigError, match=r"published as commit [0-9a-f]{40}, but not tagged v1: .*is there already"):
        push(copy, REPO, PushOptions())


def test_push__a_name_is_a_tag_or_a_branch(hub, copy):
    push(copy, REPO, PushOptions())
    write_own(copy, "again")
    with pytest.raises(ConfigError, match="has a tag v1; choose another branch"):
        push(copy, REPO, PushOptions(branch="v1"))
    hub.repos[REPO].branches["v2"] = hub.repos[REPO].branches["main"]
    with pytest.raises(ConfigError, match="has a branch v2; choose another `tag`"):
        push(copy, REPO, PushOptions(tag="v2"))
    assert (list(hub.repos[REPO].branches), commits(hub)) == (["main", "v2"], 1)
    assert push(copy, REPO, PushOptions()).revision == "v3"


def test_glance__out_of_reach_is_a_look_into_the_cache(hub, copy, monkeypatch):
    push(copy, REPO, PushOptions())
    load_distilled(REPO)
    seen = glance(parse_address(REPO), Cache())
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    assert glance(parse_address(REPO), Cache()) == seen
    with pytest.raises(NetworkError):
        glance(parse_address("org/never-seen"), Cache())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert glance(parse_address(REPO), Cache()) == seen


def header(value):
    text = json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x02", "is no safetensors file"),
        (header([]), "is no safetensors file"),
        (header(3), "is no safetensors file"),
        (header({"images": 3}), "is no safetensors file"),
        (header({}), r"distilled\.safetensors has format_version None"),
    ],
)
def test_glance__at_no_artifact_is_one_sentence(hub, copy, content, message):
    hub.repos[REPO] = Repository()
    hub.repos[REPO].commit("main", {FILES.tensors: content}, "strange")
    with pytest.raises(ArtifactError, match=message):
        glance(parse_address(REPO), Cache())


def test_glance__shapes_must_be_what_the_header_says(hub, copy):
    push(copy, REPO, PushOptions())
    content = files_of(hub)[FILES.tensors]
    length = int.from_bytes(content[:8], "little")
    stored = json.loads(content[8 : 8 + length])
    for name, shape, words in (("images", [21, 1, 8, 8], r"shape \[21, 1, 8, 8\]"), ("labels", None, "no such tensor")):
        changed = {key: dict(value) for key, value in stored.items()}
        changed.pop(name) if shape is None else changed[name].update(shape=shape)
        hub.repos[REPO].commit("main", {FILES.tensors: header(changed) + content[8 + length :]}, "strange")
        with pytest.raises(ArtifactError, match=f"says 2 images for each of 10 classes, and has {words} for {name}"):
            glance(parse_address(REPO), Cache())


def test_load__to_fetch_again_without_asking_is_a_contradiction(hub):
    with pytest.raises(ConfigError, match="give one of them"):
        load_distilled(REPO, force_download=True, local_files_only=True)


# private sources


def of_source(folder, hub_id):
    config = json.loads((folder / FILES.config).read_text())
    config["source"] |= {"hub_id": hub_id, "source": hub_id, "name": hub_id.split("/")[1], "revision": "c0ffee"}
    config["settings"]["dataset"] |= {"name": hub_id, "revision": "c0ffee"}
    config["command"] = f"distillkit compress {hub_id} --ipc 2"
    tensors, header = storage.read_tensors(folder / FILES.tensors)
    storage.write_bytes(folder / FILES.tensors, storage.tensor_bytes(tensors, {**header, "source": hub_id}))
    write_config(folder, config)


def test_push__the_name_of_a_private_source_does_not_leave(hub, copy, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "x.txt").write_text("x")
    hub.add("acme/patients", tmp_path / "source", private=True)
    of_source(copy, "acme/patients")
    with pytest.warns(PrivateSourceWarning, match="of acme/patients, which is not public, .* for all to see"):
        report = push(copy, REPO, PushOptions())
    assert all(b"acme" not in content and b"patients" not in content for content in files_of(hub).values())
    assert "a private data set distilled to 2 images per class" in files_of(hub)[FILES.card].decode()
    assert "acme/patients" in (copy / FILES.card).read_text()  # here it is known
    ds = load_distilled(REPO)
    assert torch.equal(ds.images, load_distilled(copy).images)
    with pytest.raises(ConfigError, match="`dataset=PATH`"):
        ds.load_source()
    with pytest.warns(PrivateSourceWarning):
        assert push(copy, REPO, PushOptions()).commit == report.commit
    assert push(copy, "org/kept", PushOptions(private=True)).changed
    assert b"acme/patients" in files_of(hub, repo="org/kept")[FILES.card]


def test_push__the_name_of_a_public_source_is_told(hub, copy, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "x.txt").write_text("x")
    hub.add("acme/flowers", tmp_path / "source")
    of_source(copy, "acme/flowers")
    push(copy, REPO, PushOptions())
    assert b"source_datasets:\n- acme/flowers" in files_of(hub)[FILES.card]


# what was loaded is what is saved


def test_save_and_push__of_a_folder_that_was_changed_since_are_refused(hub, copy, tmp_path):
    ds = load_distilled(copy)
    ds.push_to_hub(REPO)
    write_own(copy, "mine")
    ds.push_to_hub("org/again")  # where it was pushed to, and the user's section, are no change of the set
    results = json.loads((copy / FILES.results).read_text())
    (copy / FILES.results).write_text(json.dumps({**results, "more": 1}))
    write_config(copy, json.loads((copy / FILES.config).read_text()))
    for attempt in (lambda: ds.save(tmp_path / "saved"), lambda: ds.push_to_hub("org/third")):
        with pytest.raises(StorageError, match=r"results\.json was changed since the set was loaded; load it again"):
            attempt()
    assert not (tmp_path / "saved").exists()
    assert "org/third" not in hub.repos
    again = load_distilled(copy)
    again.save(tmp_path / "saved")
    write_config(copy, {**again.config, "seed": 99})
    with pytest.raises(StorageError, match=r"distill_config\.json was changed since"):
        again.save(tmp_path / "more")


def test_save__of_another_set_in_the_same_folder_is_refused(copy, tmp_path):
    ds = load_distilled(copy)
    shutil.rmtree(copy)
    write_small(copy)
    with pytest.raises(StorageError, match="was changed since the set was loaded"):
        ds.save(tmp_path / "saved")
    (copy / FILES.tensors).unlink()
    with pytest.raises(StorageError, match=r"distilled\.safetensors is gone since the set was loaded"):
        ds.save(tmp_path / "saved")
