"""How ToyScenes speaks: instructions in many phrasings, and captions."""

from random import Random

from scar.toyscenes.sprites import Sprite

# The last two phrasings of every family are kept for testing.
HELD_OUT = 2

PHRASINGS: dict[str, tuple[str, ...]] = {
    "add": (
        "add {new} {where}",
        "put {new} {where}",
        "place {new} {where}",
        "insert {new} {where}",
        "draw {new} {where}",
        "there should be {new} {where}",
        "I want {new} {where}",
        "I'd like to see {new} {where}",
        "let there be {new} {where}",
        "give me {new} {where}",
        "show {new} {where}",
        "include {new} {where}",
        "bring in {new} {where}",
        "make {new} appear {where}",
    ),
    "remove": (
        "remove {old}",
        "delete {old}",
        "erase {old}",
        "take away {old}",
        "get rid of {old}",
        "take {old} out",
        "there should be no {bare}",
        "make {old} disappear",
        "I don't want {old}",
        "clear away {old}",
        "drop {old}",
        "lose {old}",
        "eliminate {old} from the picture",
        "without {old}",
    ),
    "replace": (
        "replace {old} with {new}",
        "swap {old} for {new}",
        "turn {old} into {new}",
        "change {old} to {new}",
        "change {old} into {new}",
        "exchange {old} for {new}",
        "put {new} in place of {old}",
        "substitute {new} for {old}",
        "transform {old} into {new}",
        "instead of {old} show {new}",
        "I want {new} instead of {old}",
        "make {old} {new}",
        "convert {old} to {new}",
        "{new} in the place of {old}",
    ),
    "recolour": (
        "make {old} {colour}",
        "paint {old} {colour}",
        "colour {old} {colour}",
        "color {old} {colour}",
        "turn {old} {colour}",
        "change the colour of {old} to {colour}",
        "change the color of {old} to {colour}",
        "recolour {old} {colour}",
        "recolor {old} to {colour}",
        "I want {old} to be {colour}",
        "dye {old} {colour}",
        "give {old} a {colour} colour",
        "set the color of {old} to {colour}",
        "{old} should be {colour}",
    ),
    "bigger": (
        "make {old} bigger",
        "make {old} larger",
        "enlarge {old}",
        "scale {old} up",
        "increase the size of {old}",
        "grow {old}",
        "I want a bigger {bare}",
        "blow {old} up",
        "let {old} grow",
        "make the size of {old} larger",
        "turn {old} into a bigger one",
        "{old} should be bigger",
    ),
    "smaller": (
        "make {old} smaller",
        "make {old} tiny",
        "shrink {old}",
        "scale {old} down",
        "reduce the size of {old}",
        "decrease the size of {old}",
        "I want a smaller {bare}",
        "let {old} shrink",
        "make {old} little",
        "make the size of {old} smaller",
        "turn {old} into a smaller one",
        "{old} should be smaller",
    ),
    "move": (
        "move {old} {to}",
        "shift {old} {to}",
        "slide {old} {to}",
        "push {old} {to}",
        "drag {old} {to}",
        "put {old} over {to}",
        "bring {old} {to}",
        "take {old} {to}",
        "reposition {old} {to}",
        "let {old} go {to}",
        "transfer {old} {to}",
        "relocate {old} {to}",
    ),
    "place": (
        "change the place to {place}",
        "change the background to {place}",
        "make the background {place}",
        "move the scene to {place}",
        "put everything {there}",
        "set the scene {there}",
        "take us to {place}",
        "replace the background with {place}",
        "show it {there}",
        "turn the place into {place}",
        "let it be {there}",
        "swap the background for {place}",
        "what would it look like {there}",
        "transport the scene to {place}",
    ),
    "night": (
        "make it night",
        "turn it to night",
        "change the time to night",
        "set the scene at night",
        "make it nighttime",
        "let it be night",
        "turn day into night",
        "show it at night",
        "let the stars come out",
        "make it dark outside",
        "what would it look like at night",
        "bring on the night",
    ),
    "snow": (
        "make it snow",
        "add snow",
        "let it snow",
        "change the weather to snow",
        "cover everything in snow",
        "turn it to winter",
        "make it winter",
        "show it in the snow",
        "make it snowy",
        "it should be snowing",
        "what would it look like in winter",
        "bring on the snow",
    ),
    "rain": (
        "make it rain",
        "add rain",
        "let it rain",
        "change the weather to rain",
        "make it rainy",
        "make the weather rainy",
        "show it in the rain",
        "turn it into a rainy day",
        "it should be raining",
        "set the scene in the rain",
        "what would it look like in the rain",
        "bring on the rain",
    ),
    "sunset": (
        "make it sunset",
        "change the time to sunset",
        "turn it to sunset",
        "set the scene at sunset",
        "let the sun set",
        "show it at sunset",
        "make it evening",
        "let it be dusk",
        "turn day into sunset",
        "give it a sunset",
        "what would it look like at sunset",
        "bring on the sunset",
    ),
    "clear": (
        "make it a clear day",
        "change the weather to clear",
        "make it daytime",
        "turn it to day",
        "let it be a bright day",
        "make the weather nice",
        "clear up the weather",
        "show it on a clear day",
        "make it a fine day",
        "set the scene in daylight",
        "what would it look like on a clear day",
        "bring back the daylight",
    ),
}

