"""Real sources with aspects: quadruples, triplets, aspects with a polarity, categories with a polarity."""

from ecomgpt_jax.instruct.chain_of_task import family
from ecomgpt_jax.instruct.tasks import views
from ecomgpt_jax.instruct.tasks.aspects import TUPLES
from ecomgpt_jax.instruct.tasks.classification import CLASSIFICATION, RATING
from ecomgpt_jax.instruct.tasks.opinions import POLARITY_OF_CATEGORY
from ecomgpt_jax.instruct.tasks.task import Dataset, Task, words

SENTIMENTS = {"positive": "正面", "negative": "负面", "neutral": "中性"}
TOPIC = ("topic", "topics", "话题")
REVIEW = ("review", "评论")
DINNER = ("restaurant review", "餐厅评论")
DIANPING = ("restaurant review", "餐饮点评")
_PAIRS = ("categories", "opinions")  # what aspects with a polarity lack


def tasks() -> list[Task]:
    """Returns the tasks of these sources."""
    return [*_quadruples(), *_triplets(), *_aspects(), *_categories(), *_domains()]


def _quadruples() -> list[Task]:
    taobao = Dataset("Taobao_Reviews", "zh_taobao_review_opinion", text=REVIEW, label=TOPIC, rename=SENTIMENTS)
    laptops = Dataset("Laptop_ACOS", "en_laptop_acos", text=REVIEW, label=TOPIC, spelling=words)
    plain = {"text": DINNER, "lacks": ("categories",)}
    restaurants = Dataset("Restaurant_ACOS", "en_restaurant_acos", view=views.without_categories(), **plain)
    goods = Dataset(
        "MEMD",
        "en_memd_absa",
        text=REVIEW,
        label=TOPIC,
        rename={"None": ""},
        spelling=words,
        view=views.of_domains("books", "clothing", "hotel"),
    )
    dinners = Dataset("MEMD_Restaurant", "en_memd_absa", view=views.without_categories("restaurant"), **plain)
    return [
        *family(TUPLES, taobao, POLARITY_OF_CATEGORY),
        *family(TUPLES, laptops, POLARITY_OF_CATEGORY),
        *family(TUPLES, restaurants),
        *family(TUPLES, goods, POLARITY_OF_CATEGORY),
        *family(TUPLES, dinners),
    ]


def _triplets() -> list[Task]:
    triplets = {"lacks": ("categories",)}
    view, laptop = views.of_domains("laptop"), ("laptop review", "电脑评论")
    return [
        *family(TUPLES, Dataset("ASTE_Laptop", "en_aste_v2", text=laptop, view=view, **triplets)),
        *family(TUPLES, Dataset("DMASTE", "en_dmaste_triplets", text=REVIEW, **triplets)),
        *family(TUPLES, Dataset("Dianping_ASTE", "zh_dianping_aste", text=DIANPING, rename=SENTIMENTS, **triplets)),
    ]


def _aspects() -> list[Task]:
    products = Dataset(
        "Product_Aspects",
        "zh_product_aspect_polarity",
        text=("product comment", "商品评论"),
        rename=SENTIMENTS,
        lacks=_PAIRS,
    )
    judged = views.judged_aspects
    return [
        *family(TUPLES, Dataset("MAMS", "en_mams", text=DINNER, view=views.trimmed, lacks=_PAIRS)),
        *family(TUPLES, Dataset("TV_Tshirt", "en_tv_tshirt_aspects", text=REVIEW, lacks=_PAIRS)),
        *family(TUPLES, Dataset("Hu_Liu", "en_hu_liu_reviews", text=REVIEW, view=judged, lacks=_PAIRS)),
        *family(TUPLES, products),
    ]


def _categories() -> list[Task]:
    common = {"source": "zh_asap_sample", "text": DIANPING}
    judged = Dataset("ASAP", label=TOPIC, rename=SENTIMENTS, lacks=("aspects", "opinions", "distinct texts"), **common)
    stars = Dataset(
        "ASAP_Rating",
        label=("star rating", "star ratings", "星级"),
        kind="rating",
        rename={str(star): f"{star}星" for star in range(1, 6)},
        lacks=("text from annotation", "choices"),
        **common,
    )
    return [*family(TUPLES, judged, POLARITY_OF_CATEGORY), *family(RATING, stars)]


def _domains() -> list[Task]:
    products = Dataset(
        "Product_Domain",
        "zh_product_aspect_polarity",
        text=("product comment", "商品评论"),
        label=("product", "products", "商品"),
        kind="domain",
        view=views.by_domain(8),
        lacks=("text from annotation",),
    )
    amazon = Dataset(
        "DMASTE_Category",
        "en_dmaste_triplets",
        text=REVIEW,
        label=("product category", "product categories", "商品类目"),
        kind="category",
        coarse="domain",
        rename={"AMAZON FASHION": "Amazon Fashion"},
        lacks=("text from annotation",),
    )
    return [*family(CLASSIFICATION, products), *family(CLASSIFICATION, amazon)]
