"""Sketches: one to three free sentences of many words, each asked who, what and where; wide vocabulary with exact
truth.

Left out: sense. A weary tailor may fold a crumpled bridge; the reader has to look at the words, not guess.
"""

from functools import cache
from random import Random

from . import words
from .phrase import article, capital, say, surname
from .reading import Ask, Passage

ADJECTIVES = tuple(
    """weary crumpled brave clumsy eager faint gaunt hasty idle jolly keen lazy merry nimble odd pale quaint rusty
    shabby tidy vain witty absent blunt crooked dense empty famous grim hollow icy jagged lean mellow neat obedient
    plump rare sincere tame urgent vivid wicked young ancient bitter careful distant earnest fancy glossy humble
    innocent jealous knotted lively modest narrow ornate patient rapid silent tender upset vast wooden awkward
    broad chilly daring elderly fragile generous handsome immense juicy lonesome muddy noble polite ragged slender
    thirsty ugly velvet wandering yearly zealous bald cruel drowsy exact foolish greedy hearty impatient loyal
    mighty nervous pompous restless scarce timid uneven vague wild wrinkled stubborn curious dazzling sturdy
    peculiar gloomy brisk frosty grumpy spotless cautious tangled splintered faded gilded hidden borrowed painted
    stolen forgotten frozen folded broken rented polished sunken twisted""".split()
)
PEOPLE = tuple(
    """tailor miner captain widow pilgrim juggler knight monk nurse orphan pirate queen ranger scout thief uncle
    waiter aunt butcher clown dentist emperor fiddler governor hermit inspector janitor king lawyer merchant neighbour
    officer peasant poet rider sculptor teacher usher vicar warden acrobat barber cousin dancer engineer farmer
    gardener hunter innkeeper jeweller kinsman lodger magician nephew niece oarsman painter plumber professor
    runner sailor singer soldier stranger student traveller tutor twin visitor weaver wizard apprentice banker
    detective duchess grandmother grandfather porter prince princess shopkeeper spy surgeon vet zookeeper""".split()
)
NOUNS = tuple(
    """napkin wagon turnstile sandal kettle lantern pebble ribbon saddle teapot violin whistle acorn bandage cabbage
    dagger envelope feather goblet handle insect jacket kerchief letter mattress necklace orange pumpkin quilt
    raft sausage thimble urn vessel wallet axe bracelet candle diary easel fiddle gadget helmet icicle jewel kite
    locket mirror nutmeg ornament pistol quill rattle shovel trophy utensil vault wreath anvil barrel carpet
    dumpling engine fossil garland hatchet ink jigsaw knapsack lobster magnet nest oyster pastry relic scarf
    tapestry trunk vase walnut yarn apron blossom cradle doorknob eggshell flask gravel harp ivory jar kernel
    ladle melon notebook oar parasol rake sickle tambourine tulip veil wand beehive chalice drawer fence gutter
    hinge lid mask nail painting pocket plank puppet rug sail shell shutter sleeve slipper spade statue
    stool sword tent thread tile towel tray trumpet tub turnip wig wire zither almanac banjo bonnet brick buckle cactus
    canoe cane cloak compass cork crown cushion dice drum dustpan flute fork freckle glove grape hammock horn
    kettledrum lute marble medal mitten mug needle pigeon pillow pin plate poster pot purse ring rose sack
    satchel scroll seal sign sledge soap sponge spoon stamp suitcase telescope ticket torch tower wheel
    window""".split()
)
VERBS = tuple(
    """folded carried painted dropped hid sold bought mended stole washed lifted kicked buried polished borrowed broke
    burned caught chased cleaned climbed collected copied counted covered crossed cut decorated described destroyed
    dragged drew dug emptied examined fetched filled fixed followed forgot found gathered grabbed guarded held hung
    ignored inherited inspected kept lent lost loved measured missed moved noticed offered opened ordered packed
    photographed picked pulled pushed raised received refused remembered repaired returned saved searched shook
    showed sketched smashed sorted split squeezed swallowed threw tied touched traded turned unlocked wanted
    watched weighed wiped won wrapped""".split()
)
SPOTS = tuple(
    """
    beside the fountain|behind the bakery|under the bridge|near the windmill|in the attic|on the balcony|at the harbour
    |inside the chapel|above the stable|below the cliff|outside the theatre|by the campfire|in the cellar|on the rooftop
    |at the crossroads|near the waterfall|in the vineyard|under the oak|behind the curtain|on the staircase
    |at the railway station|in the waiting room|beside the well|near the lighthouse|in the corridor|on the ferry
    |under the awning|at the cemetery|by the hedge|in the alley|on the platform|at the crossing|behind the barn
    |near the swamp|in the museum|on the island|beneath the arch|at the border|in the quarry|along the canal""".replace(
        "\n    ", ""
    ).split("|")
)
TIMES = tuple(
    """
    at dawn|at noon|at midnight|before breakfast|after supper|during the storm|last winter|yesterday|on Monday|on Friday
    |in the afternoon|during the parade|after the concert|before the exam|one evening|at sunset|in the early morning
    |during the eclipse|after the harvest|on market day""".replace("\n    ", "").split("|")
)

