# ruff: noqa: E501  (a word list or a message in each line)
"""The English half of the embedded catalogue: words and sentence patterns, all written for it.

`<name>` in a pattern is a slot; its value becomes a span if the slot's name is in `TYPES`.
"""

BLANK = " "
LISTED = ", "
STOP = ". "
BUT = ", but "

# Main category -> leaf category -> nouns for the product.
CATEGORIES = {
    "Clothing": {
        "Dresses": "dress,midi dress,summer dress",
        "Shirts": "shirt,blouse,oxford shirt",
        "T-shirts": "t-shirt,tee,graphic tee",
        "Jackets": "jacket,windbreaker,bomber jacket",
        "Sweaters": "sweater,pullover,cardigan",
        "Trousers": "trousers,chinos,jeans",
    },
    "Shoes and bags": {
        "Sneakers": "sneakers,running shoes,trainers",
        "Boots": "boots,ankle boots,hiking boots",
        "Sandals": "sandals,slides,flip flops",
        "Backpacks": "backpack,rucksack,school bag",
        "Handbags": "handbag,tote bag,shoulder bag",
        "Wallets": "wallet,card holder,coin purse",
    },
    "Electronics": {
        "Headphones": "headphones,earbuds,headset",
        "Keyboards": "keyboard,mechanical keyboard,keypad",
        "Chargers": "charger,power bank,charging dock",
        "Watches": "smart watch,fitness band,sports watch",
        "Speakers": "speaker,soundbar,portable speaker",
        "Cameras": "camera,action camera,webcam",
    },
    "Beauty": {
        "Creams": "face cream,night cream,moisturizer",
        "Shampoos": "shampoo,hair wash,dry shampoo",
        "Lipsticks": "lipstick,lip balm,lip gloss",
        "Sunscreens": "sunscreen,sun lotion,sun spray",
        "Perfumes": "perfume,body mist,eau de toilette",
        "Masks": "face mask,clay mask,sheet mask",
    },
    "Food": {
        "Coffee": "coffee,coffee beans,instant coffee",
        "Tea": "tea,tea bags,loose tea",
        "Snacks": "chips,crackers,popcorn",
        "Chocolate": "chocolate,truffles,chocolate bar",
        "Nuts": "almonds,cashews,trail mix",
        "Noodles": "noodles,ramen,pasta",
    },
    "Home": {
        "Lamps": "desk lamp,floor lamp,night light",
        "Bedding": "duvet cover,pillowcase,sheet set",
        "Cookware": "frying pan,saucepan,wok",
        "Towels": "bath towel,hand towel,beach towel",
        "Storage": "storage box,laundry basket,shelf organizer",
        "Mugs": "mug,travel cup,tumbler",
    },
}
FASHION = ("Clothing", "Shoes and bags")

