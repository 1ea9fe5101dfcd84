"""OpenAI's files and batches, as their clients speak to them: uploads that are streamed, and bulks over them."""
