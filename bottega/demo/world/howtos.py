"""Twenty how-tos: a goal and its five steps, indented. Left out: pictures."""

_HOWTO_TEXT = """
brew mint tea
    rinse the pot
    crush the mint leaves
    pour hot water over them
    cover the pot
    strain the tea into cups
mend a bicycle tyre
    turn the bicycle over
    take off the wheel
    find the hole
    glue a patch over it
    pump air into the tyre
plant onions
    loosen the soil
    draw a straight row
    set the bulbs a hand apart
    press the earth down
    water the row in the evening
polish a brass bell
    wipe off the dust
    mix vinegar with salt
    rub the bell with a rag
    rinse it in warm water
    dry it well
pack a parcel
    choose a firm box
    wrap the goods in paper
    fill the gaps with straw
    close the lid with tape
    write the address on top
fold a paper boat
    take a sheet of paper
    fold it in half
    bend both corners inward
    turn the edges up
    pull the sides apart
light a stove
    open the flap
    lay twigs on the grate
    put two dry logs on top
    strike a match
    close the door when it burns
bake an apricot cake
    beat butter with sugar
    add three eggs
    stir in the flour
    lay the fruit on the dough
    bake it until golden
wash a wool scarf
    fill a bowl with cool water
    add a little soap
    press the scarf gently
    rinse it twice
    let it dry flat
row a boat
    sit with your back to the bow
    dip both oars
    pull them toward your chest
    lift them out
    repeat in a steady rhythm
catch a swarm of bees
    put on gloves and a veil
    hold a basket under the branch
    shake the branch once
    cover the basket
    carry it to the hive
set a mouse trap
    place cheese on the hook
    pull the spring back
    fasten the bar
    slide the trap along the wall
    look again at dawn
whitewash a wall
    scrape off the old paint
    brush away the dust
    mix lime with water
    spread the first coat
    wait a day before the second
sharpen a chisel
    wet the stone
    hold the blade at a low angle
    push it forward slowly
    turn it over
    test the edge on paper
cook leek soup
    slice the leeks
    melt butter in a pan
    stir until they soften
    add water and salt
    simmer for half an hour
store apples
    pick them on a dry day
    sort out bruised ones
    lay them in rows
    keep them cool and dark
    check them every week
bind a book
    stack the pages
    mark five holes
    sew them with strong thread
    glue the spine
    press it under a heavy stone
read a map
    find north
    look for the river
    count the bridges
    measure the distance
    choose the shortest road
tune a violin
    tighten the bow
    listen to the low string
    turn the peg a little
    compare it with a fork
    do the same for every string
milk a goat
    warm your hands
    clean the udder
    squeeze from top to bottom
    keep the bucket still
    praise the goat
"""


def _howtos() -> dict[str, tuple[str, ...]]:
    """Read goals and their indented steps."""
    result: dict[str, tuple[str, ...]] = {}
    for line in _HOWTO_TEXT.strip().splitlines():
        if not line.startswith(" "):
            goal, result[line] = line, ()
        else:
            result[goal] += (line.strip(),)
    return result


HOWTOS = _howtos()
