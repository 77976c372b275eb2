"""The word lists of the invented world: plain data, one space between words, no code beyond splitting.

Left out: anything with a rule in it (names are made in `phrase.py`, facts in `facts.py`).
"""


def _table(text: str) -> dict[str, tuple[str, ...]]:
    """Read lines of `key: value, value` into a dict, in order."""
    rows = (line.split(":") for line in text.strip().splitlines())
    return {key.strip(): tuple(part.strip() for part in rest.split(",")) for key, rest in rows}


WOMEN = tuple(
    """Agata Beata Celia Delia Edith Fiona Gilda Helga Ingrid Jolanda Klara Livia Marta Nadia Odette Petra Quirina
    Renata Silvia Teresa Ursula Viola Wanda Xenia Yvonne Zita Amelia Bruna Carla Daria Elvira Flora Gemma Hedwig
    Irma Judith Katja Loretta Mirella Noemi""".split()
)
MEN = tuple(
    """Aldo Bruno Cesare Dino Ernst Fabio Gino Harald Igor Jonas Kaspar Lorenz Marco Nils Osvald Pietro Quentin
    Rocco Sergio Tobias Ulrich Valerio Walter Xavier Yannick Zeno Anton Benno Conrad Dario Emil Franco Gustav
    Henrik Ivo Joachim Klaus Lothar Mario Nestor""".split()
)
# name: kind, home, food, sound, trait
ANIMALS = _table(
    """otter: mammal, river, crabs, whistles, playful
badger: mammal, wood, worms, snorts, stubborn
hedgehog: mammal, hedge, beetles, snuffles, prickly
squirrel: mammal, wood, acorns, chatters, nimble
donkey: mammal, stable, thistles, brays, patient
lynx: mammal, mountain, hares, yowls, silent
beaver: mammal, lake, bark, slaps, busy
moose: mammal, swamp, twigs, bellows, enormous
mole: mammal, meadow, grubs, scratches, blind
bat: mammal, cave, moths, clicks, nocturnal
seal: mammal, coast, herring, barks, sleek
reindeer: mammal, tundra, lichen, grunts, hardy
ferret: mammal, burrow, eggs, chuckles, curious
mule: mammal, stable, oats, whinnies, sturdy
heron: bird, marsh, frogs, croaks, graceful
magpie: bird, orchard, cherries, rattles, cunning
swallow: bird, barn, gnats, twitters, swift
stork: bird, chimney, snails, clatters, tall
robin: bird, garden, berries, chirps, bold
raven: bird, cliff, scraps, caws, clever
goose: bird, pond, clover, honks, watchful
sparrow: bird, roof, crumbs, tweets, common
gull: bird, harbour, sardines, screams, greedy
cuckoo: bird, forest, caterpillars, calls, sly
toad: amphibian, cellar, slugs, trills, warty
newt: amphibian, ditch, larvae, squeaks, tiny
salamander: amphibian, spring, spiders, hisses, spotted
lizard: reptile, wall, crickets, rustles, quick
adder: reptile, heath, voles, hisses, venomous
tortoise: reptile, island, lettuce, sighs, ancient
cricket: insect, field, grass, sings, lively
wasp: insect, attic, jam, hums, fierce
beetle: insect, log, fungus, ticks, shiny
dragonfly: insect, canal, midges, whirs, elegant
firefly: insect, grove, dew, glows, gentle
trout: fish, stream, flies, splashes, speckled
pike: fish, reservoir, perch, lurks, hungry
salmon: fish, rapids, shrimp, leaps, strong
eel: fish, estuary, mussels, slithers, slippery
snail: mollusc, wall, leaves, crawls, slow"""
)
# name: material, use, room
TOOLS = _table(
    """chisel: steel, carve wood, workshop
kettle: copper, boil water, kitchen
lantern: brass, light the path, porch
spindle: ash, spin wool, loft
trowel: iron, spread mortar, shed
sieve: tin, sift flour, pantry
quill: feather, write letters, study
thimble: silver, protect a finger, parlour
bellows: leather, feed a fire, forge
anchor: iron, hold a ship, quay
scythe: steel, mow hay, barn
telescope: brass, watch stars, tower
compass: brass, find north, cabin
ladle: pewter, serve soup, kitchen
rake: bamboo, gather leaves, shed
mortar: marble, crush herbs, pharmacy
sledge: birch, cross snow, yard
barrel: oak, store cider, cellar
saddle: leather, ride a horse, stable
flute: reed, play tunes, chapel
umbrella: silk, keep off rain, hall
hourglass: glass, measure time, study
pitcher: clay, pour milk, dairy
shears: steel, clip wool, barn
whistle: bone, call a dog, porch
hammock: cotton, rest outdoors, terrace
crate: pine, carry bottles, warehouse
plane: beech, smooth boards, workshop
wheelbarrow: elm, move soil, greenhouse
funnel: tin, fill bottles, cellar
pulley: iron, lift loads, warehouse
loom: maple, weave cloth, loft
tongs: iron, grip coal, forge
magnet: cobalt, pick up pins, laboratory
scales: bronze, weigh spice, pharmacy
oar: spruce, row a boat, quay"""
)
# name: kind, colour, taste
FOODS = _table(
    """apricot: fruit, orange, sweet
quince: fruit, yellow, tart
fig: fruit, purple, honeyed
gooseberry: fruit, green, sour
mulberry: fruit, black, juicy
melon: fruit, pale green, watery
blackcurrant: fruit, black, tangy
raspberry: fruit, pink, fragrant
leek: vegetable, green, mild
radish: vegetable, red, peppery
turnip: vegetable, white, earthy
spinach: vegetable, dark green, bitter
pumpkin: vegetable, orange, mellow
fennel: vegetable, white, aniseed
artichoke: vegetable, grey green, nutty
parsnip: vegetable, cream, sweet
walnut: nut, brown, oily
hazelnut: nut, tan, toasty
almond: nut, beige, delicate
chestnut: nut, chocolate, floury
rosemary: herb, blue green, piny
saffron: spice, gold, musky
ginger: spice, straw, hot
cinnamon: spice, rust, woody"""
)
# job: workplace, tool, task
JOBS = _table(
    """cooper: barrel yard, mallet, makes barrels
glazier: glass shop, cutter, fits windows
chandler: candle house, wick, makes candles
cobbler: shoe stall, awl, mends shoes
miller: mill, millstone, grinds grain
ferryman: landing, pole, carries travellers
beekeeper: apiary, smoker, gathers honey
printer: print shop, press, prints posters
shepherd: pasture, crook, guards sheep
chemist: pharmacy, balance, mixes remedies
mason: quarry, trowel, cuts stone
saddler: tack room, punch, stitches saddles
postman: post office, satchel, delivers letters
locksmith: key shop, file, opens locks
forester: lodge, axe, marks trees
lamplighter: lamp store, torch, lights streets
cartographer: map room, compass, draws maps
watchmaker: clock shop, loupe, repairs watches
brewer: brewery, vat, brews beer
harbourmaster: pier, flag, directs ships
tinsmith: smithy, snips, shapes tin
violinist: concert hall, bow, plays sonatas
botanist: greenhouse, magnifier, studies plants
archivist: archive, ledger, keeps records"""
)
COLOURS = tuple(
    "red blue green yellow white black brown grey purple orange pink silver crimson teal amber violet".split()
)
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
MONTHS = tuple("January February March April May June July August September October November December".split())
SEASONS = ("spring", "summer", "autumn", "winter")
METALS = tuple("iron copper brass bronze silver tin steel nickel zinc lead".split())
MATERIALS = tuple(
    "oak pine glass wool clay leather linen marble brick straw paper cork wax rubber cotton velvet slate".split()
)
PRODUCTS = tuple(
    """cheese lace glass salt honey paper pottery rope cider tiles soap ink mustard candles baskets clocks carpets
    bricks gloves oil barrels flutes umbrellas buttons needles kettles ribbons vinegar boots hats""".split()
)
ORGS = tuple(
    """mill bakery library school museum inn market station theatre hospital brewery laboratory garage dairy nursery
    observatory lighthouse academy clinic tannery foundry printworks boatyard vineyard orchard cannery warehouse
    hostel aquarium quarry archive depot studio choir guild club bank archive ferry circus gallery kitchen""".split()
)
ROOMS = tuple(
    """hall kitchen cellar office tower yard attic library workshop pantry stable garage chapel porch corridor lobby
    basement loft greenhouse laundry archive shed courtyard gallery balcony vault canteen studio""".split()
)
THINGS = tuple(
    """key lamp rope bucket ladder broom coat map ticket badge helmet apron glove torch bell drum flag basket box
    bottle cup spoon plate knife hammer nail saw brush pen notebook ledger stamp parcel letter blanket pillow mirror
    clock chair table bench wheel cart barrel sack net hook candle match whistle ring coin button thread needle
    scarf boot hat belt pipe kite ball doll puzzle violin trumpet banner medal vase jug tray kettle pot pan oven
    saddle harness sledge boat oar sail anchor compass lens radio battery cable switch valve pump filter""".split()
)
PLACES = tuple(
    """garden harbour forest market bridge meadow station square beach mill tower orchard lake church school field
    cave hill river island barn bakery library castle valley canal pier village park fountain""".split()
)
FEELINGS = tuple(
    "happy sad angry tired proud afraid lonely calm surprised hungry nervous cheerful bored grateful worried".split()
)
TRAITS = tuple(
    """small large quiet noisy old new bright dark narrow wide heavy light warm cold clean dusty round flat tall low
    soft hard dry wet plain fine rough smooth deep shallow early late rare common gentle strong""".split()
)
DISHES = tuple(
    """soup bread stew rice pasta salad porridge pie omelette dumplings pancakes beans sausages fish cake fruit
    cheese noodles potatoes lentils curry pudding waffles jam""".split()
)
VEHICLES = tuple("bus tram boat bicycle train cart van ferry truck horse sledge motorcycle".split())
HOBBIES = tuple(
    """chess fishing painting singing dancing archery gardening swimming juggling knitting sailing climbing
    baking fencing rowing pottery astronomy skating""".split()
)
BREEDS = tuple("bird fish beetle moth frog lizard goat pony hound cat spider crab snail bat weasel duck".split())
PLANTS = tuple("moss fern shrub herb vine lily cactus reed mushroom tree bush grass thistle orchid clover bean".split())
PARTS = tuple("root leaf flower seed bark stem berry resin fruit bulb".split())
AILMENTS = tuple("cough fever headache rash toothache cramp cold burn earache sneeze itch fatigue".split())
MINERALS = tuple("quartz coal salt amber jade chalk sulphur gypsum silver tin gold copper".split())
WEATHER = tuple("rainy sunny foggy windy cloudy snowy stormy mild frosty misty humid clear".split())
GOOD = tuple(
    "wonderful lovely friendly perfect delicious charming splendid spotless excellent superb cosy delightful".split()
)
BAD = tuple("terrible awful rude dreadful dirty boring horrible filthy stale disappointing shabby useless".split())
FODDER = tuple("seeds leaves worms berries moss insects grass roots honey snails nuts sap".split())
