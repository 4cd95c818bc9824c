"""Real sources with spans: product texts, titles, addresses, bookings, queries, opinion targets."""

from ecomgpt_jax.instruct.chain_of_task import family, pseudo_label
from ecomgpt_jax.instruct.tasks import classification, entities, opinions, views
from ecomgpt_jax.instruct.tasks.task import Dataset, Task, bind

PRODUCT_TYPES = {"product": "商品", "brand": "品牌", "model": "型号", "specification": "规格"}
VIDEO_TYPES = {"television": "影视节目", "person": "人物", "other": "其他"}
BANK_TYPES = {"bank": "银行", "product": "产品", "commented feature": "评价方面", "comment": "评价词"}
SENTIMENTS = {"positive": "正面", "negative": "负面", "neutral": "中性"}
ADDRESS_TYPES = {
    "country": "国家",
    "province": "省",
    "city": "市",
    "district": "区县",
    "development zone": "开发区",
    "town": "乡镇街道",
    "community": "社区村",
    "road": "道路",
    "road number": "门牌号",
    "side road": "支路",
    "side road number": "支路号",
    "point of interest": "兴趣点",
    "part of a point of interest": "子兴趣点",
    "building number": "楼栋号",
    "unit number": "单元号",
    "floor number": "楼层",
    "room number": "房间号",
    "occupant": "人员或单位",
    "locating word": "方位辅助词",
    "redundant": "",
    "other": "",
}
TITLE_TYPES = {
    "brand": "品牌",
    "model number": "型号",
    "product": "产品词",
    "purpose": "用途",
    "season": "季节时间",
    "place": "场所部位",
    "target group": "适用人群",
    "theme": "主题",
    "pattern": "图案形象",
    "function": "功能",
    "material": "材质",
    "modifier": "修饰词",
    "style": "款式",
    "colour": "颜色",
    "size": "尺寸规格",
    "component": "部件",
    "customisation": "定制",
    "capacity": "容量",
    "compatible brand": "适配品牌",
    "compatible model": "适配型号",
    "model code": "型号代码",
    "compatible device": "适配设备",
    "screen size": "屏幕尺寸",
    "other": "",
}
ONE_TYPE_ONLY = ("span_detection", "one_type", "span_typing", "type_listing")  # they would all be the base again


def tasks() -> list[Task]:
    """Returns the tasks of these sources."""
    return [*_chinese(), *_targets(), *_english()]


def _chinese() -> list[Task]:
    products = Dataset(
        name="E_commerce",
        source="zh_ecommerce_ner",
        language="zh",
        text=("product text", "商品文本"),
        rename=PRODUCT_TYPES,
    )
    videos = Dataset(
        name="Youku", source="zh_youku_ner", language="zh", text=("video title", "视频标题"), rename=VIDEO_TYPES
    )
    addresses = Dataset(
        name="Address",
        source="zh_address_parsing",
        language="zh",
        text=("address", "地址"),
        label=("address part", "address parts", "地址成分"),
        rename=ADDRESS_TYPES,
    )
    titles = Dataset(
        name="JD_Titles",
        source="zh_jd_title_ner",
        language="zh",
        text=("product title", "商品标题"),
        label=("attribute", "attributes", "属性"),
        rename=TITLE_TYPES,
        supervision=("gold",),
        view=views.trimmed,
    )
    comments = Dataset(
        name="Bank_Comments",
        source="zh_bank_product_reviews",
        language="zh",
        text=("comment", "评论"),
        rename=BANK_TYPES,
        view=views.trimmed,
    )
    sentiment = Dataset(
        name="Bank_Sentiment",
        source="zh_bank_product_reviews",
        language="zh",
        text=("comment", "评论"),
        label=("sentiment", "sentiments", "情感倾向"),
        kind="sentiment",
        rename=SENTIMENTS,
        view=views.trimmed,
    )
    title = bind(entities.RECOGNITION, titles)
    return [
        *family(bind(entities.RECOGNITION, products)),
        *family(bind(entities.RECOGNITION, videos)),
        *family(bind(entities.RECOGNITION, addresses)),
        *family(title),
        *pseudo_label(title),
        *family(bind(entities.RECOGNITION, comments), without=("composition",)),
        *family(bind(classification.CLASSIFICATION, sentiment), without=("coarse_classification",)),
    ]


def _targets() -> list[Task]:
    shops = Dataset(
        name="COTE_Dianping",
        source="zh_cote_dianping",
        language="zh",
        text=("restaurant review", "餐饮点评"),
        label=("shop or dish", "shops or dishes", "店铺或菜品"),
        rename={"target": "评价对象"},
    )
    places = Dataset(
        name="COTE_Mafengwo",
        source="zh_cote_mafengwo",
        language="zh",
        text=("travel note", "旅游点评"),
        label=("place", "places", "地点"),
        rename={"target": "评价对象"},
    )
    return [
        *family(bind(opinions.TARGETS, shops), without=ONE_TYPE_ONLY),
        *family(bind(opinions.TARGETS, places), without=ONE_TYPE_ONLY),
    ]


def _english() -> list[Task]:
    bookings = Dataset(
        name="Restaurant_Slots",
        source="en_restaurant_slots",
        language="en",
        text=("customer message", "顾客消息"),
        label=("slot", "slots", "槽位"),
    )
    requested = Dataset(
        name="Requested_Slot",
        source="en_restaurant_slots",
        language="en",
        text=("customer reply", "顾客答复"),
        label=("requested slot", "requested slots", "被询问的槽位"),
        kind="requested",
    )
    queries = Dataset(  # the labels were made by rules ("weak")
        name="Grocery_Queries",
        source="en_query_segmentation",
        language="en",
        text=("search query", "搜索词"),
        view=views.labels_found(("product type", "attribute")),
    )
    return [
        *family(bind(entities.RECOGNITION, bookings), without=("composition", "text_selection")),
        *family(
            bind(classification.CLASSIFICATION, requested),
            without=("coarse_classification", "text_writing", "same_label", "labelled_text_selection"),
        ),
        *family(bind(entities.RECOGNITION, queries), without=("composition", "type_listing", "text_selection")),
    ]
