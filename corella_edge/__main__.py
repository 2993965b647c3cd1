from corella_edge.cli import main

main()
