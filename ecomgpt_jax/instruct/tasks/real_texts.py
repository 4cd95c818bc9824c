"""Real sources of texts with labels of the whole: sentiment, ratings, categories, sides, titles of reviews."""

from ecomgpt_jax.instruct.chain_of_task import family
from ecomgpt_jax.instruct.tasks import matching, views
from ecomgpt_jax.instruct.tasks.classification import CLASSIFICATION, RATING
from ecomgpt_jax.instruct.tasks.task import Dataset, Task

REVIEW = ("review", "评论")
GOODS_REVIEW = ("product review", "商品评论")
CLOTHING_REVIEW = ("clothing review", "服装评论")
STARS = {"1": "1 star", **{str(star): f"{star} stars" for star in range(2, 6)}}
SENTIMENTS = {"positive": "正面", "negative": "负面"}
REVIEW_TITLE = matching.conversion("review_title", "review title generation")
_RATING = {"label": ("star rating", "star ratings", "星级"), "kind": "rating", "rename": STARS}
_SENTIMENT = {"label": ("sentiment", "sentiments", "情感倾向"), "kind": "sentiment", "lacks": ("choices",)}
_CHINESE = _SENTIMENT | {"rename": SENTIMENTS}
_DOMAIN = {"label": ("product domain", "product domains", "商品领域"), "kind": "domain"}
_NO_HOTELS = views.without_label("category", "酒店")


def tasks() -> list[Task]:
    """Returns the tasks of these sources."""
    return [*_chinese(), *_amazon(), *_clothing(), *_sides()]


def _chinese() -> list[Task]:
    shopping = {"source": "zh_online_shopping_10_cats", "text": GOODS_REVIEW, "view": _NO_HOTELS}
    category = ("product category", "product categories", "商品类别")
    apps = Dataset(
        "App_Category",
        "zh_app_category",
        text=("app description", "应用介绍"),
        label=("category", "categories", "类别"),
        kind="category",
        view=views.unescaped,
    )
    return [
        *family(CLASSIFICATION, Dataset("EPRSTMT", "zh_eprstmt", text=GOODS_REVIEW, **_CHINESE)),
        *family(
            CLASSIFICATION, Dataset("Hotel_Reviews", "zh_hotel_reviews", text=("hotel review", "酒店评论"), **_CHINESE)
        ),
        *family(
            CLASSIFICATION, Dataset("Waimai", "zh_waimai_10k", text=("food delivery review", "外卖评论"), **_CHINESE)
        ),
        *family(CLASSIFICATION, Dataset("Shopping_Sentiment", **shopping, **_CHINESE)),
        *family(CLASSIFICATION, Dataset("Shopping_Category", label=category, kind="category", **shopping)),
        *family(CLASSIFICATION, apps),
    ]


def _amazon() -> list[Task]:
    categories = Dataset(
        "Amazon_Review_Category",
        "en_amazon_review_category",
        text=REVIEW,
        label=("product category", "product categories", "商品类目"),
        kind="category",
    )
    return [
        *family(RATING, Dataset("Alexa_Rating", "en_amazon_alexa", text=REVIEW, **_RATING)),
        *family(RATING, Dataset("Amazon_Rating", "en_amazon_star_reviews", text=REVIEW, **_RATING)),
        *family(CLASSIFICATION, Dataset("Alexa_Sentiment", "en_amazon_alexa", text=REVIEW, **_SENTIMENT)),
        *family(CLASSIFICATION, Dataset("Amazon_Domain", "en_amazon_star_reviews", text=REVIEW, **_DOMAIN)),
        *family(CLASSIFICATION, categories),
    ]


def _clothing() -> list[Task]:
    common = {"source": "en_womens_clothing_reviews", "text": CLOTHING_REVIEW}
    advice = Dataset(
        "Clothing_Recommendation",
        label=("verdict", "verdicts", "推荐意见"),
        kind="recommended",
        rename={"yes": "recommended", "no": "not recommended"},
        lacks=("choices",),
        **common,
    )
    kinds = Dataset(
        "Clothing_Class",
        label=("garment class", "garment classes", "服装类别"),
        kind="class",
        coarse="department",
        rename={"Casual bottoms": "", "Chemises": ""},  # one review each
        lacks=("text from annotation",),
        **common,
    )
    titles = Dataset(
        "Clothing_Title",
        label=("review title", "review titles", "评论标题"),
        pair=("Review", "Title"),
        view=views.labels_paired("title"),
        lacks=("common words",),
        **common,
    )
    return [
        *family(RATING, Dataset("Clothing_Rating", **common, **_RATING)),
        *family(CLASSIFICATION, advice),
        *family(CLASSIFICATION, kinds),
        *family(REVIEW_TITLE, titles),
    ]


def _sides() -> list[Task]:
    points = Dataset(
        "Pros_Cons",
        "en_pros_cons",
        text=("list of points", "要点"),
        label=("verdict", "verdicts", "优缺点"),
        kind="side",
        rename={"pros": "pro", "cons": "con"},
        lacks=("choices",),
    )
    return family(CLASSIFICATION, points)
