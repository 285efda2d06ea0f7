"""The stages and parts by hand, for studies, benchmarks and methods of one's own.

Everything here is documented where it is made. It is public, and a test freezes its names like those of the package
itself, but it follows the engine: a name may change with a minor version (CHANGELOG says so), while those of
``distillkit`` do not.
"""

from __future__ import annotations

from distillkit import plots, rng, storage
from distillkit.artifact.layout import FILES, PUBLISHED
from distillkit.config import compose, parse_assignments
from distillkit.data import augment
from distillkit.data.augment import Augmentation
from distillkit.data.coresets import select_coreset
from distillkit.distill.inner_optimizers import INNER_OPTIMIZERS, InnerOptimizer, inner_optimizer
from distillkit.distill.inner_steps import InnerStep, plan_inner_steps, to_device
from distillkit.distill.labels import LABELS, HardLabels, LabelPart, label_part
from distillkit.distill.matching import (
    MASKS,
    MATCHING,
    MatchingPart,
    StudentFacts,
    matching_part,
    normalised_parameter_distance,
)
from distillkit.distill.objectives import OBJECTIVES
from distillkit.distill.outer_optimizers import OUTER_OPTIMIZERS, OuterOptimizer
from distillkit.distill.real import REAL_ORDERS
from distillkit.distill.segments import SEGMENTS, segment_sampler
from distillkit.distill.start import INNER_SCALES, PERTURBATIONS, STARTS
from distillkit.distill.step_functions import CompiledFunctions, EagerFunctions, InnerLoss, StepFunctions
from distillkit.distill.synthetic_init import INITS, RealData, initial_images
from distillkit.distill.unroll import MatchingTerm, Unroll
from distillkit.distill.windows import WINDOWS
from distillkit.environment import hardware, keep_freed_memory, resolve_device, usable_cores, versions
from distillkit.evaluation import tuning
from distillkit.evaluation.protocol import Examination, TrainingSet, evaluate_networks
from distillkit.evaluation.recipe import default_drop, evaluation_recipe, recipe_from_json
from distillkit.evaluation.robust import augmentation_robust_score, label_robust_score
from distillkit.evaluation.tuning import search as search_recipe
from distillkit.experts.difficulty import SCORES, easy_to_hard
from distillkit.experts.recipe import LOSSES, OPTIMIZERS, ORDERS, expert_recipe
from distillkit.experts.report import expert_report
from distillkit.networks.build import build_network, parse_architecture
from distillkit.networks.convnet import ConvNet, default_depth
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.networks.kinds import batch_statistics
from distillkit.networks.norms import replace_batch_norm
from distillkit.networks.timm_models import plain_activations, plain_attention
from distillkit.parts import Part, Seam
from distillkit.precision import arithmetic, in_precision
from distillkit.run_folder import RunFolder
from distillkit.settings import DistillSettings, EvaluateSettings, ExpertSettings, NetworkSettings, RunSettings
from distillkit.stages.checks import check_distillation
from distillkit.stages.context import Prepared, Run, make_run, prepare, run_identity, training_set
from distillkit.stages.difficulty import difficulty_scores
from distillkit.stages.distillation import distilled
from distillkit.stages.effect import effective, effective_keys
from distillkit.stages.experts import train_experts
from distillkit.stages.fingerprints import data_setup
from distillkit.stages.probe import check_second_derivative
from distillkit.stages.reach import expert_reach
from distillkit.stages.threads import sample_flop
from distillkit.stages.training_form import evaluation_form
from distillkit.training.fit import fit
from distillkit.training.stack import Stack, TrainingForm, fit_stack
from distillkit.trajectories.forms import FORMS, open_trajectories

__all__ = [
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
