"""HTTP/1.1 and 1.0: from a transport's bytes to requests, and from responses to bytes."""
