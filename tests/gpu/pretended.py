"""A GPU that is not there: tensors on it compute on the CPU, and say what a GPU would mind.

``torch.device("cuda")`` works inside ``PretendedGpu``: its tensors are of a subclass that holds an ordinary tensor, and
every operation goes through a dispatch mode that keeps a GPU's rules:

* an operation mixes no devices, but for scalars from the host where elements are computed one by one;
* what makes the host wait is counted (``waits``): values that are read, tensors that are copied to the host, shapes
  that depend on values; copies to the device are counted too (``copies``);
* a tensor larger than ``largest`` bytes does not fit: ``torch.OutOfMemoryError``.

Torch's own functions take it for a ``meta`` device, the only one without hardware that goes backward.
"""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

CUDA, HIDDEN = torch.device("cuda", 0), torch.device("meta")
aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}
SIZED_BY_VALUES = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.repeat_interleave.Tensor,
}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
COPIES = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default}


class MixedDevicesError(RuntimeError):
    """An operation had tensors of the GPU and of the host."""


class OnGpu(torch.Tensor):
    """A tensor of the pretended GPU; ``held`` has the numbers."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=HIDDEN,
            requires_grad=False,
        )
        made.held = held
        return made

    def __repr__(self):
        return f"OnGpu({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise MixedDevicesError(f"{func} outside of the pretended GPU")


def hidden(value):
    """``cuda`` as torch's own functions are told; everything else as it is."""
    if isinstance(value, torch.device):
        return HIDDEN if value.type == "cuda" else value
    return "meta" if isinstance(value, str) and value.split(":")[0] == "cuda" else value


def _bare(value):
    return value.held if isinstance(value, OnGpu) else value


def _is_on_gpu(value):
    return isinstance(value, torch.Tensor) and value.device.type == "meta"


def _device(get, tensor):
    device = get(tensor)
    return CUDA if device.type == "meta" else device


ANSWERS = {
    torch.Tensor.device.__get__: _device,
    torch.Tensor.is_cuda.__get__: lambda get, tensor: _device(torch.Tensor.device.__get__, tensor).type == "cuda",
    torch.Tensor.is_meta.__get__: lambda get, tensor: False,
    torch.Tensor.untyped_storage: lambda get, tensor: get(_bare(tensor)),
    torch.Tensor.tolist: lambda get, tensor: get(tensor.cpu() if isinstance(tensor, OnGpu) else tensor),
    torch.Tensor.pin_memory: lambda pin, tensor: tensor.clone(),
}
"""What torch's own functions say of tensors that they take for ``meta`` ones."""


class _Words(TorchFunctionMode):
    """Functions of Python: devices by name, and what torch asks tensors about theirs."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (answer := ANSWERS.get(func)) is not None:
            return answer(func, *args)
        if func is torch.Tensor.cuda:
            return args[0].to(CUDA)
        if "device" in kwargs:
            kwargs = {**kwargs, "device": hidden(kwargs["device"])}
            if func in (torch.tensor, torch.as_tensor) and kwargs["device"] in (HIDDEN, "meta"):  # it would be empty
                device = kwargs.pop("device")
                made = torch.as_tensor(*args, **kwargs) if func is torch.as_tensor else torch.tensor(*args, **kwargs)
                return made if _is_on_gpu(made) else made.to(device)
        elif func is torch.Tensor.to:
            args = tuple(hidden(value) for value in args)
        return func(*args, **kwargs)


class _Kernels(TorchDispatchMode):
    """Operations: on which device, and whether the host waits."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # to skip it, the compiler would be imported: seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [*_tensors(args), *_tensors(kwargs.values())]
        makes = (wanted := kwargs.get("device")) is not None and torch.device(wanted).type == "meta"
        if not makes and not any(isinstance(value, OnGpu) for value in tensors):
            return func(*args, **kwargs)
        arrives = self.gpu.check(func, tensors, args, kwargs, makes)
        own = {name: _mapped(_bare, value) for name, value in kwargs.items()}
        out = func(*_mapped(_bare, args), **own | ({"device": "cpu"} if makes else {}))
        if func._schema.is_mutable:
            return self._mutated(func, args, kwargs, out)
        return _mapped(self._wrapped, out) if arrives else out

    def _mutated(self, func, args, kwargs, out):
        """What an operation in place returns: the tensors that it was given."""
        if func is aten.copy_.default:
            return args[0]
        return return_and_correct_aliasing(func, args, kwargs, _mapped(self._wrapped, out))

    def _wrapped(self, value):
        return self.gpu.made(value) if isinstance(value, torch.Tensor) else value


