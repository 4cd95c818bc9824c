"""Origins of all files of `fetch`: sources, the official evaluation tasks, further benchmarks.

Every file is a path in a public GitHub repository at a commit; the README of this folder lists those that were compared
with a copy of the repository.
"""

import dataclasses
from collections.abc import Callable

from ecomgpt_jax.config import nearest
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.instruct.sources.all_sources import SOURCES
from ecomgpt_jax.instruct.sources.checksums import ALL, SIZES
from ecomgpt_jax.instruct.sources.reading import NO_LICENCE

GROUPS = ("sources", "evaluation", "benchmarks")
_ECOMGPT = "Alibaba-NLP/EcomGPT/eaa846f25bfb899dd1dee22e15cc8b288f11c239/data/ecom_instruct_v1"
_ECINSTRUCT = "ZhChHoooi/UniCommerce-1.5/2db73013fc68d8693f1e000fe9796afc777d0253/datasets/test"
_SHOPPING_MMLU = "KL4805/ShoppingMMLU/7b118da15635e0d61c45fe1713420a344ac5b738"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A file to fetch.

    Attributes:
      target: path below the folder of `--dir`, such as `sources/en_mams/train.xml`.
      remote: `owner/name/commit/path`, the address below `download.UPSTREAM`.
      digest: sha256 of the target's bytes (64 digits), or, if no copy could be hashed, the git blob id of the remote
        bytes (40 digits: SHA-1 over `blob <length>`, a zero byte and the bytes).
      member: name of the file inside the remote zip archive, "" for the remote file itself.
      derive: makes the target's bytes from those fetched or unpacked; None if they are the same.
    """

    target: str
    remote: str
    digest: str
    member: str = ""
    derive: Callable[[bytes], bytes] | None = None


@dataclasses.dataclass(frozen=True)
class Collection:
    """Files that are fetched together.

    Attributes:
      name: group and name, such as `sources/en_mams`.
      licence: as upstream states it.
      redistributable: whether that licence allows redistribution.
      bytes: size of all files; 0 if unknown.
      files: files to fetch; empty if only the user's copy is used.
    """

    name: str
    licence: str
    redistributable: bool
    bytes: int
    files: tuple[Wanted, ...]

    @property
    def group(self) -> str:
        """The part of the name before the first slash, one of `GROUPS`."""
        return self.name.split("/")[0]


def collection_of(name: str) -> Collection:
    """Returns the collection of a source; a local source, which has no place, has no files to fetch."""
    source, collection, files = SOURCES[name], f"sources/{name}", []
    for file, digest in source.files.items() if source.place else ():
        remote, _, member = source.remote(file).partition("!")
        files.append(Wanted(f"{collection}/{file}", remote, digest, member, source.derive))
    licence = source.licence if source.place else f"{source.licence} (local, never fetched)"
    return Collection(collection, licence, source.redistributable, SIZES.get(collection, 0), tuple(files))


def _plain(name: str, remote: str, licence: str, redistributable: bool) -> Collection:
    files = tuple(Wanted(f"{name}/{file}", f"{remote}/{file}", digest) for file, digest in ALL[name].items())
    return Collection(name, licence, redistributable, SIZES[name], files)


def _collections() -> dict[str, Collection]:
    shopping = Wanted(
        "benchmarks/shopping_mmlu/data.zip", f"{_SHOPPING_MMLU}/data.zip", "0f10822e7eec7752c0be0d251f28e6f47fb07f8b"
    )
    own = "no licence: only your own copy, placed there as ChineseEcomQA.jsonl, is used"
    found = [
        *map(collection_of, SOURCES),
        *(
            _plain(name, f"{_ECOMGPT}/{name.removeprefix('evaluation/')}", NO_LICENCE, False)
            for name in ALL
            if name.startswith("evaluation/")
        ),
        _plain(
            "benchmarks/ecinstruct",
            _ECINSTRUCT,
            "Apache-2.0 (repo); ECInstruct: CC BY 4.0, two of its sources unlisted",
            True,
        ),
        Collection("benchmarks/shopping_mmlu", "Apache-2.0", True, 0, (shopping,)),
        Collection("benchmarks/chinese_ecom_qa", own, False, SIZES["benchmarks/chinese_ecom_qa"], ()),
    ]
    return {collection.name: collection for collection in found}


COLLECTIONS: dict[str, Collection] = _collections()


def choose(groups: tuple[str, ...], names: tuple[str, ...], *, redistributable: bool) -> list[Collection]:
    """Returns the collections of some groups, all or by name.

    Args:
      groups: some of `GROUPS`.
      names: last parts of the collections' names (`en_mams`, `EN-Lenovo-NER-NER`, `ecinstruct`); empty for all.
      redistributable: only those whose licence allows redistribution.

    Raises:
      ConfigError: no collection of the groups has that name, or none is left.
    """
    known = {
        collection.name.split("/")[-1]: collection for collection in COLLECTIONS.values() if collection.group in groups
    }
    for name in names:
        if name not in known:
            raise ConfigError(f"fetch: no {' or '.join(groups)} named {name!r}{nearest(name, known)}")
    chosen = [known[name] for name in dict.fromkeys(names)] if names else list(known.values())
    left = [collection for collection in chosen if collection.redistributable or not redistributable]
    if not left:
        raise ConfigError("fetch: --redistributable leaves nothing; none of those may be passed on")
    return left
