"""From embeddings to answers: galleries, what makes two pictures similar, and the page that shows it."""
