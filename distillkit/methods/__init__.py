"""The methods, one line each."""

from distillkit.methods.ast import AST
from distillkit.methods.base import Layer, Method, Problem
from distillkit.methods.coresets import KMEANS, RANDOM
from distillkit.methods.mct import MCT
from distillkit.methods.mtt import MTT

METHODS: dict[str, Method] = {method.name: method for method in (MTT, AST, MCT, RANDOM, KMEANS)}

__all__ = ["METHODS", "Layer", "Method", "Problem"]
