"""The functions that an unrolled student is made of, eager or compiled; second-order graphs are built here.

    gradient(θ, x, y)    = g = ∇_θ ℓ(θ; x, y), also with ℓ itself
    adjoint(θ, x, y, w)  = s = gᵀw  and its derivatives in x, y and θ

All are pure functions of flat tensors. The compiled form has every derivative inside the function (``torch.func``),
since ``torch.compile`` cannot see through an ordinary double backward pass; normalisation, activation and pooling,
which an eager pass writes to memory one by one, are fused then. Legend: B batch, P parameters, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch._functorch.config as functorch_config
from torch import Tensor
from torch.func import grad, grad_and_value, vmap
from torch.utils.flop_counter import FlopCounterMode

from distillkit.distill.labels import LabelPart
from distillkit.distill.recorded import Record, Recorded, RecordingError, record_on_gpu
from distillkit.networks.functional import FlatNetwork
from distillkit.training.compiling import by_compiler
from distillkit.training.second_order import differentiable_gradient
from distillkit.words import first_line

COMPILE_FROM_FLOP = 2e12
"""Work from which compiling pays on a CPU: a minute or two of an eager run on two cores, about what compiling costs."""
COMPILE_FROM_STEPS = 3000
"""Inner steps from which it pays on a GPU."""
RECOMPILE_LIMIT = 256


@dataclass(frozen=True)
class Adjoint:
    """s = gᵀw, a scalar, and its derivatives in x [B, C, H, W], y [B, K] and θ [P]; None where it was not wanted."""

    value: Tensor
    images: Tensor
    labels: Tensor | None
    theta: Tensor | None


@dataclass(frozen=True)
class Wanted:
    """Which derivatives an adjoint should have besides that in the images."""

    labels: bool = False
    theta: bool = True


@dataclass(frozen=True)
class Trace:
    """A gradient with the graph that made it: its adjoint needs no second pass, but memory until then.

    ``graph`` is g [P] as a function of ``theta``, ``seen`` and ``labels``; ``scale`` that of the inner loss.
    """

    graph: Tensor
    theta: Tensor
    seen: Tensor
    labels: Tensor
    scale: float | Tensor = 1.0

    @property
    def gradient(self) -> Tensor:
        """Scale * g [P], without its graph."""
        return self.graph.detach() * self.scale

    def adjoint(self, w_P: Tensor, wanted: Wanted) -> Adjoint:
        """S and its derivatives; the graph is gone afterwards."""
        w = w_P * self.scale
        asked = [self.seen, *([self.labels] if wanted.labels else []), *([self.theta] if wanted.theta else [])]
        found = torch.autograd.grad(self.graph, asked, w, allow_unused=True, materialize_grads=True)
        value = (self.graph.detach() * w).sum()
        return Adjoint(value, found[0], found[1] if wanted.labels else None, found[-1] if wanted.theta else None)


def _leaf(value: Tensor, differentiable: bool = True) -> Tensor:
    """A copy: what the graph remembers must not be a row of a path that is still being written."""
    return value.detach().clone(memory_format=torch.contiguous_format).requires_grad_(differentiable)


class StepFunctions(Protocol):
    """The inner loss of a student, as gradient and adjoint; ``seen_B`` are images after augmentation [B, C, H, W]."""

    def gradient(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor) -> Tensor:
        """G [P], without a graph."""

    def loss_and_gradient(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """ℓ, a scalar, and g [P], without a graph."""

    def adjoint(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor, w_P: Tensor, wanted: Wanted) -> Adjoint:
        """S and its derivatives."""

    def trace(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor, wanted: Wanted) -> Trace:
        """G with its graph, from which the adjoint will be taken."""


@dataclass(frozen=True)
class InnerLoss:
    """ℓ, the mean over the batch of what the label part says of the network's logits."""

    network: FlatNetwork
    labels: LabelPart

    def __call__(self, parameters: Tensor | list[Tensor], seen_B: Tensor, labels_B: Tensor) -> Tensor:
        """Scalar, of flat parameters [P] or of their pieces."""
        return self.labels.loss(self.network(parameters, seen_B), labels_B)


@dataclass(frozen=True)
class TogetherLoss:
    """Σ_s ℓ(θ_s; x_s, y_s) of ``count`` students side by side in θ [count * P], x and y: each sees its own part.

    Its gradient is the students' gradients side by side, so the same sweep serves one student or many.
    """

    loss: InnerLoss
    count: int

    def __call__(self, parameters: Tensor, seen_B: Tensor, labels_B: Tensor) -> Tensor:
        """Scalar."""
        theta, seen, labels = (_parts(value, self.count) for value in (parameters, seen_B, labels_B))

        def one(theta_P: Tensor, seen: Tensor, labels: Tensor) -> Tensor:  # the compiler cannot name a record
            return self.loss(theta_P, seen, labels)

        return vmap(one)(theta, seen, labels).sum()


def _parts(value: Tensor, count: int) -> Tensor:
    return value.view(count, -1, *value.shape[1:])


