"""Real sources of products with attributes, category paths and descriptions."""

from ecomgpt_jax.instruct.chain_of_task import family
from ecomgpt_jax.instruct.tasks import categories, classification, entities, items, matching, taxonomy, views
from ecomgpt_jax.instruct.tasks.task import Dataset, Task, as_base, bind

TITLE = ("product title", "商品标题")
ATTRIBUTE = ("attribute", "attributes", "属性")
CATEGORY = ("category", "categories", "类目")
VALUE = matching.conversion("value_normalisation", "attribute value normalisation")
FACTS = matching.conversion("attribute_reading", "attribute list writing")
NO_PAIR_WORDS = ("shared_words", "rewriting")
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
# Values that a sentence never repeats word for word.
_FLAGS = ("isforbusinesscomputing", "hasusbport")


def tasks() -> list[Task]:
    """Returns the tasks of these sources."""
    return [*_titles(), *_flipkart(), *_listings(), *_copies(), *_spoken(), *_taxonomy()]


def _titles() -> list[Task]:
    common = {"language": "en", "text": TITLE, "label": ATTRIBUTE}
    express = Dataset(name="AE_110K", source="en_ae_110k", **common)
    mined = Dataset(name="OA_Mine", source="en_oa_mine", **common)
    offers = Dataset(name="WDC_PAVE", source="en_wdc_pave", **common)
    values = Dataset(
        name="WDC_PAVE_Values",
        source="en_wdc_pave",
        language="en",
        text=("attribute value", "属性取值"),
        label=("normalised value", "normalised values", "标准取值"),
        view=views.named_values,
    )
    brands = Dataset(
        name="Walmart_Amazon_Brand",
        source="en_match_walmart_amazon",
        view=views.with_attributes({"brand": "brand", "model number": "model number"}),
        **common,
    )
    makers = Dataset(
        name="Amazon_Google_Maker",
        source="en_match_amazon_google",
        view=views.with_attributes({"manufacturer": "manufacturer"}),
        **common,
    )
    no_category = ("title_category", "title_from_category", "category_check")
    few = (*no_category, "description", "value_typing", "attribute_listing", "title_writing")
    return [
        *family(bind(items.EXTRACTION, express), categories.FINE, without=("description",)),
        *family(bind(items.EXTRACTION, mined), categories.FINE, without=("description",)),
        *family(bind(items.EXTRACTION, offers), categories.FINE),
        bind(VALUE, values),
        *family(bind(items.EXTRACTION, brands), without=few),
        as_base(items.ONE_VALUE, makers),
    ]


def _flipkart() -> list[Task]:
    common = {"source": "en_flipkart_catalog", "language": "en", "text": TITLE}
    goods = Dataset(
        name="Flipkart",
        label=ATTRIBUTE,
        view=views.chained(views.rooted(2), views.without_boilerplate("Only Genuine Products")),
        **common,
    )
    titles = Dataset(
        name="Flipkart_Category",
        label=CATEGORY,
        kind="category",
        coarse="department",
        view=views.titles(level=1),
        **common,
    )
    paths = Dataset(name="Flipkart_Path", view=views.rooted(3), **common)
    return [
        *family(
            bind(items.EXTRACTION, goods),
            without=("title_category", "category_check", "attribute_listing", "value_typing"),
        ),
        *family(bind(classification.CLASSIFICATION, titles), without=("text_writing",)),
        bind(taxonomy.PATH, paths),
    ]


def _listings() -> list[Task]:
    common = {"source": "zh_product_title_category", "language": "zh", "text": TITLE}
    titles = Dataset(
        name="Title_Category", label=CATEGORY, kind="category", coarse="department", view=views.titles(), **common
    )
    paths = Dataset(name="Title_Path", view=views.rooted(3), **common)
    return [
        *family(bind(classification.CLASSIFICATION, titles)),
        bind(taxonomy.PATH, paths),
        bind(categories.IN_CATEGORY, paths, parent=f"ZH-{paths.name}-Generate-{taxonomy.PATH.name}"),
    ]


def _copies() -> list[Task]:
    common = {"source": "zh_advertise_gen", "language": "zh", "text": ("product copy", "商品文案")}
    goods = Dataset(name="AdvertiseGen", **common)
    pairs = Dataset(
        name="AdvertiseGen_Pairs",
        label=("list of attributes", "lists of attributes", "属性列表"),
        pair=("Attribute", "Copy"),
        view=views.described(),
        **common,
    )
    values = Dataset(name="AdvertiseGen_Values", label=ATTRIBUTE, view=views.spanned("description"), **common)
    copy = as_base(items.DESCRIPTION, goods)
    return [
        copy,
        bind(matching.SELECTION, pairs, parent=copy.name),
        bind(matching.PAIR_CHECK, pairs, parent=copy.name),
        *family(bind(entities.RECOGNITION, values), without=("composition", "text_selection")),
    ]


def _spoken() -> list[Task]:
    found = []
    for name, source, slots, kind in (
        ("RNNLG_Laptop", "en_rnnlg_laptop", LAPTOP_SLOTS, ("laptop description", "电脑介绍")),
        ("RNNLG_TV", "en_rnnlg_tv", TV_SLOTS, ("television description", "电视介绍")),
    ):
        common = {"source": source, "language": "en", "text": kind}
        said = {slot: shown for slot, shown in slots.items() if slot not in _FLAGS}
        goods = Dataset(name=name, view=views.with_attributes(slots), **common)
        pairs = Dataset(
            name=f"{name}_Pairs", pair=("Attributes", "Description"), view=views.described(slots, "name"), **common
        )
        facts = Dataset(
            name=f"{name}_Facts",
            label=("list of attributes", "lists of attributes", "属性列表"),
            view=views.swapped(views.described(slots, "name")),
            **common,
        )
        values = Dataset(name=f"{name}_Values", label=ATTRIBUTE, view=views.spanned("description", said), **common)
        acts = Dataset(
            name=f"{name}_Act",
            source=source,
            language="en",
            text=("sentence", "句子"),
            label=("dialogue act", "dialogue acts", "对话行为"),
            kind="act",
            rename={"inform_count": "state how many", "inform_no_match": "state that nothing matches",
                    "inform_only_match": "state the only match", "inform_no_info": "state that it is unknown",
                    "inform_all": "state what all share", "select": "ask to choose", "inform": "inform",
                    "recommend": "recommend", "compare": "compare", "confirm": "confirm", "suggest": "suggest",
                    "request": "request"},
            view=views.acts,
        )  # fmt: skip
        text = as_base(items.DESCRIPTION, goods)
        found += [
            text,
            bind(matching.SELECTION, pairs, parent=text.name),
            bind(matching.PAIR_CHECK, pairs, parent=text.name),
            bind(FACTS, facts),
            *family(bind(entities.RECOGNITION, values), without=("composition", "text_selection")),
            *family(
                bind(classification.CLASSIFICATION, acts),
                without=("coarse_classification", "text_writing", "labelled_text_selection"),
            ),
        ]
    return found


def _taxonomy() -> list[Task]:
    tree = Dataset(
        name="Google_Taxonomy",
        source="en_google_taxonomy",
        language="en",
        text=("product category", "商品类目"),
    )
    base = bind(taxonomy.PATH, tree)
    forms = (taxonomy.ROOT, taxonomy.PARENT, taxonomy.CHILD, taxonomy.IS_A, taxonomy.ORDER)
    return [base, *(bind(form, tree, parent=base.name) for form in forms)]
