"""Routes that answer texts in the same request: OpenAI's embeddings, and rerank as Jina and Cohere have it."""
