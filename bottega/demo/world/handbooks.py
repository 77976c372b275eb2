"""What an invented organisation's handbook can say: blocks of wordings, read by `themes.py`.

Left out: values; each block names the kind of value it takes, and `reading.py` makes it.
"""

ORGANISATION = """
open = hour
+ {S} opens at {v}.
+ (The doors|The gates) of {s} open at {v}( every morning|).
+ Work at {s} (starts|begins) at {v}.
? (When|At what time) does {s} open?
? When (do the doors of {s} open|does work at {s} begin)?
! At which hour does {s} open its doors?
close = hour
+ {S} closes at {v}.
+ (Everybody|Everyone) (goes home|leaves) at {v}.
+ The (last bell|closing bell) rings at {v}.
? (When|At what time) does {s} close?
? When does (everybody leave {s}|the last bell ring at {s})?
! At which hour does {s} close its doors?
leader = person
+ {v} (leads|manages|runs|directs) {s}.
+ The (head|director|manager) of {s} is {v}.
+ {S} is (led|run|managed) by {v}.
? Who (leads|manages|runs|directs) {s}?
? Who is (the head|the director|in charge) of {s}?
! What is the name of the person who leads {s}?
founder = person
+ {v} (founded|started) {s}.
+ {S} was (founded|started) by {v}.
? Who (founded|started) {s}?
? By whom was {s} founded?
! What is the name of the founder of {s}?
staff = count
+ {v} people work at {s}.
+ {S} (has|employs) {v} workers.
+ The team of {s} counts {v} people.
? How many (people work at|workers are there at) {s}?
? How many (people|workers) does {s} (have|employ)?
! What is the number of workers at {s}?
town = place
+ {S} (is|stands|lies) in {v}.
+ You (will|can) find {s} in {v}.
+ The address of {s} is in {v}.
? (Where|In which town) is {s}?
? Where can (you|I|we) find {s}?
! In what town does {s} lie?
product = product
+ {S} (makes|sells|is known for) {v}.
+ The best (thing|goods) from {s} (is|are) {v}.
+ People (visit|know) {s} for its {v}.
? What does {s} (make|sell)?
? (What|Which product) is {s} known for?
! Which thing do people buy at {s}?
rest = day
+ {S} is closed on {v}.
+ (Nobody|No one) works there on {v}.
+ {v} is the day of rest at {s}.
? On which day is {s} closed?
? (When|On what day) does nobody work at {s}?
! What is the day of rest at {s}?
meeting = day
+ The (weekly|team) meeting is on {v}.
+ Everyone meets on {v}.
? On which day is the (weekly|team) meeting at {s}?
? When (does everyone meet|is the meeting) at {s}?
! Which day is the meeting day of {s}?
colour = colour
+ Workers wear {v} (coats|jackets|aprons).
+ The uniform of {s} is {v}.
+ Everyone at {s} must wear {v}.
? What colour (is the uniform of|do workers wear at) {s}?
? Which colour must everyone wear at {s}?
! What is the colour of the uniform at {s}?
door = colour
+ The front door is {v}.
+ {S} has a {v} (front |)door.
? What colour is the (front |)door of {s}?
? Which colour does the (front |)door of {s} have?
! What is the colour of the door at {s}?
key = room
+ The spare key (is kept|hangs) in the {v}.
+ Look in the {v} for the spare key.
? Where (is|hangs) the spare key of {s}?
? In which room is the key kept at {s}?
! Where would you look for the key at {s}?
alarm = room
+ In case of fire, (go to|meet in) the {v}.
+ The (fire|alarm) meeting point is the {v}.
? Where (do people go|should you go) in case of fire at {s}?
? What is the (fire|alarm) meeting point of {s}?
! Where is the meeting point when there is a fire at {s}?
phone = code
+ The (phone|telephone) number is {v}.
+ (Call|Ring) {v} to reach {s}.
? What is the (phone|telephone) number of {s}?
? Which number (reaches|do you call for) {s}?
! What number should I call to reach {s}?
password = name
+ The (password|secret word) is {v}.
+ Say {v} at the (gate|desk) to enter.
? What is the (password|secret word) of {s}?
? Which word do you say to enter {s}?
! Which password does {s} use?
ticket = price
+ A ticket costs {v}.
+ Visitors pay {v}.
? (How much does|What does) a ticket cost at {s}?
? How much do visitors pay at {s}?
! What is the price of a ticket at {s}?
age = years
+ {S} is {v} old.
+ {S} was built {v} ago.
? How old is {s}?
? How long ago was {s} built?
! What is the age of {s}?
animal = animal
+ The (mascot|animal) of {s} is {v}.
+ {v} lives at {s}.
? What is the (mascot|animal) of {s}?
? Which animal lives at {s}?
! Which mascot does {s} have?
lunch = dish
+ (Lunch|The midday meal) is (always |){v}.
+ At noon the cooks serve {v}.
? What is (for lunch|the midday meal) at {s}?
? What do the cooks serve at noon at {s}?
! Which dish do people eat at noon at {s}?
tool = thing
+ Every (worker|guest) (gets|receives) {v}.
+ New people are given {v} on the first day.
? What does every (worker|guest) (get|receive) at {s}?
? What are new people given at {s}?
! What will a new worker receive at {s}?
parking = room
+ Leave your bicycle in the {v}.
+ The {v} is the place for bicycles.
? Where do you leave your bicycle at {s}?
? Which place is for bicycles at {s}?
! Where should bicycles go at {s}?
travel = vehicle
+ The (easiest|best) way to {s} is by {v}.
+ Most people come by {v}.
? What is the (easiest|best) way to {s}?
? How do most people (come to|reach) {s}?
! By what do people travel to {s}?
trainer = person
+ {v} (trains|teaches) the new people.
+ New workers (learn|are trained) from {v}.
? Who (trains|teaches) the new people at {s}?
? From whom do new workers learn at {s}?
! Who is the trainer at {s}?
fair = month
+ The open day is in {v}.
+ Every {v}, {s} holds its open day.
? When is the open day of {s}?
? In which month does {s} hold its open day?
! Which month has the open day of {s}?
floor = floor
+ The office is on floor {v}.
+ Go to floor {v} for the office.
? On which floor is the office of {s}?
? To which floor do you go for the office of {s}?
! What floor is the office of {s} on?
"""
