"""`python -m corella_edge`."""

from corella_edge.cli import main

main()
