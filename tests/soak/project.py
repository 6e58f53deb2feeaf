"""The entry point of the site whose inline workers are those of Channels."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.soak.settings")

from channels.asgi import get_channel_layer

channel_layer = get_channel_layer()
