"""The bytes of a run do not depend on how many processes make it."""

import threading

import pytest
import torch

from distillkit import compress, rng, storage
from distillkit.distributed import ALONE, World
from distillkit.errors import ConfigError, LostError
from distillkit.evaluation.protocol import Examination, TrainingSet, evaluate_networks
from distillkit.interrupt import StopRequest
from distillkit.lab import effective
from distillkit.training.recipe import Recipe, Sgd, cross_entropy, shuffle
from tests.helpers import TINY
from tests.processes.worlds import in_threads

OWN = {
    "mct": {"experts.epochs": 4, "trajectories.waypoint_epochs": [0, 2, 4]},
    "rat": {"distill.horizon": 4, "distill.lr_img": 0.01},
    "dsa": {"distill.restart_every": 3},
    "datm": {"evaluate.paper_protocol": True, "evaluate.lengths": [2, 3], "evaluate.lr_drop_epochs": []},
}
SMALL = TINY | {"experts.count": 5, "distill.lr_img": 10.0, "evaluate.baselines": ["random"], "evaluate.uint8": False}
FILES = ("distilled.safetensors", "run/checkpoint.safetensors", "recipe.json", "results.json")


def made(out, method, segments, world=ALONE, **changes):
    """Digests of what is made; only of the leader's."""
    settings = SMALL | {"distill.segments": segments} | OWN.get(method, {}) | changes
    settings = effective(settings, "digits", 1, method, "smoke")
    words = "distillkit compress"
    compress(
        "digits",
        ipc=1,
        method=method,
        preset="smoke",
        settings=settings,
        out=out,
        device="cpu",
        command=words,
        world=world,
    )
    return [storage.sha256_file(out / name) for name in FILES] if world.leads else None


@pytest.mark.parametrize(
    ("method", "segments", "size"),
    [("mtt", 4, 4), ("ast", 2, 2), ("mct", 5, 2), ("pad", 1, 4), ("rat", 2, 2), ("dsa", 5, 4), ("datm", 2, 2)],
)
def test_several_processes_make_the_bytes_of_one(tmp_path, monkeypatch, method, segments, size):
    whole = made(tmp_path / "one", method, segments)
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "another cache"))
    leader, *others = in_threads(size, lambda world: made(tmp_path / "several", method, segments, world))
    assert leader == whole
    assert others == [None] * (size - 1)
    assert not list((tmp_path / "another cache" / "ranks").glob("*"))


def test_students_side_by_side_are_dealt_too(tmp_path):
    """A share of them is a mean of its own: equal to rounding."""
    changes = {"distill.together": "always"}
    made(tmp_path / "one", "mtt", 4, **changes)
    found = in_threads(2, lambda world: made(tmp_path / "two", "mtt", 4, world, **changes))
    assert found[1] is None
    one, two = (storage.read_tensors(tmp_path / name / "run" / "checkpoint.safetensors") for name in ("one", "two"))
    assert one[1]["together"] is two[1]["together"] is True
    torch.testing.assert_close(one[0]["images"], two[0]["images"], rtol=1e-4, atol=1e-5)


def test_a_finished_run_is_not_made_again(tmp_path):
    first = made(tmp_path / "set", "mtt", 2)
    before = (tmp_path / "set" / "results.json").stat().st_mtime_ns
    assert in_threads(2, lambda world: made(tmp_path / "set", "mtt", 2, world)) == [first, None]
    assert (tmp_path / "set" / "results.json").stat().st_mtime_ns == before


def test_all_stop_after_the_same_step_when_one_is_told_to__and_fewer_go_on(tmp_path, monkeypatch):
    changed = {"distill.select_every": 4}
    whole = made(tmp_path / "one", "mtt", 2, **changed)
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "another cache"))

    def stopped(world):
        stop = StopRequest()

        class Told:
            """Stops rank 1, and it alone, in its second outer step."""

            def __init__(self):
                self.title, self.steps = "", 0

            def stage(self, title, total, done=0):
                self.title = title

            def advance(self, steps=1, **values):
                self.steps += self.title == "distilling" and steps
                if world.rank == 1 and self.steps == 2:
                    stop.follow()

            def note(self, message):
                pass

        settings = SMALL | {"distill.segments": 2, "distill.select_every": 4}
        compress(
            "digits",
            ipc=1,
            preset="smoke",
            settings=settings,
            out=tmp_path / "two",
            device="cpu",
            command="distillkit compress",
            world=world,
            stop=stop,
            progress=Told(),
        )

    errors = in_threads(2, stopped)
    assert [type(error).__name__ for error in errors] == ["Interrupted", "Interrupted"]
    assert "after outer step 2" in str(errors[0])
    assert storage.read_metadata(tmp_path / "two" / "run" / "checkpoint.safetensors")["step"] == 2
    assert made(tmp_path / "two", "mtt", 2, **changed) == whole  # goes on alone


def test_processes_that_differ_are_told_apart(tmp_path):
    def differently(world):
        return made(tmp_path / "set", "mtt", 1, world, **{"distill.inner_steps": 2 + world.rank})

    first, second = in_threads(2, differently)
    assert isinstance(first, LostError)
    assert isinstance(second, LostError)
    assert any("process 2 of 2 has another set of settings or versions" in str(error) for error in (first, second))


def test_an_error_of_the_leader_ends_all(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "README.md").write_text("mine")
    first, second = in_threads(2, lambda world: made(tmp_path / "set", "mtt", 1, world))
    assert isinstance(first, ConfigError)
    assert isinstance(second, LostError)
    assert (tmp_path / "set" / "README.md").read_text() == "mine"


def test_separate_caches_end_with_the_same_experts(tmp_path, monkeypatch):
    caches = {}
    root = storage.cache_root
    monkeypatch.setattr(storage, "cache_root", lambda: caches.get(threading.get_ident(), root()))

    def work(world):
        caches[threading.get_ident()] = tmp_path / f"cache{world.rank}"
        return made(tmp_path / "set", "mtt", 2, world)

    assert in_threads(2, work)[1] is None
    files = [
        sorted(path.name for path in (tmp_path / f"cache{rank}").glob("experts/*/expert-????.json")) for rank in (0, 1)
    ]
    assert files[0] == files[1] == [f"expert-{index:04d}.json" for index in range(5)]
    digests = [
        [
            storage.sha256_file(path)
            for path in sorted((tmp_path / f"cache{rank}").glob("experts/*/expert-????.safetensors"))
        ]
        for rank in (0, 1)
    ]
    assert digests[0] == digests[1]


def test_fresh_networks_are_dealt_and_read_in_their_order():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(12, 1, 4, 4, generator=generator), torch.arange(12) % 3
    trained: list[tuple[int, int]] = []

    def report(world: World):
        def build(index):
            trained.append((world.rank, index))
            with rng.global_seed(0, "test", index):  # for itself: threads share torch's generator
                return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))

        recipe = Recipe(2, 4, 0.1, Sgd(0.9, 0.0), cross_entropy, shuffle)
        training, exam = TrainingSet(images, labels), Examination(images, labels)
        return evaluate_networks(build, training, exam, recipe, 0, 5, world=world)

    alone = report(ALONE)
    trained.clear()
    assert in_threads(2, report) == [alone, alone]
    shares = [{index for rank, index in trained if rank == own} for own in (0, 1)]
    assert (shares[0], shares[1] - {0}) == ({0, 2, 4}, {1, 3})  # network 0 is also looked at by each
