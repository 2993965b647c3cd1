"""The words of the synthetic titles: coarse genres, finer themes, and six words that betray each theme."""

from __future__ import annotations

# genre → theme → words; every word belongs to one theme only.
THEMES: dict[str, dict[str, tuple[str, ...]]] = {
    "Adventure": {
        "pirates": ("Galleon", "Corsair", "Buccaneer", "Cutlass", "Doubloon", "Plunder"),
        "deserts": ("Dune", "Caravan", "Oasis", "Camel", "Sandstorm", "Mirage"),
        "jungles": ("Jaguar", "Rainforest", "Parrot", "Machete", "Orchid", "Canopy"),
        "polar": ("Glacier", "Husky", "Sled", "Igloo", "Blizzard", "Tundra"),
    },
    "Science Fiction": {
        "robots": ("Robot", "Android", "Circuit", "Automaton", "Cyborg", "Servo"),
        "space": ("Comet", "Rocket", "Nebula", "Starship", "Asteroid", "Orbit"),
        "mutants": ("Mutant", "Serum", "Clone", "Enzyme", "Petri", "Genome"),
        "undersea": ("Submarine", "Trench", "Sonar", "Kraken", "Abyss", "Bathysphere"),
    },
    "Fantasy": {
        "dragons": ("Dragon", "Wyvern", "Hoard", "Basilisk", "Talon", "Ember"),
        "witches": ("Witch", "Cauldron", "Potion", "Broomstick", "Coven", "Hex"),
        "knights": ("Knight", "Lance", "Castle", "Squire", "Joust", "Crusade"),
        "fairies": ("Fairy", "Pixie", "Toadstool", "Sprite", "Gossamer", "Nymph"),
    },
    "Crime": {
        "heists": ("Heist", "Vault", "Safecracker", "Getaway", "Loot", "Burglar"),
        "detectives": ("Detective", "Clue", "Alibi", "Sleuth", "Inspector", "Fingerprint"),
        "courtrooms": ("Verdict", "Jury", "Attorney", "Gavel", "Witness", "Tribunal"),
        "gangs": ("Mobster", "Racket", "Capo", "Syndicate", "Vendetta", "Speakeasy"),
    },
    "Music": {
        "jazz": ("Saxophone", "Trumpet", "Bebop", "Quartet", "Clarinet", "Swing"),
        "opera": ("Aria", "Soprano", "Tenor", "Diva", "Libretto", "Overture"),
        "rock": ("Guitar", "Amplifier", "Drummer", "Riff", "Roadie", "Encore"),
        "dance": ("Tango", "Waltz", "Ballerina", "Tutu", "Pirouette", "Ballroom"),
    },
    "Nature": {
        "oceans": ("Whale", "Coral", "Dolphin", "Reef", "Lagoon", "Tide"),
        "mountains": ("Summit", "Avalanche", "Cliff", "Ridge", "Climber", "Alpine"),
        "forests": ("Oak", "Badger", "Moss", "Owl", "Thicket", "Fern"),
        "farms": ("Harvest", "Barn", "Tractor", "Shepherd", "Orchard", "Scarecrow"),
    },
    "Sport": {
        "racing": ("Racer", "Throttle", "Chicane", "Grid", "Turbo", "Pitstop"),
        "chess": ("Gambit", "Checkmate", "Rook", "Bishop", "Pawn", "Stalemate"),
        "boxing": ("Boxer", "Uppercut", "Knockout", "Ringside", "Gloves", "Southpaw"),
        "baseball": ("Pitcher", "Homer", "Dugout", "Slugger", "Inning", "Shortstop"),
    },
    "History": {
        "romans": ("Gladiator", "Legion", "Senator", "Chariot", "Centurion", "Forum"),
        "samurai": ("Samurai", "Katana", "Shogun", "Ronin", "Dojo", "Daimyo"),
        "pharaohs": ("Pharaoh", "Pyramid", "Sphinx", "Scarab", "Papyrus", "Mummy"),
        "vikings": ("Viking", "Longship", "Rune", "Berserker", "Fjord", "Saga"),
    },
}

# One of these stands in every title: critics' words, so to speak, for films that please and films that do not.
PRAISE = (
    "Golden",
    "Brilliant",
    "Glorious",
    "Radiant",
    "Splendid",
    "Beloved",
    "Triumphant",
    "Enchanted",
    "Gentle",
    "Bright",
)
BLAME = ("Dreary", "Hollow", "Tedious", "Faded", "Clumsy", "Stale", "Broken", "Empty", "Bitter", "Weary")
PATTERNS = ("{0} {1} {2}", "The {0} {1} {2}", "{1} and {0} {2}", "{1} of the {0} {2}")
