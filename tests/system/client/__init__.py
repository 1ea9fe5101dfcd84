"""Jobs through a whole service: fairness, back-pressure, crashes, outages, invalid input."""
