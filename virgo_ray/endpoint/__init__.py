"""Chat endpoints that speak the OpenAI protocol."""
