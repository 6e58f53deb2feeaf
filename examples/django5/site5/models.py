"""The guest book."""

from django.db import models


class Entry(models.Model):
    """One entry."""

    name = models.CharField(max_length=40)
    text = models.TextField(max_length=1000)

    def __str__(self):
        return f"{self.name}: {self.text}"
