"""The methods, one line each."""

from distillkit.methods.ast import AST, AST_NO_ZCA
from distillkit.methods.base import Method, Problem, SettingsLayer
from distillkit.methods.best import BEST
from distillkit.methods.coresets import KMEANS, RANDOM
from distillkit.methods.datm import DATM
from distillkit.methods.dm import DM
from distillkit.methods.dsa import DSA
from distillkit.methods.ftd import FTD
from distillkit.methods.mct import MCT, MCT_NO_ZCA
from distillkit.methods.mtt import MTT
from distillkit.methods.pad import PAD, PAD_RELEASED
from distillkit.methods.rat import RAT

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        *(RAT, DSA, DM, MTT, FTD, AST, AST_NO_ZCA, MCT, MCT_NO_ZCA, DATM, PAD, PAD_RELEASED),
        *(BEST, RANDOM, KMEANS),
    )
}

__all__ = ["METHODS", "Method", "Problem", "SettingsLayer"]
