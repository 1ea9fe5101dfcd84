"""One gateway process: what it holds, and what goes on in it beside requests."""
