"""The recipe `generic`, made for the prepared data at hand: their fields, words and sizes, with the reason of each."""
