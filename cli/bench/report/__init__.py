"""Reports of a measurement: table, JSON and plot."""
