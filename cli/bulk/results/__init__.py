"""Result files of a bulk run: rows, the journal with its state, and retries."""