FunctionalLoss = InnerLoss | TogetherLoss
"""What ``torch.func`` can differentiate; autograd alone does not go through ``vmap``."""


@dataclass(frozen=True)
class EagerFunctions:
    """By autograd, operation by operation."""

    loss: InnerLoss

    def _leaves(self, parameters_P: Tensor) -> list[Tensor]:
        return [piece.detach().requires_grad_() for piece in self.loss.network.split(parameters_P)]

    def gradient(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor) -> Tensor:
        """G."""
        return self.loss_and_gradient(theta_P, seen_B, labels_B)[1]

    def loss_and_gradient(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """ℓ and g."""
        pieces = self._leaves(theta_P)
        loss = self.loss(pieces, seen_B, labels_B)
        return loss.detach(), self.loss.network.join(torch.autograd.grad(loss, pieces))

    def adjoint(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor, w_P: Tensor, wanted: Wanted) -> Adjoint:
        """Reverse over reverse: one second-order call."""
        pieces = self._leaves(theta_P)
        seen_B = seen_B.detach().requires_grad_()
        labels_B = labels_B.detach().requires_grad_(wanted.labels)
        gradients = differentiable_gradient(self.loss(pieces, seen_B, labels_B), pieces)
        directions = self.loss.network.split(w_P)
        s = torch.stack([(g * d).sum() for g, d in zip(gradients, directions, strict=True)]).sum()
        inputs = [seen_B, *([labels_B] if wanted.labels else []), *(pieces if wanted.theta else [])]
        # a parameter that the gradient does not depend on (the last bias, say) has no path: its derivative is zero
        found = torch.autograd.grad(s, inputs, allow_unused=True, materialize_grads=True)
        theta = self.loss.network.join(found[-len(pieces) :]) if wanted.theta else None
        return Adjoint(s.detach(), found[0], found[1] if wanted.labels else None, theta)

    def trace(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor, wanted: Wanted) -> Trace:
        """G with its graph."""
        theta, seen, labels = _leaf(theta_P), _leaf(seen_B), _leaf(labels_B, wanted.labels)
        pieces = self.loss.network.split(theta)
        gradients = differentiable_gradient(self.loss(pieces, seen, labels), pieces)
        return Trace(self.loss.network.join(gradients), theta, seen, labels)


class CompiledFunctions:
    """By ``torch.func`` inside, compiled (``backend``: of ``torch.compile``; None leaves the functions as they are).

    ``cuda_graphs``: on a GPU, ``record`` the kernels of each function once and replay them without the host. Results
    live until the next call; the sweep uses each before that.
    """

    def __init__(
        self,
        loss: FunctionalLoss,
        backend: str | None = "inductor",
        cuda_graphs: bool = False,
        record: Record = record_on_gpu,
    ) -> None:
        self._loss, self._backend, self._cuda_graphs, self._record = loss, backend, cuda_graphs, record
        self._traced = _compile(grad(loss), backend)
        self._gradient = self._recording(self._traced)
        self._loss_and_gradient = self._recording(_compile(grad_and_value(loss), backend))
        self._adjoints: dict[Wanted, Callable[..., Any]] = {}

    def _recording(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return Recorded(function, self._record) if self._cuda_graphs else _of_canonical(function)

    def gradient(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor) -> Tensor:
        """G."""
        found: Tensor = self._gradient(theta_P, seen_B, labels_B)
        return found

    def loss_and_gradient(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """ℓ and g."""
        gradient, loss = self._loss_and_gradient(theta_P, seen_B, labels_B)
        return loss, gradient

    def adjoint(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor, w_P: Tensor, wanted: Wanted) -> Adjoint:
        """Reverse over reverse, all of it one function."""
        if wanted not in self._adjoints:
            self._adjoints[wanted] = self._recording(_compile(_adjoint(self._loss, wanted), self._backend))
        found, value = self._adjoints[wanted](theta_P, seen_B, labels_B, w_P)
        labels = found[1] if wanted.labels else None
        return Adjoint(value, found[0], labels, found[-1] if wanted.theta else None)

    def trace(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor, wanted: Wanted) -> Trace:
        """G with its graph: the compiler makes the adjoint from the gradient, as it makes any backward pass."""
        theta, seen, labels = _leaf(theta_P, wanted.theta), _leaf(seen_B), _leaf(labels_B, wanted.labels)
        # remember what convolutions made and make the rest anew: a third of the memory, and on a CPU, where writing it
        # down is what costs, four fifths of the time
        with functorch_config.patch(aggressive_recomputation=True):
            return Trace(self._traced(theta, seen, labels), theta, seen, labels)

    @property
    def recorded(self) -> bool:
        """Whether kernels are recorded and replayed."""
        return self._cuda_graphs

    def unrecorded(self) -> CompiledFunctions:
        """The same functions, whose kernels are launched one by one."""
        return CompiledFunctions(self._loss, self._backend)


def _of_canonical(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of θ, images and labels, and others: the images with the strides of a fresh tensor. Augmentations
    leave others, and a function is compiled for each that it meets.
    """

    def call(theta_P: Tensor, seen_B: Tensor, labels_B: Tensor, *others: Tensor) -> Any:
        seen_B = seen_B.detach().clone(memory_format=torch.contiguous_format)
        return function(theta_P, seen_B, labels_B.detach(), *others)

    return call


def _adjoint(loss: FunctionalLoss, wanted: Wanted) -> Callable[..., Any]:
    def value(theta_P: Tensor, seen_B: Tensor, labels_B: Tensor, w_P: Tensor) -> Tensor:
        gradient: Tensor = grad(loss)(theta_P, seen_B, labels_B)
        return (gradient * w_P).sum()

    arguments = (1, *((2,) if wanted.labels else ()), *((0,) if wanted.theta else ()))
    return grad_and_value(value, argnums=arguments)


def _compile(function: Callable[..., Any], backend: str | None) -> Callable[..., Any]:
    if backend is None:
        return function
    # every run of a process compiles functions of the same code, and each counts towards this limit
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    return by_compiler(function, backend=backend, dynamic=False, fullgraph=True)


def compiled_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of tensors, compiled for each shape that it meets."""
    return _compile(function, "inductor")


@dataclass(frozen=True)
class Scaled:
    """The same functions of scale * ℓ: all of them are linear in ℓ, so a compiled function serves every scale.

    A scale [P] is that of each parameter's own student, where several run as one.
    """

    functions: StepFunctions
    scale: float | Tensor

    def gradient(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor) -> Tensor:
        """Scale * g."""
        return self.functions.gradient(theta_P, seen_B, labels_B) * self.scale

    def loss_and_gradient(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Scale * ℓ (a single student's) and scale * g."""
        loss, gradient = self.functions.loss_and_gradient(theta_P, seen_B, labels_B)
        return loss * self.scale, gradient * self.scale

    def adjoint(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor, w_P: Tensor, wanted: Wanted) -> Adjoint:
        """(scale * g)ᵀw = gᵀ(scale * w)."""
        return self.functions.adjoint(theta_P, seen_B, labels_B, w_P * self.scale, wanted)

    def trace(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor, wanted: Wanted) -> Trace:
        """The same, scaled."""
        return replace(self.functions.trace(theta_P, seen_B, labels_B, wanted), scale=self.scale)


def scaled(functions: StepFunctions, scale: float | Tensor) -> StepFunctions:
    """``functions`` themselves for 1."""
    return functions if isinstance(scale, float) and scale == 1.0 else Scaled(functions, scale)


def sweep_flop(network: FlatNetwork, image_shape: tuple[int, int, int], device: torch.device) -> float:
    """Floating point operations of an exact sweep, per inner step and image: 12 times those of a forward pass."""
    parameters = torch.zeros(network.size, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(parameters, torch.zeros(2, *image_shape, device=device))
    return 12 * float(counter.get_total_flops()) / 2


def compiling_pays(network: FlatNetwork, image_shape: tuple[int, int, int], batch: int, inner_steps: int) -> bool:
    """Whether so many inner steps in all, on batches of so many images, are worth the minute that compiling takes.

    Decided from counts, not from clocks: the bytes of a run depend on it.
    """
    device = next(network.module.parameters()).device
    if device.type == "cuda":  # there, small kernels wait for the host: it is their number that counts
        return inner_steps >= COMPILE_FROM_STEPS
    return sweep_flop(network, image_shape, device) * batch * inner_steps >= COMPILE_FROM_FLOP


def trace_bytes(functions: StepFunctions, size: int, seen_B: Tensor, labels_B: Tensor, wanted: Wanted) -> int:
    """Memory that the graph of one step of ``size`` parameters holds."""
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    theta = torch.zeros(size, device=seen_B.device)
    functions.trace(theta, seen_B, labels_B, wanted).adjoint(theta, wanted)  # compiled here: hooks are in its way
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trace = functions.trace(theta, seen_B, labels_B, wanted)
    del trace  # until here every storage lives, so that no address comes twice
    return sum(held.values())


def try_functions(functions: StepFunctions, size: int, seen_B: Tensor, labels_B: Tensor, wanted: Wanted) -> None:
    """Call both functions once as the loop will, with ``size`` parameters: what can be compiled is compiled here.

    Raises:
        CompileError: in one line, why not.
        OutOfMemoryError: they do not fit into a GPU's memory.
    """
    theta, w = torch.zeros(2, size, device=seen_B.device)  # not one tensor twice: that is another function
    with compiling():
        functions.gradient(theta, seen_B, labels_B)
        functions.adjoint(theta, seen_B, labels_B, w, wanted)


@contextmanager
def compiling() -> Iterator[None]:
    """Whatever goes wrong inside, but for memory and recordings, is why something cannot be compiled.

    Raises:
        CompileError: in one line, why not.
        RecordingError: it can be compiled, but not recorded.
    """
    try:
        yield
    except (torch.OutOfMemoryError, RecordingError):
        raise
    except Exception as error:  # no compiler, an unsupported operation, an old GPU: torch raises all kinds
        raise CompileError(f"{type(error).__name__}: {first_line(error)}") from error


class CompileError(Exception):
    """A function cannot be compiled on this machine."""
