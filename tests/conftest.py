"""Eight fake CPU devices for every test, set before jax is imported."""

import os

import hypothesis

# Level 1 halves the compile time, which dominates the cost of these tiny models.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
os.environ["ECOMGPT_DATA"] = "/nonexistent"  # no test depends on data that a developer has fetched
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # the compiler's warnings, which a test checks
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# The time of an example depends on the load of the machine.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")
