"""Real sources with pairs: offers of one product or of two, queries and titles, offers and canonical names."""

from ecomgpt_jax.instruct.chain_of_task import family
from ecomgpt_jax.instruct.tasks import classification, items, matching, views
from ecomgpt_jax.instruct.tasks.task import Dataset, Task, bind

CANONICAL_NAME = matching.conversion("canonical_name", "title normalisation")
OFFER = ("offer", "商品信息")
# Dataset name, source, what one of its texts is called.
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


def tasks() -> list[Task]:
    """Returns the tasks of these sources."""
    return [*_offers(), *_categories(), *_clusters(), *_searches()]


def _offers() -> list[Task]:
    found = []
    for name, source, text in _OFFERS:
        # up to nine in ten pairs differ; a third of those is kept
        dataset = Dataset(
            name=name, source=source, language="en", text=text, positive="same", view=views.thinned("different", 0.35)
        )
        found += family(bind(matching.RELATION, dataset))
    goods = Dataset(name="Abt_Buy", source="en_match_abt_buy", language="en", text=OFFER)
    return [*found, bind(items.DESCRIPTION, goods, parent=found[0].name)]


def _categories() -> list[Task]:
    styles = Dataset(
        name="Beer_Style",
        source="en_match_beer",
        language="en",
        text=("beer name", "啤酒名称"),
        label=("beer style", "beer styles", "啤酒风格"),
        kind="category",
        # the six styles with more than five beers
        view=views.titles(
            labels=(
                "American Amber / Red Ale",
                "Amber Ale",
                "American Strong Ale",
                "American Barleywine",
                "Barley Wine",
                "Irish Ale",
            )
        ),
    )
    goods = Dataset(
        name="Walmart_Amazon_Category",
        source="en_match_walmart_amazon",
        language="en",
        text=("product title", "商品标题"),
        label=("category", "categories", "类目"),
        kind="category",
        view=views.titles(),
    )
    return [
        *family(
            bind(classification.CLASSIFICATION, styles),
            without=("coarse_classification", "text_writing", "same_label", "labelled_text_selection"),
        ),
        *family(bind(classification.CLASSIFICATION, goods), without=("coarse_classification",)),
    ]


def _clusters() -> list[Task]:
    offers = Dataset(
        name="PriceRunner",
        source="en_pricerunner",
        language="en",
        text=OFFER,
        positive="same",
        view=views.neighbours,
    )
    names = Dataset(
        name="PriceRunner_Names",
        source="en_pricerunner",
        language="en",
        text=("offer title", "商品标题"),
        label=("canonical product name", "canonical product names", "标准商品名"),
        pair=("Offer", "Product"),
        view=views.canonical("name"),
    )
    titles = Dataset(
        name="PriceRunner_Category",
        source="en_pricerunner",
        language="en",
        text=("product title", "商品标题"),
        label=("category", "categories", "类目"),
        kind="category",
        view=views.titles(),
    )
    reviews = Dataset(
        name="Review_Pairs",
        source="en_amazon_review_category",
        language="en",
        text=("review", "评论"),
        positive="same",
        pair=("Review 1", "Review 2"),
        rename={"same": "same product", "different": "different products"},
        view=views.neighbours,
    )
    return [
        *family(bind(matching.RELATION, offers)),
        *family(bind(CANONICAL_NAME, names), without=("shared_words",)),
        *family(bind(classification.CLASSIFICATION, titles), without=("coarse_classification",)),
        *family(bind(matching.RELATION, reviews), without=("shared_words", "rewriting", "selection", "pair_check")),
    ]


def _searches() -> list[Task]:
    depot = Dataset(
        name="Home_Depot",
        source="en_home_depot_relevance",
        language="en",
        text=("search query", "搜索词"),
        positive="relevant",
        pair=("Query", "Product"),
        rename=SCALE,
        view=views.relabelled(HOME_DEPOT_GRADES),
    )
    web = Dataset(
        name="QBQTC",
        source="zh_search_relevance_qbqtc",
        language="zh",
        text=("search query", "搜索词"),
        positive="2",
        pair=("Query", "Title"),
        rename={"0": "不相关", "1": "部分相关", "2": "非常相关"},
    )
    return [
        *family(bind(matching.RELEVANCE, depot), matching.BEST),
        # the form splits words at blanks, which Chinese does not use
        *family(bind(matching.RELEVANCE, web), without=("shared_words",)),
    ]
