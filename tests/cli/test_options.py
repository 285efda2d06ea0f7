"""What options mean: a command line, and the arguments that the library's function gets."""

import pytest
from typer.testing import CliRunner

from distillkit.cli.app import app
from distillkit.errors import ConfigError
from distillkit.sharing.push import PushOptions
from distillkit.stages.importing import Lost
from distillkit.stages.tune import TuneOptions
from distillkit.version import __version__


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def told(monkeypatch):
    """The arguments of the function of that name, which a command line ends in."""

    def of(function, *arguments):
        heard = {}

        def listen(*given, **named):
            heard.update(named, given=given)
            raise ConfigError("heard")

        monkeypatch.setattr(f"distillkit.{function}", listen)
        result = invoke(*arguments)
        assert (result.exit_code, "error: heard" in result.stderr) == (2, True), result.output
        return heard

    return of


def test_version():
    assert invoke("--version").output == f"distillkit {__version__}\n"


def test_debug__lets_the_traceback_through(monkeypatch):
    def fail(*given, **named):
        raise RuntimeError("in here")

    monkeypatch.setattr("distillkit.pipeline.run_all", fail)
    asked = ("compress", "digits", "--ipc", 1, "--preset", "smoke")
    plain, debugged = invoke(*asked), invoke(*asked, "--debug")
    assert (plain.exit_code, "unexpected RuntimeError: in here (--debug shows where" in plain.stderr) == (1, True)
    assert isinstance(debugged.exception, RuntimeError)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), PushOptions()),
        (("--private", "--revision", "dev"), PushOptions(private=True, branch="dev")),
        (("--tag", "v7", "--message", "why"), PushOptions(tag="v7", message="why")),
        (("--create-pr", "-m", "why", "--yes"), PushOptions(create_pr=True, message="why", replace=True)),
    ],
)
def test_push(told, made, options, wanted):
    assert told("sharing.push.push", "push", made, "org/name", *options)["given"][2] == wanted


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), TuneOptions()),
        (("--time-budget", "90s", "--networks", 5, "--scorers", 2), TuneOptions(90.0, 5, 2)),
        (("--images", 30, "--baselines", "random,kmeans"), TuneOptions(validated=30, baselines=("random", "kmeans"))),
        (("--seed", 4), TuneOptions(seed=4)),
    ],
)
def test_tune(told, made, options, wanted):
    heard = told("stages.tune.tune", "tune", made, "--arch", "mlp", *options)
    assert heard["given"][1:] == ("mlp", wanted)


def test_evaluate(told, made):
    heard = told("pipeline.evaluate", "evaluate", made, "--arch", "mlp", "--networks", 2, "--seed", 3)
    assert (heard["given"][1], heard["networks"], heard["seed"]) == (["mlp"], 2, 3)
    assert (heard["common_recipe"], heard["keep"]) == (False, None)
    assert told("pipeline.evaluate", "evaluate", made, "--common-recipe")["common_recipe"] is True


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--no-zca",), Lost(False)),
        (("--zca", "--lr", "0.02", "--labels", "logits"), Lost(True, 0.02, labels="logits")),
        (("--lr", "search", "--mean", "0,0,0", "--std", "1,1,1"), Lost(None, None, True, None, (0.0,) * 3, (1.0,) * 3)),
    ],
)
def test_import(told, tmp_path, options, wanted):
    (tmp_path / "images.pt").write_bytes(b"")
    files = (tmp_path, "--from", "pt", "--dataset", "digits", "--title", "Mine", "--experiment", 2)
    heard = told("pipeline.import_files", "import", *files, *options)
    assert heard["given"][3] == wanted
    assert (heard["title"], heard["experiment"]) == ("Mine", 2)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--train-split", "all", "--test-split", "none"), {"train_split": "all", "test_split": "none"}),
        (("--image-column", "img", "--label-column", "kind"), {"image_column": "img", "label_column": "kind"}),
        (("--class-names", "cat,dog"), {"class_names": ("cat", "dog")}),
        (("--image-size", 24, "--skip-corrupt"), {"image_size": 24, "skip_corrupt": True}),
        (("--classes", "cat,dog"), {"classes": ("cat", "dog")}),
        (("--without-classes", "owl"), {"without_classes": ("owl",)}),
        (("--data-root", "here"), {"data_root": "here"}),
    ],
)
def test_compress__what_is_said_of_the_data(told, options, wanted):
    (run, _) = told("pipeline.run_all", "compress", "org/photos", "--ipc", 1, "--preset", "smoke", *options)["given"]
    assert run.settings.dataset.model_dump().items() >= wanted.items()


def test_compress__of_the_run(told):
    asked = ("compress", "cifar10", "--ipc", 1, "--preset", "paper", "--paper-protocol", "--seed", 3)
    more = ("--dtype", "uint8", "--precision", "fp32", "--time-budget", "20m")
    (run, _) = told("pipeline.run_all", *asked, *more)["given"]
    settings = run.settings
    assert settings.evaluate.paper_protocol
    assert (settings.seed, settings.artifact.dtype, settings.precision) == (3, "uint8", "fp32")
    assert settings.time_budget == 1200