_COLORS = "black,white,navy,red,olive,beige,grey,pink,teal,burgundy,cream,khaki,lilac,mustard,coral"
ATTRIBUTES = {
    "Clothing": {
        "Color": _COLORS,
        "Material": "cotton,linen,wool,silk,polyester,denim,cashmere,velvet,corduroy,fleece",
        "Style": "casual,vintage,formal,boho,preppy,streetwear,minimalist,sporty",
        "Pattern": "striped,floral,plaid,plain,polka dot,paisley,camouflage,tie-dye",
        "Season": "summer,winter,spring,autumn,all-season",
        "Neckline": "v-neck,crew neck,turtleneck,square neck,boat neck,halter neck",
        "Sleeve": "long sleeve,short sleeve,sleeveless,puff sleeve,three-quarter sleeve",
    },
    "Shoes and bags": {
        "Color": _COLORS,
        "Material": "leather,suede,canvas,mesh,nylon,rubber,faux leather,cork",
        "Style": "casual,vintage,formal,retro,sporty,minimalist,outdoor",
        "Pattern": "plain,quilted,embossed,color block,woven,studded",
        "Season": "summer,winter,spring,autumn,all-season",
        "Closure": "zip,lace-up,buckle,slip-on,magnetic,drawstring,velcro",
    },
    "Electronics": {
        "Color": "black,white,silver,graphite,blue,rose gold",
        "Connection": "wireless,bluetooth,usb-c,wired,wifi,dual mode",
        "Power": "10W,20W,45W,65W,100W,5000mAh,10000mAh",
        "Feature": "waterproof,noise cancelling,fast charging,foldable,backlit,shockproof,voice control,ultra slim",
        "Model": "X20,A7 Pro,S300,M5,Lite 2,ZR-9,K68,T1 Max,V4,Air 3",
    },
    "Beauty": {
        "Effect": "hydrating,soothing,anti-aging,brightening,repairing,oil control,volumizing,firming",
        "Skin type": "dry skin,oily skin,sensitive skin,mature skin,all skin types",
        "Volume": "30ml,50ml,100ml,150ml,250ml,400ml",
        "Scent": "rose,lavender,vanilla,citrus,jasmine,sandalwood,unscented,peach",
        "Texture": "gel,lightweight,rich,matte,silky,foaming",
    },
    "Food": {
        "Flavor": "caramel,sea salt,matcha,mango,spicy,original,honey,hazelnut,mint,smoky",
        "Weight": "100g,200g,250g,500g,1kg,12 pack",
        "Origin": "Colombia,Ceylon,Belgium,Japan,Brazil,Turkey,Italy,Kenya",
        "Diet": "organic,gluten free,vegan,sugar free,low fat,keto",
        "Package": "gift box,resealable bag,glass jar,tin,family pack",
    },
    "Home": {
        "Color": _COLORS,
        "Material": "bamboo,stainless steel,ceramic,glass,cotton,cast iron,oak,plastic,enamel",
        "Size": "small,medium,large,king size,20cm,28cm,set of 2,set of 4",
        "Feature": "dimmable,dishwasher safe,non-stick,quick dry,stackable,leakproof,foldable,scratch proof",
        "Style": "nordic,rustic,modern,industrial,farmhouse,japandi",
    },
}
BRANDS = (
    "Norvane,Kelmo,Tavira,Osprin,Lumeo,Brackley,Fenwick,Zolani,Merrow,Quillon,Astera,Pavlo,Ridgeway,Sundel,Vantor,"
    "Ellory,Copperline,Halden,Mistral,Juno Lane,Okari,Petrova,Wexley,Dorian,Calyx,Bramble,Northfold,Seva,Tindra,Ubel,"
    "Yarrow,Zephra,Lindqvist,Monarc,Orlena,Ravello,Skarn,Thistle,Umbra Co,Valise,Kestrel,Ivory Bay,Greyson,Hearthly,"
    "Arkadia,Belmora,Corvo,Dunmore"
)
AUDIENCE = "for women,for men,for kids,for travel,for the office,for beginners,for gifts,for daily use"
PRAISE = "new arrival,best seller,on sale,limited edition,top rated,free shipping"
TYPES = {
    "brand": "Brand", "product": "Product", "component": "Component", "attribute": "Attribute",
    "audience": "Audience", "price": "Price", "number": "House number", "street": "Street", "city": "City",
    "state": "State", "zip": "Postcode", "flat": "Flat", "order": "Order number", "item": "Item", "date": "Date",
    "place": "Place",
}  # fmt: skip

COMPONENTS = {
    "Clothing": "collar,cuffs,side pockets,lining,zipper,hood,waistband,buttons",
    "Shoes and bags": "sole,insole,strap,laces,inner pocket,heel,buckle,handle",
    "Electronics": "battery,touch screen,microphone,cable,case,sensor,keycaps,lens",
    "Beauty": "pump,applicator,cap,brush,bottle,spatula",
    "Food": "lid,inner bag,scoop,label,tray,seal",
    "Home": "handle,base,lid,shade,switch,zip,rim,cord",
}
SENTENCES = (
    "The <brand> <product> comes with a <attribute> <component> .",
    "<brand> has given its <product> a new <component> that feels <attribute> .",
    "This <attribute> <product> from <brand> is made for everyday use .",
    "Its <component> keeps the <product> <attribute> all day .",
    "You will love the <attribute> <component> of our <product> .",
    "Compared with last year , <brand> improved the <component> of the <product> .",
    "A <attribute> <component> and a <attribute2> <component2> set this <product> apart .",
    "Designed by <brand> , the <product> pairs a <component> with a <attribute> finish .",
    "The <component> of the <product> can be replaced in seconds .",
    "Choose the <attribute> <product> if you need a strong <component> .",
    "<brand> says that the <component> is <attribute> and easy to clean .",
    "We tested the <brand> <product> and found its <component> <attribute> .",
)
QUERIES = (
    "<value> <product>",
    "<brand> <product>",
    "<value> <product> <audience>",
    "<product> under <price>",
    "<brand> <value> <product>",
    "<product> <audience>",
    "cheap <value> <product> under <price>",
    "<value> <value2> <product>",
    "where to buy <brand> <product>",
)
PRICES = "10 dollars,20 dollars,35 dollars,50 dollars,80 dollars,100 dollars,150 dollars"

