"""`python -m proxy` is the command `mqk`."""

from proxy.cli import main

main()
