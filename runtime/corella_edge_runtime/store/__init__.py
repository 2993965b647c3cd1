"""Users with memory: profiles and histories in one SQLite file. The only folder that knows sqlite3."""
