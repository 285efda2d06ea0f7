"""What the compiler tells its users, and what it keeps to itself."""

import logging

from distillkit.training.compiling import by_compiler


def test_by_compiler__torch_is_silent_on_a_gpu_that_a_cpu_does_not_look_for(caplog):
    by_compiler(lambda value: value)
    by_compiler(lambda value: value)
    log = logging.getLogger("torch.utils.cpp_extension")
    log.addHandler(caplog.handler)  # torch's loggers do not propagate
    try:
        log.warning("No CUDA runtime is found, using CUDA_HOME='%s'", "/opt/cuda")
        log.warning("something else")
    finally:
        log.removeHandler(caplog.handler)
    assert {record.getMessage() for record in caplog.records} == {"something else"}
