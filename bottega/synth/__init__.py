"""From a taxonomy of small leaves to data that teaches: reading, checking and mending leaves and what they point to.

Left out: the teacher and its flows, which read what this room checks.
"""