_PARTICIPLES = frozenset(verb for verb in VERBS if verb.endswith("ed"))


def sketch(rng: Random, split: str, low: int = 1, high: int = 3) -> Passage:
    """Write `low` to `high` sentences whose people, things and verbs all differ, and ask about each."""
    count = rng.randint(low, high)
    people, things, verbs = rng.sample(PEOPLE, count), rng.sample(NOUNS, count), rng.sample(VERBS, count)
    spots, times = rng.sample(SPOTS, count), rng.sample(TIMES, count)
    traits, lines, asks = rng.sample(ADJECTIVES, 2 * count), [], []
    for who, what, did, where, when in zip(people, things, verbs, spots, times, strict=True):
        trait, own = traits.pop(), traits.pop()
        doer = (
            f"the {own} {who}"
            if rng.random() < 0.5
            else f"{surname(rng, split)} the {who}"
            if rng.random() < 0.5
            else f"the {who}"
        )
        values = {
            "d": doer,
            "D": capital(doer),
            "v": did,
            "x": what,
            "t": trait,
            "a": article(trait),
            "w": where,
            "n": when,
            "N": capital(when),
        }
        lines.append(
            say(rng, "({D} {v} {a} {x} {w} {n}.|{N}, {d} {v} {a} {x} {w}.|{D} {v} {a} {x} {n}, {w}.)", **values)
        )
        asks += [
            Ask(
                say(rng, "Who {v} (something|{a} {x}|the {x})?", **values), doer, f"Name the one who {did} the {what}."
            ),
            Ask(
                say(rng, "What was {v} by {d}?" if did in _PARTICIPLES else "(What|Which thing) was {t}?", **values),
                what,
                f"Name the thing that was {trait}.",
            ),
            Ask(say(rng, "(Where was|In what place was) {d}?", **values), where, f"In which spot do we see {doer}?"),
            Ask(
                say(rng, "When was that( with {d}|, the thing with the {x})?", **values),
                when,
                f"At what moment do we see {doer}?",
            ),
            Ask(
                say(rng, "(How was|What was special about) the {x}?", **values),
                trait,
                f"Which word describes the {what}?",
            ),
        ]
    asks = [ask for i, ask in enumerate(asks) if ask.question not in {a.question for a in asks[:i]}]
    return Passage(" ".join(lines), asks)


@cache
def drill_words() -> tuple[str, ...]:
    """List every common word once, for drills in copying."""
    lists = (NOUNS, ADJECTIVES, VERBS, PEOPLE, words.THINGS, words.COLOURS, words.PRODUCTS, words.DISHES, words.ROOMS)
    more = (words.PLACES, words.MATERIALS, words.DAYS, words.MONTHS, words.TRAITS, words.HOBBIES)
    return tuple(dict.fromkeys(word for group in lists + more for word in group))