POSITIONS: dict[str, tuple[str, ...]] = {
    "left": (
        "on the left",
        "on the left side",
        "to the left",
        "at the left",
        "on the left-hand side",
    ),
    "middle": ("in the middle", "in the center", "in the centre", "at the center"),
    "right": (
        "on the right",
        "on the right side",
        "to the right",
        "at the right",
        "on the right-hand side",
    ),
    "sky left": ("in the sky on the left", "at the top left", "in the upper left"),
    "sky middle": ("in the middle of the sky", "at the top center", "at the top in the middle"),
    "sky right": ("in the sky on the right", "at the top right", "in the upper right"),
    "next": ("next to {x}", "beside {x}", "by the side of {x}", "near {x}"),
    "behind": ("behind {x}", "in the back of {x}", "right behind {x}"),
    "anywhere": ("", "", "to the scene", "to the picture"),
    "sky anywhere": ("", "in the sky", "up in the sky"),
}

DESTINATIONS: dict[str, tuple[str, ...]] = {
    "left": ("to the left", "to the left side", "to the left-hand side"),
    "middle": ("to the middle", "to the center", "to the centre"),
    "right": ("to the right", "to the right side", "to the right-hand side"),
}

SYNONYMS: dict[str, tuple[str, ...]] = {
    "cat": ("kitty",),
    "dog": ("puppy",),
    "car": ("automobile",),
    "house": ("home", "cottage"),
    "ball": ("soccer ball",),
    "bicycle": ("bike",),
    "airplane": ("plane", "aeroplane"),
    "hamburger": ("burger",),
    "gift": ("present",),
    "train": ("locomotive", "steam train"),
    "rabbit": ("bunny",),
    "pig": ("piglet",),
    "sailboat": ("boat", "sailing boat"),
    "cake": ("birthday cake",),
    "moon": ("crescent moon",),
    "sofa": ("couch",),
    "television": ("TV",),
    "motorcycle": ("motorbike",),
    "trash can": ("dustbin",),
    "french fries": ("fries", "chips"),
    "doughnut": ("donut",),
    "horse": ("pony",),
    "flying saucer": ("UFO",),
    "sneaker": ("running shoe",),
    "teddy bear": ("teddy",),
}

WEATHER_CAPTIONS = {
    "clear": "",
    "night": " at night",
    "snow": " in falling snow",
    "rain": " in the rain",
    "sunset": " at sunset",
}


def phrasings(kind: str, held_out: bool) -> tuple[str, ...]:
    """The phrasings of one kind of instruction that training sees, or those it does not."""
    return PHRASINGS[kind][-HELD_OUT:] if held_out else PHRASINGS[kind][:-HELD_OUT]


def noun(sprite: Sprite, colour: str | None = None, name: str | None = None) -> str:
    """ "red apple" """
    return f"{colour} {name or sprite.name}" if colour else name or sprite.name


def with_article(sprite: Sprite, colour: str | None = None, name: str | None = None) -> str:
    """ "a red apple", "an owl", "some grapes" """
    words = noun(sprite, colour, name)
    if sprite.plural:
        return f"some {words}"
    vowel = words.lower().startswith(("a", "e", "i", "o", "umb", "urn", "hour"))
    return f"{'an' if vowel else 'a'} {words}"


def spoken_name(rng: Random, sprite: Sprite, vocabulary_names: frozenset[str]) -> str:
    """The object's name, or now and then a synonym that names nothing else."""
    others = [s for s in SYNONYMS.get(sprite.name, ()) if s not in vocabulary_names]
    return rng.choice(others) if others and rng.random() < 0.15 else sprite.name


def vary_style(rng: Random, phrase: str) -> str:
    """The phrase as people type it: polite or not, any case, with or without a full stop."""
    phrase = " ".join(phrase.split())
    verb_first = phrase.split()[0] not in ("I", "I'd", "I'll", "there", "it", "what", "without")
    verb_first = verb_first and not phrase.startswith(("the ", "a ", "an ", "some ", "instead"))
    manner = rng.random()
    if phrase.startswith("what"):
        phrase += "?"
    elif verb_first and manner < 0.08:
        phrase = f"please {phrase}"
    elif verb_first and manner < 0.12:
        phrase = f"{phrase}, please"
    elif verb_first and manner < 0.18:
        phrase = f"{rng.choice(('can', 'could'))} you {phrase}?"
    if not phrase.endswith("?") and rng.random() < 0.4:
        phrase += "."
    case = rng.random()
    if case < 0.06:
        return phrase.upper()
    if case < 0.16:
        return phrase.lower()
    return phrase[0].upper() + phrase[1:] if case < 0.6 else phrase


def enumeration(parts: list[str]) -> str:
    """ "a cat, a dog and an apple" """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
