"""What the passes did: a row a pass, and the text of the graph before and after it."""
