"""RAG evaluation: from an index and questions to contexts, answers, and measures with and without judges."""
