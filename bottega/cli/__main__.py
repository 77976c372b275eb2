"""`python -m bottega.cli`, for launchers such as torchrun that start a module.

Left out: everything else.
"""

from bottega.cli import main

main()
