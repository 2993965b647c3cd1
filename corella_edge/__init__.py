"""What training and serving must do identically: numpy, msgspec and the standard library only."""

__version__ = "0.1.0"
