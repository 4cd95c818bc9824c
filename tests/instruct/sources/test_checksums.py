import re

from ecomgpt_jax.instruct.sources.checksums import FILES


def test_every_file_has_one_sha256_and_a_safe_relative_path() -> None:
    files = [(name, file) for name, listed in FILES.items() for file in listed]
    assert (len(FILES), len(files)) == (60, 230)
    assert all(not file.startswith("/") and ".." not in file.split("/") for _, file in files)
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for listed in FILES.values() for digest in listed.values())
