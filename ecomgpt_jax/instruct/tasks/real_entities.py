"""Real sources with spans: product texts, titles, addresses, bookings, queries, opinion targets."""

from ecomgpt_jax.instruct.chain_of_task import family, pseudo_label
from ecomgpt_jax.instruct.tasks import opinions, views
from ecomgpt_jax.instruct.tasks.classification import CLASSIFICATION
from ecomgpt_jax.instruct.tasks.entities import RECOGNITION
from ecomgpt_jax.instruct.tasks.task import Dataset, Task

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


def tasks() -> list[Task]:
    """Returns the tasks of these sources."""
    return [*_chinese(), *_targets(), *_english()]


def _chinese() -> list[Task]:
    addresses = Dataset(
        "Address",
        "zh_address_parsing",
        text=("address", "地址"),
        label=("address part", "address parts", "地址成分"),
        rename=ADDRESS_TYPES,
    )
    titles = Dataset(
        "JD_Titles",
        "zh_jd_title_ner",
        text=("product title", "商品标题"),
        label=("attribute", "attributes", "属性"),
        rename=TITLE_TYPES,
        supervision=("gold",),
        view=views.trimmed,
    )
    bank = {"source": "zh_bank_product_reviews", "text": ("comment", "评论"), "view": views.trimmed}
    sentiment = {"label": ("sentiment", "sentiments", "情感倾向"), "kind": "sentiment", "rename": SENTIMENTS}
    goods = ("product text", "商品文本")
    jd = family(RECOGNITION, titles)
    return [
        *family(RECOGNITION, Dataset("E_commerce", "zh_ecommerce_ner", text=goods, rename=PRODUCT_TYPES)),
        *family(RECOGNITION, Dataset("Youku", "zh_youku_ner", text=("video title", "视频标题"), rename=VIDEO_TYPES)),
        *family(RECOGNITION, addresses),
        *jd,
        *pseudo_label(jd[0]),
        *family(RECOGNITION, Dataset("Bank_Comments", rename=BANK_TYPES, lacks=("text from annotation",), **bank)),
        *family(CLASSIFICATION, Dataset("Bank_Sentiment", **bank, **sentiment)),
    ]


def _targets() -> list[Task]:
    common = {"rename": {"target": "评价对象"}, "lacks": ("several types", "several spans")}
    shops = Dataset(
        "COTE_Dianping",
        "zh_cote_dianping",
        text=("restaurant review", "餐饮点评"),
        label=("shop or dish", "shops or dishes", "店铺或菜品"),
        **common,
    )
    places = Dataset(
        "COTE_Mafengwo",
        "zh_cote_mafengwo",
        text=("travel note", "旅游点评"),
        label=("place", "places", "地点"),
        **common,
    )
    return [*family(opinions.TARGETS, shops), *family(opinions.TARGETS, places)]


def _english() -> list[Task]:
    bookings = Dataset(
        "Restaurant_Slots",
        "en_restaurant_slots",
        text=("customer message", "顾客消息"),
        label=("slot", "slots", "槽位"),
        lacks=("text from annotation", "distinct texts"),
    )
    requested = Dataset(
        "Requested_Slot",
        "en_restaurant_slots",
        text=("customer reply", "顾客答复"),
        label=("requested slot", "requested slots", "被询问的槽位"),
        kind="requested",
        lacks=("text from annotation", "comparable texts", "distinct texts"),
    )
    queries = Dataset(  # the labels were made by rules ("weak")
        "Grocery_Queries",
        "en_query_segmentation",
        text=("search query", "搜索词"),
        view=views.labels_found(("product type", "attribute")),
        lacks=("text from annotation", "choices", "distinct texts"),
    )
    return [*family(RECOGNITION, bookings), *family(CLASSIFICATION, requested), *family(RECOGNITION, queries)]
