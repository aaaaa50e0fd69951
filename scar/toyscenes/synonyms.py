"""Other names of ToyScenes' objects, and how free-form requests are typed."""

from random import Random

from scar.toyscenes.language import SYNONYMS
from scar.toyscenes.sprites import Sprite

MORE_SYNONYMS: dict[str, tuple[str, ...]] = {
    "cat": ("kitten", "tabby", "feline"),
    "car": ("motor car", "auto"),
    "apple": ("piece of fruit",),
    "tree": ("leafy tree", "big tree"),
    "house": ("little house",),
    "ball": ("football",),
    "balloon": ("party balloon",),
    "guitar": ("acoustic guitar",),
    "dog": ("doggy", "pooch", "hound"),
    "bus": ("coach",),
    "cactus": ("desert plant",),
    "castle": ("fortress", "fort"),
    "chair": ("seat",),
    "drum": ("snare drum",),
    "cow": ("dairy cow",),
    "train": ("railway engine",),
    "pizza slice": ("pizza", "slice of pizza", "piece of pizza"),
    "sunflower": ("yellow flower",),
    "tent": ("camping tent",),
    "umbrella": ("parasol", "brolly"),
    "top hat": ("tall hat",),
    "pig": ("piggy", "hog"),
    "tractor": ("farm tractor",),
    "hamburger": ("cheeseburger",),
    "mushroom": ("toadstool",),
    "church": ("chapel",),
    "teapot": ("tea pot", "tea kettle"),
    "moon": ("half moon",),
    "teddy bear": ("plush bear", "stuffed bear"),
    "bicycle": ("pushbike",),
    "strawberry": ("berry",),
    "palm tree": ("palm",),
    "gift": ("wrapped gift", "gift box", "parcel"),
    "airplane": ("jet", "aircraft"),
    "robot": ("robot head", "android"),
    "sailboat": ("yacht",),
    "frog": ("frog head", "toad"),
    "cake": ("birthday tart",),
    "octopus": ("kraken",),
    "rocket": ("spaceship", "space rocket", "rocket ship"),
    "lion": ("big cat",),
    "duck": ("mallard",),
    "horse": ("stallion", "mare"),
    "rabbit": ("hare",),
    "sheep": ("ewe",),
    "goat": ("billy goat",),
    "rooster": ("cockerel",),
    "chicken": ("hen",),
    "baby chick": ("chick",),
    "turtle": ("tortoise",),
    "crocodile": ("alligator", "croc"),
    "snake": ("serpent",),
    "lizard": ("gecko",),
    "dinosaur": ("brontosaurus", "sauropod"),
    "T-Rex": ("tyrannosaurus",),
    "rhinoceros": ("rhino",),
    "hippopotamus": ("hippo",),
    "ladybug": ("ladybird",),
    "mouse": ("little mouse",),
    "rat": ("rodent",),
    "bear": ("grizzly",),
    "donkey": ("mule",),
    "seashell": ("shell",),
    "sofa": ("settee",),
    "television": ("telly", "TV set"),
    "laptop": ("notebook computer", "computer"),
    "phone": ("smartphone", "mobile phone", "cell phone"),
    "light bulb": ("bulb",),
    "flashlight": ("torch",),
    "wrench": ("spanner",),
    "padlock": ("lock",),
    "axe": ("hatchet",),
    "bucket": ("pail",),
    "newspaper": ("paper",),
    "postbox": ("mailbox",),
    "trash can": ("bin", "rubbish bin"),
    "gem stone": ("gem", "diamond", "jewel"),
    "wristwatch": ("watch",),
    "lifebuoy": ("life ring",),
    "framed picture": ("painting", "picture frame"),
    "ice cream cone": ("ice cream",),
    "eggplant": ("aubergine",),
    "corn cob": ("corn", "ear of corn"),
    "hot pepper": ("chili pepper", "chilli"),
    "bread loaf": ("bread", "loaf of bread"),
    "chicken leg": ("drumstick",),
    "french fries": ("chips",),
    "doughnut": ("ring doughnut",),
    "cookie": ("biscuit",),
    "candy": ("sweet",),
    "glass of milk": ("milk",),
    "cup of coffee": ("coffee", "coffee cup"),
    "cup of tea": ("tea", "tea cup"),
    "glass of wine": ("wine", "wine glass"),
    "mug of beer": ("beer", "beer mug"),
    "slice of cake": ("shortcake", "piece of cake"),
    "t-shirt": ("tee", "shirt"),
    "jeans": ("trousers", "pants"),
    "coat": ("jacket",),
    "sneaker": ("trainer",),
    "baseball cap": ("cap",),
    "necktie": ("tie",),
    "sunglasses": ("shades",),
    "backpack": ("rucksack", "schoolbag"),
    "handbag": ("bag",),
    "taxi": ("cab",),
    "police car": ("cop car",),
    "fire truck": ("fire engine",),
    "truck": ("delivery truck",),
    "lorry": ("semi truck",),
    "race car": ("racing car",),
    "tram": ("streetcar",),
    "ship": ("vessel",),
    "speedboat": ("motorboat",),
    "helicopter": ("chopper",),
    "flying saucer": ("spacecraft",),
    "bullseye": ("target", "dartboard"),
    "trophy": ("cup",),
    "gold medal": ("medal",),
    "dice": ("die",),
    "office building": ("skyscraper", "office block"),
    "shop": ("store",),
    "derelict house": ("ruin",),
    "fir tree": ("pine tree", "pine"),
    "Christmas tree": ("xmas tree",),
    "potted plant": ("house plant",),
    "wood log": ("log",),
    "microphone": ("mic",),
    "djembe": ("bongo",),
    "headphones": ("headset",),
}

