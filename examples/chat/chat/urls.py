"""The pages of the site."""

from django.contrib import admin
from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("accounts/", include("django.contrib.auth.urls")),
    path("", include("rooms.urls")),
]
# Served by Django while DEBUG is on; in production by the web server in front, from `manage.py collectstatic`.
urlpatterns += staticfiles_urlpatterns()
