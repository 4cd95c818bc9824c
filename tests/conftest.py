"""Eight fake CPU devices for every test, set before jax is imported."""

import os

import hypothesis

# Level 1 halves the compile time, which is most of what these tiny models cost.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
os.environ["ECOMGPT_DATA"] = "/nonexistent"  # what a developer has fetched decides no test
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # the compiler's warnings, which a test reads
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")
