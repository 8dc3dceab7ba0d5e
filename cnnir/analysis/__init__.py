"""What can be said of a graph without running it: work and size by layer, receptive fields.

Reads graphs and ops alone; how anything is shown is in `report`.
"""
