"""Real sources with aspects: quadruples, triplets, aspects with a polarity, categories with a polarity."""

from ecomgpt_jax.instruct.chain_of_task import family
from ecomgpt_jax.instruct.tasks import aspects, classification, opinions, views
from ecomgpt_jax.instruct.tasks.task import Dataset, Task, bind, words

SENTIMENTS = {"positive": "正面", "negative": "负面", "neutral": "中性"}
TOPIC = ("topic", "topics", "话题")
REVIEW = ("review", "评论")
NO_CATEGORY = ("term_category", "topics")
NO_OPINION = ("opinion_terms", "opinion_of_aspect", "pairing", *NO_CATEGORY)
TERMS = ("aspect_terms", "opinion_terms", "opinion_of_aspect", "aspect_polarity", "term_category", "pairing")


def tasks() -> list[Task]:
    """Returns the tasks of these sources."""
    return [*_quadruples(), *_triplets(), *_aspects(), *_categories(), *_domains()]


def _quadruples() -> list[Task]:
    taobao = Dataset(
        name="Taobao_Reviews",
        source="zh_taobao_review_opinion",
        language="zh",
        text=REVIEW,
        label=TOPIC,
        rename=SENTIMENTS,
    )
    laptops = Dataset(
        name="Laptop_ACOS", source="en_laptop_acos", language="en", text=REVIEW, label=TOPIC, spelling=words
    )
    restaurants = Dataset(
        name="Restaurant_ACOS",
        source="en_restaurant_acos",
        language="en",
        text=("restaurant review", "餐厅评论"),
        view=views.without_categories(),
    )
    goods = Dataset(
        name="MEMD",
        source="en_memd_absa",
        language="en",
        text=REVIEW,
        label=TOPIC,
        rename={"None": ""},
        spelling=words,
        view=views.of_domains("books", "clothing", "hotel"),
    )
    dinners = Dataset(
        name="MEMD_Restaurant",
        source="en_memd_absa",
        language="en",
        text=("restaurant review", "餐厅评论"),
        view=views.without_categories("restaurant"),
    )
    return [
        *family(bind(aspects.TUPLES, taobao), opinions.POLARITY_OF_CATEGORY),
        *family(bind(aspects.TUPLES, laptops), opinions.POLARITY_OF_CATEGORY),
        *family(bind(aspects.TUPLES, restaurants), without=NO_CATEGORY),
        *family(bind(aspects.TUPLES, goods), opinions.POLARITY_OF_CATEGORY),
        *family(bind(aspects.TUPLES, dinners), without=NO_CATEGORY),
    ]


def _triplets() -> list[Task]:
    laptops = Dataset(
        name="ASTE_Laptop",
        source="en_aste_v2",
        language="en",
        text=("laptop review", "电脑评论"),
        view=views.of_domains("laptop"),
    )
    amazon = Dataset(name="DMASTE", source="en_dmaste_triplets", language="en", text=REVIEW)
    dianping = Dataset(
        name="Dianping_ASTE",
        source="zh_dianping_aste",
        language="zh",
        text=("restaurant review", "餐饮点评"),
        rename=SENTIMENTS,
    )
    return [
        *family(bind(aspects.TUPLES, laptops), without=NO_CATEGORY),
        *family(bind(aspects.TUPLES, amazon), without=NO_CATEGORY),
        *family(bind(aspects.TUPLES, dianping), without=NO_CATEGORY),
    ]


def _aspects() -> list[Task]:
    products = Dataset(
        name="Product_Aspects",
        source="zh_product_aspect_polarity",
        language="zh",
        text=("product comment", "商品评论"),
        rename=SENTIMENTS,
    )
    sets = [
        Dataset(
            name="MAMS", source="en_mams", language="en", text=("restaurant review", "餐厅评论"), view=views.trimmed
        ),
        Dataset(name="TV_Tshirt", source="en_tv_tshirt_aspects", language="en", text=REVIEW),
        Dataset(name="Hu_Liu", source="en_hu_liu_reviews", language="en", text=REVIEW, view=views.judged_aspects),
        products,
    ]
    return [task for dataset in sets for task in family(bind(aspects.TUPLES, dataset), without=NO_OPINION)]


def _categories() -> list[Task]:
    common = {"source": "zh_asap_sample", "language": "zh", "text": ("restaurant review", "餐饮点评")}
    judged = Dataset(name="ASAP", label=("topic", "topics", "话题"), rename=SENTIMENTS, **common)
    stars = Dataset(
        name="ASAP_Rating",
        label=("star rating", "star ratings", "星级"),
        kind="rating",
        rename={str(star): f"{star}星" for star in range(1, 6)},
        **common,
    )
    without = (*TERMS, "review_selection")
    return [
        *family(bind(aspects.TUPLES, judged), opinions.POLARITY_OF_CATEGORY, without=without),
        *family(bind(classification.RATING, stars), without=("coarse_classification", "text_writing", "two_options")),
    ]


def _domains() -> list[Task]:
    products = Dataset(
        name="Product_Domain",
        source="zh_product_aspect_polarity",
        language="zh",
        text=("product comment", "商品评论"),
        label=("product", "products", "商品"),
        kind="domain",
        view=views.by_domain(8),
    )
    amazon = Dataset(
        name="DMASTE_Category",
        source="en_dmaste_triplets",
        language="en",
        text=REVIEW,
        label=("product category", "product categories", "商品类目"),
        kind="category",
        coarse="domain",
        rename={"AMAZON FASHION": "Amazon Fashion"},
    )
    return [
        *family(bind(classification.CLASSIFICATION, products), without=("coarse_classification", "text_writing")),
        *family(bind(classification.CLASSIFICATION, amazon), without=("text_writing",)),
    ]
