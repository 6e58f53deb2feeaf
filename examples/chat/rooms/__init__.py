"""Chat rooms, an upload page and a streamed page."""