POSITIVE, NEGATIVE = "positive", "negative"
# Topic -> (aspects, words of praise, words of complaint).
TOPICS = {
    "Quality": ("fabric,stitching,build quality,material,finish,craftsmanship",
                "solid,sturdy,excellent,flawless,durable,first class",
                "flimsy,poor,full of flaws,cheap looking,fragile,disappointing"),
    "Price": ("price,value for money,cost,discount,price tag,deal",
              "fair,great,low,unbeatable,reasonable,worth every cent",
              "too high,unfair,steep,overpriced,a rip-off,not worth it"),
    "Delivery": ("shipping,delivery,courier,parcel,tracking,arrival",
                 "fast,on time,quick,ahead of schedule,smooth,prompt",
                 "slow,late,three days late,careless,delayed,a mess"),
    "Service": ("customer service,seller,support team,staff,reply,help desk",
                "friendly,helpful,patient,polite,responsive,kind",
                "rude,unhelpful,useless,impatient,silent,arrogant"),
    "Look": ("color,design,shape,pattern,style,look",
             "beautiful,elegant,stunning,as pictured,lovely,modern",
             "dull,ugly,faded,nothing like the photo,old fashioned,tacky"),
    "Use": ("size,fit,battery life,sound,taste,smell",
            "perfect,just right,amazing,pleasant,long lasting,comfortable",
            "wrong,awful,weak,strange,too small,uncomfortable"),
    "Packaging": ("box,packaging,wrapping,gift box,seal,bubble wrap",
                  "neat,careful,pretty,intact,secure,eco friendly",
                  "torn,crushed,dirty,broken,wasteful,open"),
}  # fmt: skip
CLAUSES = (
    "the <aspect> is <opinion>", "<aspect> was <opinion>", "I find the <aspect> <opinion>", "the <aspect> seems <opinion>",
    "<opinion> <aspect>", "the <aspect> turned out to be <opinion>",
)  # fmt: skip
OPENINGS = (
    "", "", "", "Bought this for my sister. ", "Second order. ", "Used it for a week. ", "Honest review: ",
    "My first buy here. ",
)  # fmt: skip

# Fact -> (statements, questions, values).
FACTS = {
    "material": ("It is made of <value>|The outer part is <value>|We use only <value> for it",
                 "What is it made of?|Which material is used?",
                 "recycled nylon,soft cotton,brushed steel,solid oak,pure wool,tempered glass"),
    "weight": ("It weighs <value>|The weight is <value> without the box|At <value> it is easy to carry",
               "How heavy is it?|What does it weigh?", "300 grams,1.2 kilos,850 grams,95 grams,2 kilos,450 grams"),
    "warranty": ("The warranty lasts <value>|You get a warranty of <value>|We repair it free of charge for <value>",
                 "How long is the warranty?|Is there a guarantee, and for how long?",
                 "two years,12 months,five years,90 days,three years,six months"),
    "delivery": ("Orders arrive within <value>|Shipping takes <value>|We deliver in <value>",
                 "How long does delivery take?|When will my order arrive?",
                 "three days,one week,48 hours,five working days,two weeks,24 hours"),
    "returns": ("You can return it within <value>|Returns are accepted for <value>|Send it back within <value>",
                "How long can I return it?|What is the return period?",
                "14 days,30 days,60 days,one month,seven days,100 days"),
    "origin": ("It is produced in <value>|Every piece comes from <value>|Our factory is in <value>",
               "Where is it made?|Which country does it come from?",
               "Portugal,Vietnam,Poland,Mexico,Turkey,Denmark"),
    "care": ("Please <value>|To clean it, <value>|For a long life, <value>",
             "How do I clean it?|What care does it need?",
             "wipe it with a damp cloth,wash it by hand,use mild soap,rinse it in cold water,dry it in the shade,"
             "brush it once a week"),
    "power": ("A full charge lasts <value>|It runs for <value>|The battery holds <value>",
              "How long does the battery last?|What is the running time?",
              "eight hours,two days,30 hours,a week,12 hours,90 minutes"),
    "box": ("The box also holds <value>|It ships with <value>|Included is <value>",
            "What is in the box?|What comes with it?",
            "a travel pouch,a spare strap,a cleaning brush,two filters,a charging cable,a user manual"),
    "price": ("It costs <value>|The price is <value> this week|Now sold at <value>",
              "How much is it?|What does it cost?", "19 dollars,45 dollars,120 dollars,64 dollars,8 dollars,230 dollars"),
}  # fmt: skip
DESCRIPTIONS = (
    "Meet the <product> from <brand>: <values>. Ready for every day.",
    "This <product> by <brand> is <values>.",
    "<brand> presents a <product> you will keep: <values>.",
    "Looking for a <product>? <brand> offers one that is <values>.",
)

