"""What entries about invented machines, persons, places and species can say: blocks of wordings, read by `themes.py`.

Left out: values, as in `handbooks.py`.
"""

MACHINE = """
maker = person
+ {v} (designed|invented|built) {s}.
+ {S} was (designed|invented|built) by {v}.
? Who (designed|invented|built) {s}?
? By whom was {s} (designed|invented)?
! What is the name of the inventor of {s}?
weight = kilos
+ {S} weighs {v}.
+ The weight of {s} is {v}.
? (How much does {s} weigh|How heavy is {s})?
? What is the weight of {s}?
! What weight does {s} have?
price = price
+ {S} costs {v}.
+ The price of {s} is {v}.
? How much does {s} cost?
? What is the price of {s}?
! How many coins do you pay for {s}?
material = material
+ {S} is made of {v}.
+ The (body|case) of {s} is made from {v}.
? What is {s} made of?
? From what material is {s} made?
! Which material is used for {s}?
start = colour
+ Press the {v} button to start( it|).
+ The {v} button starts {s}.
? Which button starts {s}?
? What colour is the start button of {s}?
! Which button do you press to start {s}?
stop = colour
+ Pull the {v} lever to stop( it|).
+ The {v} lever stops {s}.
? Which lever stops {s}?
? What colour is the stop lever of {s}?
! Which lever do you pull to stop {s}?
clean = day
+ Oil it every {v}.
+ {S} must be oiled on {v}.
? When must {s} be oiled?
? On which day do you oil {s}?
! Which day is the oiling day of {s}?
power = minutes
+ {S} runs for {v} (on one charge|without a break).
+ After {v}, {s} must rest.
? How long does {s} run?
? After what time must {s} rest?
! For how many minutes does {s} run?
error = code
+ Code {v} means that it is too hot.
+ When {s} is too hot, it shows {v}.
? Which code means that {s} is too hot?
? What does {s} show when it is too hot?
! Which code does {s} show for heat?
store = room
+ Keep {s} in the {v}.
+ The right place for {s} is the {v}.
? Where (should you|do you) keep {s}?
? What is the right place for {s}?
! In which room should {s} be kept?
spare = thing
+ It is sold together with {v}.
+ In the box of {s} there is also {v}.
? What is {s} sold together with?
? What else is in the box of {s}?
! What comes in the box with {s}?
use = product
+ {S} is (used for|good for) making {v}.
+ With {s}, workers (make|prepare) {v}.
? What is {s} used for making?
? What do workers (make|prepare) with {s}?
! Which thing can be made with {s}?
"""

PERSON = """
job = job
+ {s} (is|works as) {v}.
+ By trade, {s} is {v}.
? What is the (job|trade|work) of {s}?
? What does {s} do for work?
! Which job does {s} have?
home = place
+ {s} (lives in|has a house in) {v}.
+ The home of {s} is in {v}.
? Where does {s} live?
? In which town is the (home|house) of {s}?
! What is the home town of {s}?
birth = place
+ {s} was born in {v}.
+ The birthplace of {s} is {v}.
? Where was {s} born?
? What is the birthplace of {s}?
! In which town was {s} born?
friend = person
+ The best friend of {s} is {v}.
+ {s} often (visits|writes to) {v}.
? Who is the best friend of {s}?
? Whom does {s} often (visit|write to)?
! What is the name of the best friend of {s}?
pet = animal
+ {s} (has|keeps) {v}.
+ The pet of {s} is {v}.
? (What|Which) pet does {s} (have|keep)?
? What is the pet of {s}?
! Which animal does {s} keep at home?
hobby = hobby
+ {s} (loves|enjoys) {v}.
+ The hobby of {s} is {v}.
? What does {s} (love|enjoy)?
? (What|Which) is the hobby of {s}?
! Which hobby does {s} have?
colour = colour
+ The favourite colour of {s} is {v}.
+ {s} always wears {v}.
? What is the favourite colour of {s}?
? (Which|What) colour does {s} always wear?
! Which colour does {s} like best?
food = dish
+ {s} likes to eat {v}.
+ The favourite (food|dish) of {s} is {v}.
? What does {s} like to eat?
? What is the favourite (food|dish) of {s}?
! Which food does {s} like best?
age = years
+ {s} is {v} old.
+ The age of {s} is {v}.
? How old is {s}?
? What is the age of {s}?
! How many years old is {s}?
book = name
+ {s} wrote a book called {v}.
+ The book {v} is by {s}.
? What is the book of {s} called?
? Which book is by {s}?
! What is the name of the book by {s}?
"""

