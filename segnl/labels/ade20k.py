"""ADE20K, scene-parsing benchmark: its 150 classes and their official colours.

Source: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017.
"""

from segnl.labels.table import ClassTable

# Id in a file (1..150; 0 is "other objects"), red, green, blue, name with its synonyms.
_CLASSES = """\
1 120 120 120 wall
2 180 120 120 building, edifice
3 6 230 230 sky
4 80 50 50 floor, flooring
5 4 200 3 tree
6 120 120 80 ceiling
7 140 140 140 road, route
8 204 5 255 bed
9 230 230 230 windowpane, window
10 4 250 7 grass
11 224 5 255 cabinet
12 235 255 7 sidewalk, pavement
13 150 5 61 person, individual, someone, somebody, mortal, soul
14 120 120 70 earth, ground
15 8 255 51 door, double door
16 255 6 82 table
17 143 255 140 mountain, mount
18 204 255 4 plant, flora, plant life
19 255 51 7 curtain, drape, drapery, mantle, pall
20 204 70 3 chair
21 0 102 200 car, auto, automobile, machine, motorcar
22 61 230 250 water
23 255 6 51 painting, picture
24 11 102 255 sofa, couch, lounge
25 255 7 71 shelf
26 255 9 224 house
27 9 7 230 sea
28 220 220 220 mirror
29 255 9 92 rug, carpet, carpeting
30 112 9 255 field
31 8 255 214 armchair
32 7 255 224 seat
33 255 184 6 fence, fencing
34 10 255 71 desk
35 255 41 10 rock, stone
36 7 255 255 wardrobe, closet, press
37 224 255 8 lamp
38 102 8 255 bathtub, bathing tub, bath, tub
39 255 61 6 railing, rail
40 255 194 7 cushion
41 255 122 8 base, pedestal, stand
42 0 255 20 box
43 255 8 41 column, pillar
44 255 5 153 signboard, sign
45 6 51 255 chest of drawers, chest, bureau, dresser
46 235 12 255 counter
47 160 150 20 sand
48 0 163 255 sink
49 140 140 140 skyscraper
50 250 10 15 fireplace, hearth, open fireplace
51 20 255 0 refrigerator, icebox
52 31 255 0 grandstand, covered stand
53 255 31 0 path
54 255 224 0 stairs, steps
55 153 255 0 runway
56 0 0 255 case, display case, showcase, vitrine
57 255 71 0 pool table, billiard table, snooker table
58 0 235 255 pillow
59 0 173 255 screen door, screen
60 31 0 255 stairway, staircase
61 11 200 200 river
62 255 82 0 bridge, span
63 0 255 245 bookcase
64 0 61 255 blind, screen
65 0 255 112 coffee table, cocktail table
66 0 255 133 toilet, can, commode, crapper, pot, potty, stool, throne
67 255 0 0 flower
68 255 163 0 book
69 255 102 0 hill
70 194 255 0 bench
71 0 143 255 countertop
72 51 255 0 stove, kitchen stove, range, kitchen range, cooking stove
73 0 82 255 palm, palm tree
74 0 255 41 kitchen island
75 0 255 173 computer, computing machine, computing device, data processor, electronic computer, \
information processing system
76 10 0 255 swivel chair
77 173 255 0 boat
78 0 255 153 bar
79 255 92 0 arcade machine
80 255 0 255 hovel, hut, hutch, shack, shanty
81 255 0 245 bus, autobus, coach, charabanc, double-decker, jitney, motorbus, motorcoach, omnibus, passenger vehicle
82 255 0 102 towel
83 255 173 0 light, light source
84 255 0 20 truck, motortruck
85 255 184 184 tower
86 0 31 255 chandelier, pendant, pendent
87 0 255 61 awning, sunshade, sunblind
88 0 71 255 streetlight, street lamp
89 255 0 204 booth, cubicle, stall, kiosk
90 0 255 194 television, television receiver, television set, tv, tv set, idiot box, boob tube, telly, goggle box
91 0 255 82 airplane, aeroplane, plane
92 0 10 255 dirt track
93 0 112 255 apparel, wearing apparel, dress, clothes
94 51 0 255 pole
95 0 194 255 land, ground, soil
96 0 122 255 bannister, banister, balustrade, balusters, handrail
97 0 255 163 escalator, moving staircase, moving stairway
98 255 153 0 ottoman, pouf, pouffe, puff, hassock
99 0 255 10 bottle
100 255 112 0 buffet, counter, sideboard
101 143 255 0 poster, posting, placard, notice, bill, card
102 82 0 255 stage
103 163 255 0 van
104 255 235 0 ship
105 8 184 170 fountain
106 133 0 255 conveyer belt, conveyor belt, conveyer, conveyor, transporter
107 0 255 92 canopy
108 184 0 255 washer, automatic washer, washing machine
109 255 0 31 plaything, toy
110 0 184 255 swimming pool, swimming bath, natatorium
111 0 214 255 stool
112 255 0 112 barrel, cask
113 92 255 0 basket, handbasket
114 0 224 255 waterfall, falls
115 112 224 255 tent, collapsible shelter
116 70 184 160 bag
117 163 0 255 minibike, motorbike
118 153 0 255 cradle
119 71 255 0 oven
120 255 0 163 ball
121 255 204 0 food, solid food
122 255 0 143 step, stair
123 0 255 235 tank, storage tank
124 133 255 0 trade name, brand name, brand, marque
125 255 0 235 microwave, microwave oven
126 245 0 255 pot, flowerpot
127 255 0 122 animal, animate being, beast, brute, creature, fauna
128 255 245 0 bicycle, bike, wheel, cycle
129 10 190 212 lake
130 214 255 0 dishwasher, dish washer, dishwashing machine
131 0 204 255 screen, silver screen, projection screen
132 20 0 255 blanket, cover
133 255 255 0 sculpture
134 0 153 255 hood, exhaust hood
135 0 41 255 sconce
136 0 255 204 vase
137 41 0 255 traffic light, traffic signal, stoplight
138 41 255 0 tray
139 173 0 255 ashcan, trash can, garbage can, wastebin, ash bin, ash-bin, ashbin, dustbin, trash barrel, trash bin
140 0 245 255 fan
141 71 0 255 pier, wharf, wharfage, dock
142 122 0 255 crt screen
143 0 255 184 plate
144 0 92 255 monitor, monitoring device
145 184 255 0 bulletin board, notice board
146 0 133 255 shower
147 255 214 0 radiator
148 25 194 194 glass, drinking glass
149 102 255 0 clock
150 92 0 255 flag
"""

_ROWS = [line.split(" ", maxsplit=4) for line in _CLASSES.splitlines()]

TABLE = ClassTable(
    [row[4] for row in _ROWS],
    [[int(value) for value in row[1:4]] for row in _ROWS],
    file_ids=[int(row[0]) for row in _ROWS],
    ignore_ids=[0],
    void_id=0,
    title="ade20k",
    unknown_hint="expected SceneParse150's annotations (ADEChallengeData2016), 8-bit",
)