def _tensors(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _mapped(function, value):
    return type(value)(_mapped(function, one) for one in value) if type(value) in (list, tuple) else function(value)


class PretendedGpu(contextlib.ExitStack):
    """As the module says; ``with PretendedGpu() as gpu``. ``kernels``: operations by name that ran on it."""

    def __init__(self, largest=None, free=24 * 2**30, capability=(8, 0)):
        super().__init__()
        self.largest, self.free, self.capability, self.peak = largest, free, capability, 0
        self.waits, self.copies, self.kernels, self.dtypes = Counter(), Counter(), Counter(), Counter()

    def __enter__(self):
        self.enter_context(self._as_if_there())
        self.enter_context(_Kernels(self))
        self.enter_context(_Words())
        return super().__enter__()

    @contextlib.contextmanager
    def _as_if_there(self):
        """What the project asks of ``torch.cuda``."""
        answers = {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "get_device_capability": lambda device=None: self.capability,
            "get_device_name": lambda device=None: "a pretended GPU",
            "mem_get_info": lambda device=None: (self.free, self.free),
            "memory_allocated": lambda device=None: 0,
            "max_memory_allocated": lambda device=None: self.peak,
            "reset_peak_memory_stats": lambda device=None: setattr(self, "peak", 0),
            "empty_cache": lambda: None,
            "synchronize": lambda device=None: None,
        }
        captured = ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check")  # by version
        with pytest.MonkeyPatch.context() as patch:
            for name, answer in answers.items():
                patch.setattr(torch.cuda, name, answer)
            for name in captured:
                patch.setattr(torch.optim.Optimizer, name, lambda self: None, raising=False)
            yield

    @contextlib.contextmanager
    def counting(self):
        """What is counted inside, alone."""
        before = [Counter(own) for own in (self.waits, self.copies, self.kernels)]
        found = [Counter(), Counter(), Counter()]
        yield found
        for own, old, new in zip((self.waits, self.copies, self.kernels), before, found, strict=True):
            new.update({name: own[name] - old[name] for name in own if own[name] > old[name]})

    def check(self, func, tensors, args, kwargs, makes):
        """The rules; whether the result is on the GPU."""
        host = [value for value in tensors if not isinstance(value, OnGpu)]
        if func in COPIES:
            return self._copied(func, host, args, kwargs, makes)
        by_elements = torch.Tag.pointwise in func.tags
        mixed = [value for value in host if value.dim() > 0 or not by_elements]
        if mixed:
            raise MixedDevicesError(f"{func} of tensors of the GPU and of the host: {[tuple(v.shape) for v in mixed]}")
        self.kernels[str(func)] += 1
        masks = func in INDEXING and any(v is not None and v.dtype in (torch.bool, torch.uint8) for v in args[1])
        if func in READS or func in SIZED_BY_VALUES or masks:
            self.waits[str(func)] += 1
        return func not in READS

    def _copied(self, func, host, args, kwargs, makes):
        source = args[0] if func is aten._to_copy.default else args[1]
        if func is aten._to_copy.default:
            arrives = makes or (isinstance(source, OnGpu) and kwargs.get("device") is None)
        else:
            arrives = isinstance(args[0], OnGpu)
        if isinstance(source, OnGpu) == arrives:
            self.kernels[str(func)] += 1
        elif arrives:
            self.copies["to the GPU"] += 1
        else:
            self.waits["to the host"] += 1
        return arrives

    def made(self, held):
        """A tensor of this GPU."""
        size = held.numel() * held.element_size()
        if self.largest is not None and size > self.largest:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes (a pretended GPU)")
        self.peak = max(self.peak, size)
        self.dtypes[held.dtype] = max(self.dtypes[held.dtype], held.numel())
        return OnGpu(held)
