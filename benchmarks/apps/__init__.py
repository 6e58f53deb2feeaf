"""The applications under the load: the same consumers, served by each server in its own way."""
