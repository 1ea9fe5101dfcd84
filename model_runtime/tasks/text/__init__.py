"""Tasks for text: embedding, classification, entities and ranking, with the tokenizer of the model's folder."""
