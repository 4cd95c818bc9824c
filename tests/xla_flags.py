"""XLA's flags for tests and the processes they start: compiling dominates the cost of these tiny models."""

from importlib.metadata import version

# Options of a program that the flags below leave out; parity of BLOOM is shown with them too.
OPTIMISED = {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": False}
FAST = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12):  # later versions end the process at this flag
    OPTIMISED["xla_cpu_use_fusion_emitters"] = True
    FAST += " --xla_cpu_use_fusion_emitters=false"


def fake_devices(count: int) -> str:
    """Returns a value of XLA_FLAGS: this many CPU devices, programs compiled as soon as possible."""
    return f"--xla_force_host_platform_device_count={count} {FAST}"
