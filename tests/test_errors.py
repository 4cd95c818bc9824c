from ecomgpt_jax import errors


def test_exit_codes_are_the_fixed_ones() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__]
    assert {kind.__name__: kind.exit_code for kind in kinds} == {
        "EcomError": 1,
        "ConfigError": 2,
        "DataError": 65,
        "MissingInputError": 66,
        "StorageError": 74,
        "PreemptedError": 75,
    }
