"""Items' text vectors: made by a sentence encoder or a language model, and the encoder's way into a bundle."""
