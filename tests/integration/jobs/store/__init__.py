"""The scripts of the store: submit to finish, maintenance, dead letters, costs and bounds."""
