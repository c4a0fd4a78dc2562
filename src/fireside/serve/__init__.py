"""Servers: HTTP in the dialects of OpenAI and CosyVoice, WebSocket, gRPC, a page. Needs the extra `serve`."""
