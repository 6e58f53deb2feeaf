"""The site's data in Django's admin pages."""

from django.contrib import admin

from .models import Message, Room, Upload

admin.site.register(Room, list_display=["name", "slug", "topic"])
admin.site.register(Message, list_display=["room", "user", "text", "sent"], list_filter=["room"])
admin.site.register(Upload, list_display=["name", "user", "size", "sha256", "sent"])
