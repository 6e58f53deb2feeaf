"""The kinds of applications that a server serves; each package translates between one interface and the server."""
