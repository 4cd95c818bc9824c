"""Real sources with pairs: offers of one product or of two, queries and titles, offers and canonical names."""

from ecomgpt_jax.instruct.chain_of_task import family
from ecomgpt_jax.instruct.tasks import items, matching, views
from ecomgpt_jax.instruct.tasks.classification import CLASSIFICATION
from ecomgpt_jax.instruct.tasks.matching import BEST, RELATION, RELEVANCE
from ecomgpt_jax.instruct.tasks.task import Dataset, Task, bind

CANONICAL_NAME = matching.conversion("canonical_name", "title normalisation")
OFFER = ("offer", "商品信息")
# Dataset name, source, nouns for one of its texts.
_OFFERS = (
    ("Abt_Buy", "en_match_abt_buy", OFFER),
    ("Amazon_Google", "en_match_amazon_google", OFFER),
    ("Walmart_Amazon", "en_match_walmart_amazon", OFFER),
    ("Beer", "en_match_beer", ("beer listing", "啤酒信息")),
    ("ITunes_Amazon", "en_match_itunes_amazon", ("song listing", "歌曲信息")),
    ("Fodors_Zagats", "en_match_restaurants_fz", ("restaurant listing", "餐厅信息")),
    ("WDC_Cameras", "en_match_wdc_cameras", OFFER),
    ("WDC_Computers", "en_match_wdc_computers", OFFER),
    ("WDC_Shoes", "en_match_wdc_shoes", OFFER),
    ("WDC_Watches", "en_match_wdc_watches", OFFER),
)
# Mean of several judges from 1 to 3.
HOME_DEPOT_GRADES = {
    **dict.fromkeys(("1", "1.25", "1.33", "1.5"), "irrelevant"),
    **dict.fromkeys(("1.67", "1.75", "2", "2.25", "2.33"), "partly relevant"),
    **dict.fromkeys(("2.5", "2.67", "2.75", "3"), "relevant"),
}
SCALE = {"irrelevant": "irrelevant", "partly relevant": "partly relevant", "relevant": "relevant"}
# The six that more than five beers have.
BEER_STYLES = (
    *("American Amber / Red Ale", "Amber Ale", "American Strong Ale"),
    *("American Barleywine", "Barley Wine", "Irish Ale"),
)
_CATEGORY = {
    "text": ("product title", "商品标题"),
    "label": ("category", "categories", "类目"),
    "kind": "category",
    "view": views.titles(),
}


def tasks() -> list[Task]:
    """Returns the tasks of these sources."""
    return [*_offers(), *_categories(), *_clusters(), *_searches()]


def _offers() -> list[Task]:
    thinned = views.thinned("different", 0.35)  # up to nine of ten pairs differ: a third of those is kept
    found = []
    for name, source, text in _OFFERS:
        found += family(RELATION, Dataset(name, source, text=text, positive="same", view=thinned))
    goods = Dataset("Abt_Buy", "en_match_abt_buy", text=OFFER)
    return [*found, bind(items.DESCRIPTION, goods, parent=found[0].name)]


def _categories() -> list[Task]:
    styles = Dataset(
        "Beer_Style",
        "en_match_beer",
        text=("beer name", "啤酒名称"),
        label=("beer style", "beer styles", "啤酒风格"),
        kind="category",
        view=views.titles(labels=BEER_STYLES),
        lacks=("text from annotation", "comparable texts", "distinct texts"),
    )
    return [
        *family(CLASSIFICATION, styles),
        *family(CLASSIFICATION, Dataset("Walmart_Amazon_Category", "en_match_walmart_amazon", **_CATEGORY)),
    ]


def _clusters() -> list[Task]:
    names = Dataset(
        "PriceRunner_Names",
        "en_pricerunner",
        text=("offer title", "商品标题"),
        label=("canonical product name", "canonical product names", "标准商品名"),
        pair=("Offer", "Product"),
        view=views.canonical("name"),
        lacks=("common words",),
    )
    reviews = Dataset(
        "Review_Pairs",
        "en_amazon_review_category",
        text=("review", "评论"),
        positive="same",
        pair=("Review 1", "Review 2"),
        rename={"same": "same product", "different": "different products"},
        view=views.neighbours,
        lacks=("common words", "text from annotation", "distinct texts", "comparable texts"),
    )
    return [
        *family(RELATION, Dataset("PriceRunner", "en_pricerunner", text=OFFER, positive="same", view=views.neighbours)),
        *family(CANONICAL_NAME, names),
        *family(CLASSIFICATION, Dataset("PriceRunner_Category", "en_pricerunner", **_CATEGORY)),
        *family(RELATION, reviews),
    ]


def _searches() -> list[Task]:
    depot = Dataset(
        "Home_Depot",
        "en_home_depot_relevance",
        text=("search query", "搜索词"),
        positive="relevant",
        pair=("Query", "Product"),
        rename=SCALE,
        view=views.relabelled(HOME_DEPOT_GRADES),
    )
    web = Dataset(
        "QBQTC",
        "zh_search_relevance_qbqtc",
        text=("search query", "搜索词"),
        positive="2",
        pair=("Query", "Title"),
        rename={"0": "不相关", "1": "部分相关", "2": "非常相关"},
        lacks=("common words",),  # written without blanks
    )
    return [*family(RELEVANCE, depot, BEST), *family(RELEVANCE, web)]
