"""An OpenAI-compatible server over the engine; see README.md."""
