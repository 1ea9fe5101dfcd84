"""Job store on Redis: admission, submit, claim, finish, listing, maintenance, dead letters, events."""
