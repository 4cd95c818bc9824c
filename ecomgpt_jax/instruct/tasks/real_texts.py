"""Real sources of texts with labels of the whole: sentiment, ratings, categories, sides, titles of reviews."""

from ecomgpt_jax.instruct.chain_of_task import family
from ecomgpt_jax.instruct.tasks import classification, matching, views
from ecomgpt_jax.instruct.tasks.task import Dataset, Task, bind

REVIEW = ("review", "评论")
SENTIMENT = ("sentiment", "sentiments", "情感倾向")
RATING = ("star rating", "star ratings", "星级")
STARS = {"1": "1 star", **{str(star): f"{star} stars" for star in range(2, 6)}}
SENTIMENTS = {"positive": "正面", "negative": "负面"}
REVIEW_TITLE = matching.conversion("review_title", "review title generation")
PLAIN = ("coarse_classification",)  # one level of labels
BINARY = ("coarse_classification", "two_options")  # of two labels, two are always shown


def tasks() -> list[Task]:
    """Returns the tasks of these sources."""
    return [*_chinese(), *_amazon(), *_clothing(), *_sides()]


def _chinese() -> list[Task]:
    found = []
    for name, source, text, view in (
        ("EPRSTMT", "zh_eprstmt", ("product review", "商品评论"), iter),
        ("Hotel_Reviews", "zh_hotel_reviews", ("hotel review", "酒店评论"), iter),
        ("Waimai", "zh_waimai_10k", ("food delivery review", "外卖评论"), iter),
        (
            "Shopping_Sentiment",
            "zh_online_shopping_10_cats",
            ("product review", "商品评论"),
            views.without_label("category", "酒店"),
        ),
    ):
        reviews = Dataset(
            name=name,
            source=source,
            language="zh",
            text=text,
            label=SENTIMENT,
            kind="sentiment",
            rename=SENTIMENTS,
            view=view,
        )
        found += family(bind(classification.CLASSIFICATION, reviews), without=BINARY)
    goods = Dataset(
        name="Shopping_Category",
        source="zh_online_shopping_10_cats",
        language="zh",
        text=("product review", "商品评论"),
        label=("product category", "product categories", "商品类别"),
        kind="category",
        view=views.without_label("category", "酒店"),
    )
    apps = Dataset(
        name="App_Category",
        source="zh_app_category",
        language="zh",
        text=("app description", "应用介绍"),
        label=("category", "categories", "类别"),
        kind="category",
        view=views.unescaped,
    )
    return [
        *found,
        *family(bind(classification.CLASSIFICATION, goods), without=PLAIN),
        *family(bind(classification.CLASSIFICATION, apps), without=PLAIN),
    ]


def _amazon() -> list[Task]:
    alexa = {"source": "en_amazon_alexa", "language": "en", "text": REVIEW}
    star = {"source": "en_amazon_star_reviews", "language": "en", "text": REVIEW}
    ratings = (
        Dataset(name="Alexa_Rating", label=RATING, kind="rating", rename=STARS, **alexa),
        Dataset(name="Amazon_Rating", label=RATING, kind="rating", rename=STARS, **star),
    )
    sentiment = Dataset(name="Alexa_Sentiment", label=SENTIMENT, kind="sentiment", **alexa)
    domain = ("product domain", "product domains", "商品领域")
    domains = Dataset(name="Amazon_Domain", label=domain, kind="domain", **star)
    categories = Dataset(
        name="Amazon_Review_Category",
        source="en_amazon_review_category",
        language="en",
        text=REVIEW,
        label=("product category", "product categories", "商品类目"),
        kind="category",
    )
    return [
        *(task for each in ratings for task in family(bind(classification.RATING, each), without=PLAIN)),
        *family(bind(classification.CLASSIFICATION, sentiment), without=BINARY),
        *family(bind(classification.CLASSIFICATION, domains), without=PLAIN),
        *family(bind(classification.CLASSIFICATION, categories), without=PLAIN),
    ]


def _clothing() -> list[Task]:
    common = {
        "source": "en_womens_clothing_reviews",
        "language": "en",
        "text": ("clothing review", "服装评论"),
    }
    rating = Dataset(name="Clothing_Rating", label=RATING, kind="rating", rename=STARS, **common)
    advice = Dataset(
        name="Clothing_Recommendation",
        label=("verdict", "verdicts", "推荐意见"),
        kind="recommended",
        rename={"yes": "recommended", "no": "not recommended"},
        **common,
    )
    kinds = Dataset(
        name="Clothing_Class",
        label=("garment class", "garment classes", "服装类别"),
        kind="class",
        coarse="department",
        rename={"Casual bottoms": "", "Chemises": ""},  # one review each
        **common,
    )
    titles = Dataset(
        name="Clothing_Title",
        label=("review title", "review titles", "评论标题"),
        pair=("Review", "Title"),
        view=views.labels_paired("title"),
        **common,
    )
    return [
        *family(bind(classification.RATING, rating), without=PLAIN),
        *family(bind(classification.CLASSIFICATION, advice), without=BINARY),
        *family(bind(classification.CLASSIFICATION, kinds), without=("text_writing",)),
        *family(bind(REVIEW_TITLE, titles), without=("shared_words",)),
    ]


def _sides() -> list[Task]:
    points = Dataset(
        name="Pros_Cons",
        source="en_pros_cons",
        language="en",
        text=("list of points", "要点"),
        label=("verdict", "verdicts", "优缺点"),
        kind="side",
        rename={"pros": "pro", "cons": "con"},
    )
    return family(bind(classification.CLASSIFICATION, points), without=BINARY)
