"""What training and serving must do identically: numpy and the standard library only."""

__version__ = "0.1.0"
