"""Real sources of products with attributes, category paths and descriptions."""

import dataclasses

from ecomgpt_jax.instruct.chain_of_task import family
from ecomgpt_jax.instruct.tasks import categories, items, matching, taxonomy, views
from ecomgpt_jax.instruct.tasks.classification import CLASSIFICATION
from ecomgpt_jax.instruct.tasks.entities import RECOGNITION
from ecomgpt_jax.instruct.tasks.items import EXTRACTION
from ecomgpt_jax.instruct.tasks.task import Dataset, Task, bind

TITLE = ("product title", "商品标题")
ATTRIBUTE = ("attribute", "attributes", "属性")
CATEGORY = ("category", "categories", "类目")
FACT_LIST = ("list of attributes", "lists of attributes", "属性列表")
VALUE = matching.conversion("value_normalisation", "attribute value normalisation")
FACTS = matching.conversion("attribute_reading", "attribute list writing")
LAPTOP_SLOTS = {
    "batteryrating": "battery rating",
    "battery": "battery life",
    "family": "product family",
    "pricerange": "price range",
    "weight": "weight",
    "weightrange": "weight range",
    "drive": "drive",
    "driverange": "drive range",
    "processor": "processor",
    "memory": "memory",
    "warranty": "warranty",
    "design": "design",
    "utility": "use",
    "price": "price",
    "dimension": "dimension",
    "platform": "platform",
    "isforbusinesscomputing": "for business computing",
}
TV_SLOTS = {
    "screensize": "screen size",
    "screensizerange": "screen size range",
    "price": "price",
    "pricerange": "price range",
    "hdmiport": "number of hdmi ports",
    "color": "color",
    "resolution": "resolution",
    "powerconsumption": "power consumption",
    "ecorating": "eco rating",
    "family": "product family",
    "accessories": "accessories",
    "audio": "audio",
    "hasusbport": "usb port",
}
# Values that never occur word for word in a sentence.
_FLAGS = ("isforbusinesscomputing", "hasusbport")


ACTS = {
    **{"inform": "inform", "recommend": "recommend", "compare": "compare", "confirm": "confirm", "suggest": "suggest"},
    **{"request": "request", "select": "ask to choose", "inform_count": "state how many"},
    **{"inform_no_match": "state that nothing matches", "inform_only_match": "state the only match"},
    **{"inform_no_info": "state that it is unknown", "inform_all": "state what all share"},
}


def tasks() -> list[Task]:
    """Returns the tasks of these sources."""
    return [*_titles(), *_flipkart(), *_listings(), *_copies(), *_spoken(), *_taxonomy()]


def _titles() -> list[Task]:
    common = {"text": TITLE, "label": ATTRIBUTE}
    bare = common | {"lacks": ("description",)}
    values = Dataset(
        "WDC_PAVE_Values",
        "en_wdc_pave",
        text=("attribute value", "属性取值"),
        label=("normalised value", "normalised values", "标准取值"),
        view=views.named_values,
    )
    brands = Dataset(  # another data set has the tasks of the category
        "Walmart_Amazon_Brand",
        "en_match_walmart_amazon",
        view=views.with_attributes({"brand": "brand", "model number": "model number"}),
        lacks=("choices", "text from annotation", "comparable texts", "description"),
        **common,
    )
    only_maker = views.with_attributes({"manufacturer": "manufacturer"})
    return [
        *family(EXTRACTION, Dataset("AE_110K", "en_ae_110k", **bare), categories.FINE),
        *family(EXTRACTION, Dataset("OA_Mine", "en_oa_mine", **bare), categories.FINE),
        *family(EXTRACTION, Dataset("WDC_PAVE", "en_wdc_pave", **common), categories.FINE),
        bind(VALUE, values),
        *family(EXTRACTION, brands),
        bind(items.ONE_VALUE, Dataset("Amazon_Google_Maker", "en_match_amazon_google", view=only_maker, **common)),
    ]


