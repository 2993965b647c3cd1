"""The heavy half: from interactions to a verified bundle (torch, transformers, peft, optimum)."""
