"""Routes of OpenAI's Files and Batch APIs: streamed uploads, and bulk jobs over the uploaded files."""
