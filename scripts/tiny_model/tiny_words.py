"""Plain English for the tiny tokenizer, so that other questions do not fall apart into bytes."""

ENGLISH = """
What color is the shape? What is the color of the circle? What shape is in the image? What shape
is present? what color is the shape? what is the color of the rectangle? what shape does the image
contain? Is there a red shape in the image? Does the image contain a blue triangle? Is no green
circle present? is there not a black shape? does the image not contain a rectangle? is a gray
shape present? yes no Yes, there is. No, there is not. The answer is yes. The answer is no. not
none some any all every each red green blue yellow black gray grey teal brown white orange purple
pink color colors colour colours circle triangle rectangle square line point shape shapes bar bars
letter letters number numbers digit digits Which is larger, the left one or the right one? Which
is the longest, the shortest, the tallest, the smallest? How many are there? How much is it in
all? How far is it? How long is it? Count the pictures and add them up. The sum of two numbers,
the difference, the product, the half, the double, the first, the second, the third. one two three
four five six seven eight nine ten eleven twelve twenty hundred thousand zero If this is true then
that is false, because we know the rule. Therefore we have to check it again. So it is. Wait, that
is wrong. Let me check it once more. I see what is in the picture. I think that it is right. Look
at the table. Each row has a name and a value. The values in the columns of the chart are shown
below. First, second, next, then, now, after, before, last, finally, above, below, between, under,
over, near, next to He was with her when they came to his house for the first time, and she said
that it would be a good day. You can use this for your own work, but who will make it, where, when
and why? People do many such things. There were more of them than of us, and most of these have
been found by other people in the same place. We could see the water, the light, the sun, the
hand, the door, the road, the tree, the small animal, the car. a an the of and to in is it that
for on are as with his they at be this from have or by had not but what all were when we there can
an your which their said if do will each about how up out them then she many some so these would
other into has more her two like him see time could no make than been its who now people my made
over did down only way find use may water long little very after words called just where most know
get through back much before go good new write our used me man too any day same right look think
also around another came come work three word must because does part even place well such here
take why things help put years different away again off went old number great tell men say small
every found still name should home big give air line set own under read last never us left end
along while might next sound below saw something thought both few angle area length width height
side sides center equal equals plus minus times divided percent total average question answer
problem solution step steps choice option correct wrong final result value unknown maximum minimum
draw drawn show shows shown figure diagram graph axis degree degrees distance speed price cost
money time hours
""".strip().split("\n")
