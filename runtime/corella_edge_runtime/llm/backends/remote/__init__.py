"""The LLM on a server elsewhere: which one (address.py), how it is spoken to (flavours.py), and by whom (client.py)."""
