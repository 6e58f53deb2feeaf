"""Addresses of the pages."""

from django.urls import path

from . import views

app_name = "rooms"

urlpatterns = [
    path("", views.index, name="index"),
    path("rooms/new/", views.new_room, name="new_room"),
    path("rooms/<slug:slug>/", views.room, name="room"),
    path("uploads/", views.uploads, name="uploads"),
    path("uploads/<int:pk>/", views.download, name="download"),
    path("stream/", views.stream, name="stream"),
    path("stream/lines/", views.lines, name="lines"),
]
