"""Jobs in Redis: submitted, claimed, finished, listed, ended in time."""
