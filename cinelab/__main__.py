from cinelab.cli import main

main()