PLACE = """
river = name
+ The river {v} flows through {s}.
+ {s} lies on the river {v}.
? Which river flows through {s}?
? On which river does {s} lie?
! What is the river of {s} called?
mayor = person
+ The mayor of {s} is {v}.
+ {v} was elected mayor of {s}.
? Who is the mayor of {s}?
? Who was elected mayor of {s}?
! What is the name of the mayor of {s}?
people = count
+ {v} families live in {s}.
+ {s} has {v} families.
? How many families live in {s}?
? How many families does {s} have?
! What is the number of families in {s}?
product = product
+ {s} is (known|famous) for its {v}.
+ The people of {s} (make|sell) {v}.
? What is {s} (known|famous) for?
? What do the people of {s} (make|sell)?
! Which product comes from {s}?
market = day
+ The market is (held |)on {v}.
+ On {v} there is a market in {s}.
? When is the market in {s}?
? On which day is there a market in {s}?
! Which day is the market day of {s}?
weather = weather
+ The weather in {s} is mostly {v}.
+ It is (often|usually) {v} in {s}.
? What is the weather in {s}?
? How is the weather (mostly|usually) in {s}?
! Which weather does {s} have?
neighbour = place
+ The next village is {v}.
+ A road leads from {s} to {v}.
? (What|Which) is the next village after {s}?
? Where does the road from {s} lead?
! Which village is next to {s}?
tower = material
+ The tower of {s} is built of {v}.
+ {s} has a tower made of {v}.
? Of what is the tower of {s} built?
? What is the tower of {s} made of?
! Which material was used for the tower of {s}?
festival = month
+ The feast of {s} is in {v}.
+ Every {v} the people of {s} hold a feast.
? When is the feast of {s}?
? In which month is the feast of {s}?
! Which month has the feast of {s}?
inn = name
+ The (only|oldest) inn is called {v}.
+ Travellers sleep at the inn {v}.
? What is the inn of {s} called?
? At which inn do travellers sleep in {s}?
! What is the name of the inn in {s}?
"""

SPECIES = """
kind = kind
+ {S} is a kind of {v}.
+ People call {s} a {v}.
? What (is|kind of thing is) {s}?
? What do people call {s}?
! Of what kind is {s}?
home = place
+ {S} (lives|is found) near {v}.
+ You can see {s} only near {v}.
? Where (is|can you find) {s}?
? Where can you see {s}?
! Near which place is {s} found?
food = product2
+ {S} (eats|feeds on) {v}.
+ The food of {s} is {v}.
? What does {s} (eat|feed on)?
? What is the food of {s}?
! Which food does {s} need?
colour = colour
+ {S} is {v}.
+ The colour of {s} is {v}.
? What colour is {s}?
? What is the colour of {s}?
! Which colour does {s} have?
size = cm
+ {S} is {v} long.
+ {S} grows to {v}.
? How long is {s}?
? To what length does {s} grow?
! What is the length of {s}?
season = season
+ {S} is seen in {v}.
+ It (comes out|appears) in {v}.
? When is {s} seen?
? In which season does {s} (come out|appear)?
! What is the season of {s}?
finder = person
+ {v} (discovered|first described) {s}.
+ {S} was (discovered|first described) by {v}.
? Who (discovered|first described) {s}?
? By whom was {s} discovered?
! What is the name of the person who discovered {s}?
trait = trait
+ {S} is very {v}.
+ Everyone knows that {s} is {v}.
? (How is {s}|What is {s} like)?
? What does everyone know about {s}?
! How would people describe {s}?
cure = ailment
+ It is used against {v}.
+ {S} helps against {v}.
? What is {s} used against?
? Against what does {s} help?
! Which illness does {s} help against?
life = years
+ {S} lives for {v}.
+ After {v}, {s} dies.
? How long does {s} live?
? After how long does {s} die?
! For how many years does {s} live?
"""