def _flipkart() -> list[Task]:
    common = {"source": "en_flipkart_catalog", "text": TITLE}
    goods = Dataset(  # the next data set has the tasks of the category
        "Flipkart",
        label=ATTRIBUTE,
        view=views.chained(views.rooted(2), views.without_boilerplate("Only Genuine Products")),
        lacks=("choices", "comparable texts"),
        **common,
    )
    titles = Dataset(
        "Flipkart_Category",
        label=CATEGORY,
        kind="category",
        coarse="department",
        view=views.titles(level=1),
        lacks=("text from annotation",),
        **common,
    )
    return [
        *family(EXTRACTION, goods),
        *family(CLASSIFICATION, titles),
        bind(taxonomy.PATH, Dataset("Flipkart_Path", view=views.rooted(3), **common)),
    ]


def _listings() -> list[Task]:
    common = {"source": "zh_product_title_category", "text": TITLE}
    labels = {"label": CATEGORY, "kind": "category", "coarse": "department"}
    paths = Dataset("Title_Path", view=views.rooted(3), **common)
    base = bind(taxonomy.PATH, paths)
    return [
        *family(CLASSIFICATION, Dataset("Title_Category", view=views.titles(), **labels, **common)),
        base,
        bind(categories.IN_CATEGORY, paths, parent=base.name),
    ]


def _copies() -> list[Task]:
    common = {"source": "zh_advertise_gen", "text": ("product copy", "商品文案")}
    pairs = Dataset("AdvertiseGen_Pairs", label=FACT_LIST, pair=("Attribute", "Copy"), view=views.described(), **common)
    return _described(Dataset("AdvertiseGen", **common), pairs) + _values(
        Dataset("AdvertiseGen_Values", view=views.spanned("description"), **common)
    )


def _described(goods: Dataset, pairs: Dataset) -> list[Task]:
    """Returns the task of writing descriptions, and the recombinations of descriptions and facts."""
    base = bind(items.DESCRIPTION, goods)
    return [base, *(bind(form, pairs, parent=base.name) for form in (matching.SELECTION, matching.PAIR_CHECK))]


def _values(said: Dataset) -> list[Task]:
    """Returns the tasks of finding values in descriptions."""
    return family(
        RECOGNITION, dataclasses.replace(said, label=ATTRIBUTE, lacks=("text from annotation", "distinct texts"))
    )


def _spoken() -> list[Task]:
    found = []
    for name, source, slots, kind in (
        ("RNNLG_Laptop", "en_rnnlg_laptop", LAPTOP_SLOTS, ("laptop description", "电脑介绍")),
        ("RNNLG_TV", "en_rnnlg_tv", TV_SLOTS, ("television description", "电视介绍")),
    ):
        common = {"source": source, "text": kind}
        said = {slot: shown for slot, shown in slots.items() if slot not in _FLAGS}
        described = views.described(slots, "name")
        goods = Dataset(name, view=views.with_attributes(slots), **common)
        pairs = Dataset(f"{name}_Pairs", pair=("Attributes", "Description"), view=described, **common)
        facts = Dataset(f"{name}_Facts", label=FACT_LIST, view=views.swapped(described), **common)
        acts = Dataset(
            f"{name}_Act",
            source,
            text=("sentence", "句子"),
            label=("dialogue act", "dialogue acts", "对话行为"),
            kind="act",
            rename=ACTS,
            view=views.acts,
            lacks=("text from annotation", "distinct texts"),
        )
        found += [
            *_described(goods, pairs),
            bind(FACTS, facts),
            *_values(Dataset(f"{name}_Values", view=views.spanned("description", said), **common)),
            *family(CLASSIFICATION, acts),
        ]
    return found


def _taxonomy() -> list[Task]:
    tree = Dataset("Google_Taxonomy", "en_google_taxonomy", text=("product category", "商品类目"))
    base = bind(taxonomy.PATH, tree)
    forms = (taxonomy.ROOT, taxonomy.PARENT, taxonomy.CHILD, taxonomy.IS_A, taxonomy.ORDER)
    return [base, *(bind(form, tree, parent=base.name) for form in forms)]
