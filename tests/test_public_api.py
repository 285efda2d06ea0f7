"""What other people's scripts may import: frozen, alive, and enough for our own examples."""

import ast
from pathlib import Path

import pytest

import distillkit
from distillkit import lab

ROOT = Path(__file__).parent.parent
PUBLIC = [
    "METHODS",
    "ArtifactError",
    "AuthError",
    "ConfigError",
    "DataError",
    "DistilledDataset",
    "DistillkitError",
    "DivergenceError",
    "EvalReport",
    "FewImagesWarning",
    "Interrupted",
    "Lost",
    "LostError",
    "Method",
    "NetworkError",
    "NotFoundError",
    "Problem",
    "Progress",
    "SettingsLayer",
    "StopRequest",
    "StorageError",
    "SyntheticSet",
    "TrajectoryError",
    "TuneOptions",
    "__version__",
    "compress",
    "evaluate",
    "import_files",
    "joined",
    "load_distilled",
    "prepare_model",
    "stop_on_signals",
    "tune",
]
LAB = [
    "FILES",
    "FORMS",
    "INITS",
    "INNER_OPTIMIZERS",
    "INNER_SCALES",
    "LABELS",
    "LOSSES",
    "MASKS",
    "MATCHING",
    "OBJECTIVES",
    "OPTIMIZERS",
    "ORDERS",
    "OUTER_OPTIMIZERS",
    "PERTURBATIONS",
    "PUBLISHED",
    "REAL_ORDERS",
    "SCORES",
    "SEGMENTS",
    "STARTS",
    "WINDOWS",
    "Augmentation",
    "CompiledFunctions",
    "ConvNet",
    "DistillSettings",
    "EagerFunctions",
    "EvaluateSettings",
    "Examination",
    "ExpertSettings",
    "FlatNetwork",
    "HardLabels",
    "InnerLoss",
    "InnerOptimizer",
    "InnerStep",
    "LabelPart",
    "MatchingPart",
    "MatchingTerm",
    "NetworkSettings",
    "OuterOptimizer",
    "Part",
    "Prepared",
    "RealData",
    "Run",
    "RunFolder",
    "RunSettings",
    "Seam",
    "Stack",
    "StepFunctions",
    "StudentFacts",
    "TrainingForm",
    "TrainingSet",
    "Unroll",
    "arithmetic",
    "augment",
    "augmentation_robust_score",
    "batch_statistics",
    "build_network",
    "check_distillation",
    "check_second_derivative",
    "compose",
    "data_setup",
    "default_depth",
    "default_drop",
    "difficulty_scores",
    "distilled",
    "easy_to_hard",
    "effective",
    "effective_keys",
    "evaluate_networks",
    "evaluation_form",
    "evaluation_recipe",
    "expert_reach",
    "expert_recipe",
    "expert_report",
    "fit",
    "fit_stack",
    "flatten_parameters",
    "hardware",
    "in_precision",
    "initial_images",
    "inner_optimizer",
    "keep_freed_memory",
    "label_part",
    "label_robust_score",
    "make_run",
    "matching_part",
    "normalised_parameter_distance",
    "open_trajectories",
    "parse_architecture",
    "parse_assignments",
    "plain_activations",
    "plain_attention",
    "plan_inner_steps",
    "plots",
    "prepare",
    "recipe_from_json",
    "replace_batch_norm",
    "resolve_device",
    "rng",
    "run_identity",
    "sample_flop",
    "search_recipe",
    "segment_sampler",
    "select_coreset",
    "storage",
    "to_device",
    "train_experts",
    "training_set",
    "tuning",
    "usable_cores",
    "versions",
]
SCRIPTS = sorted((ROOT / "examples").rglob("*.py"))


def test_public_names__are_these_and_there():
    assert sorted(distillkit.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(distillkit, name) is not None
    assert set(PUBLIC) <= set(dir(distillkit))


def test_unknown_name__is_an_attribute_error():
    with pytest.raises(AttributeError, match="distil"):
        distillkit.distil  # noqa: B018


def test_lab__names_are_these_and_there():
    assert sorted(lab.__all__) == sorted(LAB)
    for name in LAB:
        assert getattr(lab, name) is not None
    assert not set(lab.__all__) & set(distillkit.__all__), "a name has one home"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples__live_on_the_public_names(script):
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distillkit"):
            assert node.module in ("distillkit", "distillkit.lab"), f"line {node.lineno}: {node.module}"
            public = distillkit.__all__ if node.module == "distillkit" else lab.__all__
            for name in node.names:
                assert name.name in public, f"line {node.lineno}: {name.name}"
        if isinstance(node, ast.Import):
            assert all(name.name == "distillkit" or not name.name.startswith("distillkit.") for name in node.names)