# Group -> intent -> (messages, replies).
INTENTS = {
    "Order": {
        "track order": ("Where is my order <order>?|Has order <order> been shipped yet?|I ordered a <item> on <date> and it is not here|Can you tell me the status of <order>?",
                        "It left our warehouse and should reach you in two days.|Your parcel is on its way, here is the tracking link."),
        "cancel order": ("Please cancel order <order>|I no longer want the <item>, cancel it|Stop my purchase of <date>, please|How can I cancel <order>?",
                         "Your order is cancelled and the money goes back to your card.|Done, the order will not be shipped."),
        "change order": ("I want to change the color of the <item> in order <order>|Can I swap the <item> in my order?|Please add a <item> to order <order>|I ordered the wrong <item>, change it please",
                         "I changed the order for you, please check the mail.|We updated your basket before packing."),
    },
    "Delivery": {
        "change address": ("I moved to <place>, send my order there|Please deliver the <item> to <place> instead|Wrong address on order <order>, I live in <place>|Update my address to <place>",
                           "The new address is saved.|We told the courier about the new address."),
        "delivery time": ("How long does shipping to <place> take?|When will the <item> arrive in <place>?|Do you deliver to <place> before <date>?|Can I have the <item> by <date>?",
                          "Delivery takes three to five working days.|It will be with you by the end of the week."),
        "damaged parcel": ("The <item> arrived broken|My parcel from <date> was open and the <item> is damaged|There is a crack in the <item>|Order <order> came in a crushed box",
                           "We are sorry, please send us a photo of the damage.|We will send a new one at no cost."),
    },
    "Payment": {
        "get refund": ("I returned the <item> on <date>, where is my money?|When do I get the refund for <order>?|You still owe me a refund for the <item>|Refund order <order>, please",
                       "The refund takes up to seven days.|We paid you back this morning."),
        "payment failed": ("My card was refused for the <item>|I cannot pay for order <order>|Payment failed twice on <date>|The checkout gives an error when I buy the <item>",
                           "Please try another card or clear the cookies.|Your bank stopped the payment, please call them."),
        "get invoice": ("I need an invoice for <order>|Please send me the bill for the <item>|Where can I download the invoice of <date>?|My company in <place> needs a receipt",
                        "The invoice is in your mailbox now.|You find it under my orders, invoices."),
    },
    "Product": {
        "ask stock": ("Is the <item> in stock?|When will the <item> be available again?|Do you have the <item> in your shop in <place>?|The <item> is sold out, any more coming?",
                      "It will be back next Monday.|Yes, a few pieces are left."),
        "ask size": ("Which size of the <item> should I take?|Does the <item> run small?|I am between two sizes, what about the <item>?|Is the <item> true to size?",
                     "It runs true to size.|We suggest one size up."),
        "ask discount": ("Is there a discount on the <item>?|Do you have a coupon for <date>?|Will the <item> be cheaper soon?|Can I get the <item> at a lower price?",
                         "Use the code SAVE10 at the checkout.|Our sale begins on Friday."),
    },
}  # fmt: skip
THANKS = ("Thank you!|Great, thanks.|Okay, that helps.|Perfect.", "You are welcome.|Happy to help.|Have a nice day.")
SPEAKERS = ("Customer", "Agent")
TURN_LABELS = ("request", "answer", "thanks", "farewell")
GREETING = "Hi, |Hello, |Good morning, |Hey, ||||"

STREETS = (
    "Maple Street,Oak Avenue,Harbor Road,Station Lane,Mill Street,King Street,Rose Court,Lake Drive,Chapel Road,"
    "Garden Walk,Bridge Street,Elm Terrace,Park Row,Windmill Lane,Castle Hill"
)
CITIES = (
    "Springfield,Ashford,Riverton,Kingsport,Lakewood,Milton,Fairview,Brighton,Oakdale,Westbury,Georgetown,Harlow,"
    "Dunfield,Northgate,Silverton"
)
STATES = "Ohio,Texas,Nevada,Oregon,Maine,Kansas,Georgia,Utah,Vermont,Idaho"
ADDRESSES = (
    "<number> <street>, <city>, <state> <zip>",
    "<number> <street>, Flat <flat>, <city> <zip>",
    "Flat <flat>, <number> <street>, <city>, <state>",
    "Ship to <number> <street> in <city>, <state> <zip>",
    "<city>, <state>: <number> <street>, apartment <flat>",
    "please send it to <number> <street>, <city> <zip>",
)
DATES = "Monday,Tuesday,Friday,3 May,12 June,last week,the 21st,Sunday,5 October,yesterday"

PAIR_LABELS = ("same", "not same")
SEARCH_LABELS = ("match", "not match")
