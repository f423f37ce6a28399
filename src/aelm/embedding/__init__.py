"""From files to embeddings: which model, how pictures reach it, and the folder that keeps what it says."""