# What one object of a category is called where no other one of it is to be seen.
ANY_OF = {"animals": "animal", "vehicles": "vehicle", "buildings": "building", "plants": "plant"}

PLURAL = tuple(
    (f"{{old}} {one}", f"{{old}} {many}")
    for one, many in (
        ("is", "are"),
        ("was", "were"),
        ("has", "have"),
        ("needs", "need"),
        ("belongs", "belong"),
        ("stands", "stand"),
    )
) + (("take it away", "take them away"), ("move it ", "move them "), ("make it ", "make them "))
PLURAL += ((" I want it ", " I want them "), ("scrap it", "scrap them"))

PREFIXES = ("please", "pls", "can you", "could you", "could you please", "can you please")
PREFIXES += ("hey,", "ok now", "I want you to", "I'd like you to", "just", "now", "let's")
SUFFIXES = ("please", "pls", "thanks", ", thank you", "for me", "!", "now", "if you can")
# Sentences that begin with one of these words can be made polite.
VERBS = (
    "add put place insert draw show include bring make give paste paint create throw fit set pop "
    "remove delete erase take get clear drop lose eliminate cut wipe hide kick leave edit banish "
    "replace swap turn change exchange substitute transform convert switch trade use morph colour "
    "color recolour recolor dye tint spray enlarge scale increase grow blow resize expand magnify "
    "size upsize pump shrink reduce decrease downsize miniaturize squeeze move shift slide push "
    "drag reposition transfer relocate pull carry send haul nudge scoot keep"
)
IMPERATIVES = frozenset(VERBS.split())


def other_names(sprite: Sprite, taken: frozenset[str]) -> list[str]:
    """The names of an object, its own first, that name no other of the taken ones."""
    more = SYNONYMS.get(sprite.name, ()) + MORE_SYNONYMS.get(sprite.name, ())
    return [sprite.name, *(name for name in more if name not in taken)]


def confusable(a: Sprite, b: Sprite) -> bool:
    """Whether all words of one's name are in the other's: "ball" and "tennis ball"."""
    first, second = set(a.name.lower().split()), set(b.name.lower().split())
    return first <= second or second <= first


def in_plural(template: str) -> str:
    """A template whose object is several: "are" for "is", "them" for "it"."""
    for one, many in PLURAL:
        template = template.replace(one, many)
    return template


def misspelt(rng: Random, template: str) -> str:
    """A template with two letters of one word exchanged; what stands in braces stays."""
    words = template.split()
    plain = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not plain:
        return template
    i = rng.choice(plain)
    k = rng.randrange(1, len(words[i]) - 2)
    words[i] = words[i][:k] + words[i][k + 1] + words[i][k] + words[i][k + 2 :]
    return " ".join(words)


def typed(rng: Random, phrase: str) -> str:
    """The phrase as people type it: polite, hasty or loud."""
    phrase = " ".join(phrase.replace(" ,", ",").split())
    asks = phrase.split()[0] in ("can", "could", "would", "what", "how", "why", "who")
    asks = asks and "?" not in phrase
    if phrase.split()[0] in IMPERATIVES and rng.random() < 0.22:
        prefix = rng.choice(PREFIXES)
        phrase, asks = f"{prefix} {phrase}", prefix.startswith(("can", "could"))
    elif rng.random() < 0.08 and "please" not in phrase:
        suffix = rng.choice(SUFFIXES)
        phrase += suffix if suffix[0] in ",!" else f" {suffix}"
    if phrase.endswith("!"):
        pass
    elif asks and rng.random() < 0.7:
        phrase += "?"
    elif rng.random() < 0.3:
        phrase += "."
    case = rng.random()
    if case < 0.04:
        return phrase.upper()
    if case < 0.3:
        return phrase.lower()
    return phrase[0].upper() + phrase[1:] if case < 0.65 else phrase
